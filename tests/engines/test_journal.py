import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cft_lab.engines.base import Prompt
from cft_lab.engines.journal import JournalEngine, Memory
from cft_lab.json_files import Journal
from cft_lab.records import Completion, Message, Sampling

PROMPTS = [Prompt(f"p{i}", (Message("user", f"say {i}"),)) for i in range(6)]
SAMPLING = Sampling(4)


class Counting:
    """A real engine in the small: echoes, counts its calls, fails on demand."""

    def __init__(self, fail: tuple[str, ...] = (), stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fail, self.stop_after = fail, stop_after

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        for index, prompt in enumerate(prompts):
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompt.id)
            failed = prompt.id in self.fail
            yield index, Completion("no" if failed else prompt.messages[0].content, 2, "error" if failed else "stop")


def ask(path: Path, engine: Counting, sampling: Sampling = SAMPLING, prompts: list[Prompt] = PROMPTS) -> dict[int, Completion]:
    with Journal(path) as journal:
        return dict(JournalEngine(engine, journal).generate(prompts, sampling))


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Counting(stop_after=4)
    with contextlib.suppress(KeyboardInterrupt):
        ask(path, first)
    second, third = Counting(), Counting()
    answers = ask(path, second)
    assert first.asked + second.asked == [p.id for p in PROMPTS]
    assert [answers[i].text for i in range(6)] == [f"say {i}" for i in range(6)]
    assert ask(path, third) == answers
    assert third.asked == []


def test_a_torn_line_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    answers = ask(path, Counting())
    path.write_bytes(path.read_bytes()[:-5])
    again = Counting()
    assert ask(path, again) == answers
    assert again.asked == ["p5"]


def test_failed_rows_and_changed_prompts_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert ask(path, Counting(fail=("p2",)))[2].finish == "error"
    retry = Counting()
    assert ask(path, retry)[2].finish == "stop"
    assert retry.asked == ["p2"]
    changed = Counting()
    ask(path, changed, prompts=[Prompt("p0", (Message("user", "say something else"),)), *PROMPTS[1:]])
    assert changed.asked == ["p0"]
    hotter = Counting()
    ask(path, hotter, Sampling(4, temperature=0.5))
    assert len(hotter.asked) == 6


def test_what_another_journal_knows_is_taken_over_and_not_asked_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    answers = ask(first, Counting(fail=("p3",)), prompts=PROMPTS[:4])
    with first.open("ab") as file:
        file.write(b'{"torn')  # its owner is still writing
    before = first.read_bytes()
    with Journal(second) as journal, Journal(first, read_only=True) as other:
        memory = Memory(journal)
        assert memory.adopt(PROMPTS, SAMPLING, [other]) == 3
        assert memory.find(PROMPTS[1], SAMPLING) == answers[1]
        assert memory.adopt(PROMPTS, Sampling(5), [other]) == 0
    assert first.read_bytes() == before
    engine = Counting()
    ask(second, engine)
    assert engine.asked == ["p3", "p4", "p5"]


def test_costs_are_summed_over_every_row_and_not_taken_over(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    with Journal(first) as journal:
        memory = Memory(journal)
        memory.note(PROMPTS[0], SAMPLING, Completion("no", 0, "error", cost_usd=0.25))
        memory.note(PROMPTS[0], SAMPLING, Completion("yes", 1, "stop", cost_usd=0.5))
        assert memory.spent_usd == 0.75
    with Journal(first) as journal:
        assert Memory(journal).spent_usd == 0.75
    with Journal(second) as journal, Journal(first, read_only=True) as other:
        memory = Memory(journal)
        assert memory.adopt(PROMPTS, SAMPLING, [other]) == 1
        assert memory.spent_usd == 0.0
