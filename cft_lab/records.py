"""The records that pass between stages: frozen, JSON-able, standard library only.

Every stage reads and writes lists of these as JSON lines, so their names and fields are the project's
file format. `to_row` and `from_row` are the only (de)serialisers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar


class Outcome(StrEnum):
    """What became of one graded answer. An error is never a wrong answer: it was not measured."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # finished, but no answer could be extracted
    TRUNCATED = "truncated"  # ran into the length limit before giving an answer
    ERROR = "error"  # the engine or the grader failed; can be completed later


@dataclass(frozen=True)
class Problem:
    """A question. `answer` is the gold answer where one is known; `solution` is what the data set offers (noisy).

    `kind` says what form the gold has: `math` (any expression), `number`, `choice` (one letter), `bool` (True or False), `list`
    (ordered) or `set` (several answers in any order, joined by commas).
    """

    id: str
    question: str
    source: str
    answer: str | None = None
    solution: str | None = None
    subject: str | None = None
    level: str | None = None
    kind: str = "math"
    options: tuple[str, ...] | None = None  # of a multiple-choice question; the gold's letter counts from A
    tolerance: float | None = None  # largest absolute error that the item allows
    needs_picture: bool = False  # the question cannot be read without a picture that a text model does not see


@dataclass(frozen=True)
class Response:
    """Somebody's attempt at a problem: the data set's own, a model's, or a teacher's. `cut_off`: it ran into its length limit."""

    problem_id: str
    text: str
    author: str
    cut_off: bool = False


@dataclass(frozen=True)
class Critique:
    """A teacher's critique of one response; verdict True = judged right, None = no readable conclusion.

    `cut_off`: it ran into its length limit.
    """

    problem_id: str
    text: str
    teacher: str
    verdict: bool | None = None
    cut_off: bool = False


@dataclass(frozen=True)
class Failure:
    """A row that a model was asked for and did not give; `finish` is the completion's: `error` or `refused`."""

    problem_id: str
    finish: str
    reason: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; role is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One training example: the loss is on `target` and its end-of-turn token only."""

    problem_id: str
    messages: tuple[Message, ...]
    target: str


@dataclass(frozen=True)
class Sampling:
    """How an engine draws text. temperature 0 is greedy, and then `seed` has no effect."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What an engine returned. `finish` says how the text ended:

    `stop` (by itself), `length` (cut off), `error` (no text: the reason is in `text`; worth another try) or `refused` (no
    text: the reason is in `text`; the server will not answer this prompt). Tokens and dollars are what a server reported.
    """

    text: str
    num_tokens: int
    finish: str
    prompt_tokens: int | None = None
    cost_usd: float | None = None

    @property
    def answered(self) -> bool:
        """Whether there is a text."""
        return self.finish in ("stop", "length")


@dataclass(frozen=True)
class Turn:
    """One engine call inside an inference protocol: what it was for, what came back, and a verdict if it judged."""

    purpose: str  # solve | critique | single-pass
    completion: Completion
    verdict: bool | None = None


@dataclass(frozen=True)
class Generation:
    """All turns spent on one draw of a benchmark item and the text that is graded; draws of an item count from 0."""

    problem_id: str
    turns: tuple[Turn, ...]
    final_text: str
    finish: str
    sample: int = 0


@dataclass(frozen=True)
class Grade:
    """The grade of one draw of an item: by the strict grader (`outcome`) and by the paper's (`paper`)."""

    problem_id: str
    outcome: Outcome
    extracted: str | None = None
    rule: str | None = None  # the extraction rule that found the answer
    paper: Outcome | None = None
    reason: str | None = None  # why an error is one
    sample: int = 0


@dataclass(frozen=True)
class Score:
    """Accuracy on one benchmark, with a 95 % interval over items, all as fractions.

    Counts are of graded draws, `samples` of each item. `accuracy` is the mean over measured items of the share of draws that are
    correct (avg@k), `majority` and `passed` are maj@k and pass@k, None for one draw. `accuracy` and `interval` are None when
    every item has an error: nothing was measured then.
    """

    benchmark: str
    protocol: str
    sampling: Sampling
    n: int
    correct: int
    unparsed: int
    truncated: int
    errors: int
    accuracy: float | None
    interval: tuple[float, float] | None
    samples: int = 1
    majority: float | None = None
    passed: float | None = None
    paper_accuracy: float | None = None  # by the paper's lenient grader


@dataclass(frozen=True)
class Result:
    """A finished cell: what it was, the key of every stage that it stands on, what it scored."""

    cell: dict[str, Any]
    keys: dict[str, str]
    scores: tuple[Score, ...]
    supervised_tokens: int | None = None  # target tokens trained on; None for the base model
    examples: int | None = None


RecordT = TypeVar("RecordT")


def to_row(record: Any) -> dict[str, Any]:
    """A record as a JSON-able dict; nested records become dicts, tuples become lists."""
    return dataclasses.asdict(record)


def from_row(kind: type[RecordT], row: dict[str, Any]) -> RecordT:
    """The inverse of `to_row` for any record of this module. Raises TypeError on missing or unknown fields."""
    values = dict(row)
    for name, rebuild in _NESTED.get(kind, {}).items():
        if values.get(name) is not None:
            values[name] = rebuild(values[name])
    return kind(**values)


_NESTED: dict[type, dict[str, Any]] = {
    Problem: {"options": tuple},
    Example: {"messages": lambda rows: tuple(Message(**row) for row in rows)},
    Sampling: {"stop": tuple},
    Turn: {"completion": lambda row: Completion(**row)},
    Generation: {"turns": lambda rows: tuple(from_row(Turn, row) for row in rows)},
    Grade: {"outcome": Outcome, "paper": Outcome},
    Score: {"sampling": lambda row: from_row(Sampling, row), "interval": tuple},
    Result: {"scores": lambda rows: tuple(from_row(Score, row) for row in rows)},
}
