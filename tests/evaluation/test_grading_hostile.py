import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import pytest

from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.profiles import ANY, profile_of
from cft_lab.evaluation.workers import Limits, WorkerPool
from cft_lab.records import Outcome

Rows = Callable[[str], Iterator[dict[str, object]]]
LIMITS = Limits(seconds=1.0, memory_bytes=1 << 30)
ENDLESS = "\\sum_{k=1}^{10^{9}} \\frac{1}{k^{k}}"


def check(texts: list[str], mutations: int) -> None:
    """Grades texts and mutations; nothing may run, hang or fail, and the run must be bounded in time."""
    tasks = list(hostile.submissions(texts, mutations, seed=1))
    with WorkerPool(2, LIMITS) as pool:
        grades = grade_many(tasks, ANY, pool=pool)
        started = pool.counts.started
    assert [row.problem_id for row in grades] == [task.problem_id for task in tasks]
    assert all(row.reason for row in grades if row.outcome is Outcome.ERROR)
    assert started <= 2 + pool.counts.killed_for_time + pool.counts.died + pool.counts.left_for_memory
    assert not os.listdir(".")  # where executed code would have left its file


@pytest.mark.slow
def test_hostile_strings_and_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(list(hostile.STRINGS), mutations=300)


@pytest.mark.slow
def test_hostile_strings_of_other_projects(shared_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [str(row["text"]) for row in shared_rows("grading/hostile.jsonl")]
    monkeypatch.chdir(tmp_path)
    check(texts, mutations=200)


def test_a_worker_that_hangs_is_killed_and_only_its_item_is_an_error() -> None:
    rows = [Submission("hangs", "\\int x dx", ENDLESS, extracted=True), Submission("fine", "\\int_0^1 2x dx", "1", extracted=True)]
    started = time.monotonic()
    with WorkerPool(1, Limits(seconds=1.0)) as pool:
        hung, fine = grade_many(rows, ANY, pool=pool)
        assert pool.counts.killed_for_time == 1
        assert pool.counts.started == 2
    assert (hung.outcome, fine.outcome) == (Outcome.ERROR, Outcome.CORRECT)
    assert "longer than 1 s" in str(hung.reason)
    assert time.monotonic() - started < 60


def test_a_worker_that_needs_too_much_memory_is_replaced_and_only_its_item_is_an_error() -> None:
    bloating = "(\\int_0^1 x dx + a + b + c + d + x)^{70}"
    rows = [
        Submission("bloats", "\\int x dx", bloating, extracted=True),
        Submission("fine", "\\int_0^1 2x dx", "1", extracted=True),
    ]
    with WorkerPool(1, Limits(seconds=30.0, memory_bytes=256 << 20)) as pool:
        bloated, fine = grade_many(rows, ANY, pool=pool)
        assert pool.counts.started == 2
    assert (bloated.outcome, fine.outcome) == (Outcome.ERROR, Outcome.CORRECT)
    assert "memory" in str(bloated.reason)


def test_no_worker_outlives_its_pool() -> None:
    pool = WorkerPool(1)
    grade_many([Submission("p", "\\int_0^1 2x dx", "1", extracted=True)], ANY, pool=pool)
    processes = [worker.process for worker in pool._workers]
    assert processes
    pool.close()
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize(
    "text", ["1+" * 2400 + "1", "x" * 4999, "(" * 4999, "a b " * 1200, "1," * 2400, "\\in x" * 900, "{" * 50 + "1" + "}" * 50]
)
def test_the_reader_of_this_process_is_fast_on_long_and_deep_texts(text: str) -> None:
    started = time.monotonic()
    made = grade_many([Submission("p", "42", text, extracted=True), Submission("p", "42", f"\\boxed{{{text}}}")], ANY)
    assert {row.outcome for row in made} <= {Outcome.WRONG, Outcome.UNPARSED, Outcome.ERROR}
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("benchmark", ["math", "gsm8k", "gpqa-diamond", "any"])
def test_runs_of_blanks_and_signs_take_linear_time(benchmark: str) -> None:
    """Some 20 ms each; a pattern of the second power would take seconds for 20,000 characters, one of the fourth for ever."""
    for text in hostile.RUNS:
        started = time.monotonic()
        for written in (text, f"\\boxed{{{text}}}"):
            grade_many([Submission("p", "B", written), Submission("p", "42", written)], profile_of(benchmark))
        assert time.monotonic() - started < 4, text[:40]


def test_numbers_of_more_digits_than_python_writes_can_be_compared() -> None:
    """10^{-9999} as a fraction has 10,000 digits; Python refuses to write more than 4,300."""
    rows = [Submission("p", "x+1", text, extracted=True) for text in ("1e-9999+x", "x+1e-9999", "1+x")]
    rows.append(Submission("p", "x+1e-9999", "1e-9999+x", extracted=True))
    assert [row.outcome.value for row in grade_many(rows, ANY)][2:] == ["correct", "correct"]


def test_a_failure_on_one_row_is_that_row_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody foresaw, here put in by hand: the other rows are graded."""

    def fails(gold: str, answer: str, *_: object) -> bool:
        if answer == "6":
            raise ZeroDivisionError("unforeseen")
        return gold == answer

    monkeypatch.setattr("cft_lab.evaluation.grading.compare", fails)
    broken, fine = grade_many([Submission("a", "5", "6", extracted=True), Submission("b", "5", "5", extracted=True)], ANY)
    assert (broken.problem_id, broken.outcome, broken.paper) == ("a", Outcome.ERROR, Outcome.ERROR)
    assert "ZeroDivisionError: unforeseen" in str(broken.reason)
    assert fine.outcome is Outcome.CORRECT


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_a_worker_that_cannot_start_costs_only_the_rows_that_need_one(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Submission("needs", "\\int_0^1 2x dx", "1", extracted=True), Submission("plain", "1/2", "0.5", extracted=True)]
    with WorkerPool(2) as pool:
        monkeypatch.setattr("cft_lab.evaluation.workers.sys.executable", program)
        needs, plain = grade_many(rows, ANY, pool=pool)
        assert pool.counts.failed_to_start == 3
        monkeypatch.undo()
        assert grade_many(rows, ANY, pool=pool)[0].outcome is Outcome.CORRECT  # the next call tries again
    assert (needs.outcome, plain.outcome) == (Outcome.ERROR, Outcome.CORRECT)
    assert "no grading worker could start" in str(needs.reason)
