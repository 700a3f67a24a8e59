import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cft_lab.engines.base import Prompt
from cft_lab.engines.journal import JournalEngine
from cft_lab.records import Completion, Message, Sampling
from cft_lab.store import Journal

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
