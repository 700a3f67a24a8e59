"""The arms. A method is one pure function (problem, response, critique, prompt format) -> example, or None to drop the row.

To add one: write the function, give it a line in METHODS, add conf/method/<name>.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cft_lab.config import DataError
from cft_lab.prompts import PromptFormat, train_critique, train_solve
from cft_lab.records import Critique, Example, Problem, Response

MakeExample = Callable[[Problem, Response | None, Critique | None, PromptFormat], Example | None]


def sft(problem: Problem, response: Response | None, critique: Critique | None, fmt: PromptFormat) -> Example | None:
    """Imitates the response as it is, right or wrong."""
    if response is None or not response.text.strip():
        return None
    return Example(problem.id, train_solve(fmt, problem.question), response.text)


def sft_verified(problem: Problem, response: Response | None, critique: Critique | None, fmt: PromptFormat) -> Example | None:
    """Imitates only responses that the teacher judged right."""
    if critique is None or critique.verdict is not True:
        return None
    return sft(problem, response, critique, fmt)


def cft(problem: Problem, response: Response | None, critique: Critique | None, fmt: PromptFormat) -> Example | None:
    """Imitates the teacher's critique of the response. A critique without a verdict says nothing and is dropped."""
    if response is None or critique is None or critique.verdict is None:
        return None
    return Example(problem.id, train_critique(fmt, problem.question, response.text), critique.text)


@dataclass(frozen=True)
class Method:
    """An arm: how it makes examples, and which upstream stages it reads. `response` is whose text is imitated."""

    make: MakeExample
    response: str  # responses (the data's or the model's own) | answers (the teacher's)
    needs_critiques: bool

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be chosen."""
        return self.needs_critiques or self.response == "answers"


#: method name -> arm; None is the base model, evaluated as it is
METHODS: Mapping[str, Method | None] = {
    "base": None,
    "sft": Method(sft, "responses", needs_critiques=False),
    "sft-verified": Method(sft_verified, "responses", needs_critiques=True),
    "sft-teacher": Method(sft, "answers", needs_critiques=False),
    "cft": Method(cft, "responses", needs_critiques=True),
}


def build_examples(
    method: Method,
    wanted: int,
    problems: Iterable[Problem],
    responses: Mapping[str, Response],
    critiques: Mapping[str, Critique],
    fmt: PromptFormat,
) -> tuple[list[Example], int]:
    """The first `wanted` examples in pool order and the number of rows dropped on the way.

    Raises DataError, naming both counts, if the pool runs out first.
    """
    examples: list[Example] = []
    dropped = 0
    for problem in problems:
        example = method.make(problem, responses.get(problem.id), critiques.get(problem.id), fmt)
        if example is None:
            dropped += 1
            continue
        examples.append(example)
        if len(examples) == wanted:
            return examples, dropped
    raise DataError(
        f"data.examples={wanted} are wanted, but the pool of {len(examples) + dropped} problems gives {len(examples)} "
        f"({dropped} dropped by the method): raise data.pool or lower data.examples"
    )
