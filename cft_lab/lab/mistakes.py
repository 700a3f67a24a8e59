"""The corruptor: plants one realistic mistake at a known step of a right solution and carries it forward.

Kinds of mistake:
    slip         the arithmetic is off by one or two
    wrong-op     adds for subtracts, adds for multiplies, multiplies for divides
    drop         a step is left out
    copy         a number is misread
    factor       a believed but wrong unit factor or percentage divisor (systematic, as real misconceptions are)
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cft_lab.lab.language import (
    FAMILIES,
    MAX_NUMBER,
    MISTAKEN_PERCENTS,
    MISTAKEN_UNITS,
    PERCENTS,
    UNITS,
    Step,
    compute,
    render_solution,
)
from cft_lab.lab.world import LabProblem

KINDS = ("slip", "wrong-op", "drop", "copy", "factor")
_SWAPPED = {"+": "-", "-": "+", "*": "+", "/": "*"}


@dataclass(frozen=True)
class Mistake:
    """What was planted and where (`step` counts from 0 in the right solution)."""

    kind: str
    step: int


@dataclass(frozen=True)
class Attempt:
    """A solution as its author wrote it; `mistake` is None for a right one."""

    text: str
    answer: int
    mistake: Mistake | None = None


def right_attempt(problem: LabProblem) -> Attempt:
    """The exact solution."""
    return Attempt(render_solution(problem.steps, problem.answer), problem.answer)


def corrupt(problem: LabProblem, rng: random.Random, typical: float) -> Attempt:
    """A wrong solution with one mistake: the family's own misconception with probability `typical`, else any kind.

    The final answer always differs from the right one. A mistake that cannot be made here (no factor to get wrong, a
    number that would leave the world) gives way to another kind; a slip is always possible.
    """
    kinds = list(KINDS)
    rng.shuffle(kinds)
    if rng.random() < typical:
        kinds.insert(0, FAMILIES[problem.family].mistake)
    for kind in [*kinds, "slip"]:
        places = list(range(len(problem.steps)))
        if kind != FAMILIES[problem.family].mistake:
            rng.shuffle(places)
        for place in places:
            steps = _plant(problem.steps, place, kind, rng)
            if steps and steps[-1].result != problem.answer:
                return Attempt(render_solution(steps, steps[-1].result), steps[-1].result, Mistake(kind, place))
    raise AssertionError(f"no mistake could be planted in {problem.question!r}")


def noisy_attempt(problem: LabProblem, rng: random.Random, noise: Mapping[str, float], typical: Mapping[str, float]) -> Attempt:
    """An attempt that is wrong with probability noise[family]; see `corrupt` for typical[family]."""
    if rng.random() < noise.get(problem.family, 0.0):
        return corrupt(problem, rng, typical.get(problem.family, 0.0))
    return right_attempt(problem)


def _plant(steps: tuple[Step, ...], place: int, kind: str, rng: random.Random) -> tuple[Step, ...] | None:
    step = steps[place]
    if kind == "drop":
        return _carry(steps[:place] + steps[place + 1 :], place, step.result, step.left) if len(steps) > 1 else None
    wrong: Step | None = None
    if kind == "slip":
        values = [step.result + d for d in (-2, -1, 1, 2) if 0 <= step.result + d <= MAX_NUMBER]
        wrong = replace(step, result=rng.choice(values))
    elif kind == "wrong-op":
        wrong = _recompute(step, op=_SWAPPED[step.op])
    elif kind == "copy":
        wrong = _recompute(step, right=max(1, step.right + rng.choice((-2, -1, 1, 2))))
    elif kind == "factor":
        factor = _mistaken_factor(step)
        wrong = _recompute(step, right=factor) if factor else None
    if wrong is None or wrong == step:
        return None
    return _carry((*steps[:place], wrong, *steps[place + 1 :]), place + 1, step.result, wrong.result)


def _mistaken_factor(step: Step) -> int | None:
    """The divisor or factor that a careless author would use in this step, if it has one."""
    words = step.phrase.split()
    if step.op == "*" and words[-1] in UNITS:
        return MISTAKEN_UNITS[words[-1]]
    if step.op == "/" and words[-1] == "percent" and step.right == PERCENTS[int(words[-2])]:
        return MISTAKEN_PERCENTS[int(words[-2])]
    return None


def _recompute(step: Step, op: str | None = None, right: int | None = None) -> Step | None:
    op, right = op or step.op, right if right is not None else step.right
    result = compute(step.left, op, right)
    return None if result is None else Step(step.phrase, step.left, op, right, result)


def _carry(steps: tuple[Step, ...], start: int, old: int, new: int) -> tuple[Step, ...] | None:
    """Redoes the steps from `start` with the value `new` wherever they took up the value `old`; None if impossible."""
    done = list(steps[:start])
    renamed = {old: new}
    for step in steps[start:]:
        left = renamed.get(step.left, step.left)
        quoted = step.right in renamed and step.phrase.split()[0] == str(step.right) and step.phrase.endswith(("fewer", "more"))
        right = renamed[step.right] if quoted else step.right
        phrase = f"{right} {step.phrase.split()[1]}" if quoted else step.phrase
        result = compute(left, step.op, right)
        if result is None:
            return None
        done.append(Step(phrase, left, step.op, right, result))
        renamed[step.result] = result
    return tuple(done) or None
