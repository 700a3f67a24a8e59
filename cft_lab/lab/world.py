"""Makes problems of the lab world, and keeps training, validation and test problems apart by construction.

A problem's split is a hash of its signature: its words with names, things and numbers blanked out, and its numbers
sorted. So two problems that differ only in names or in the order of their numbers always fall into the same split, and no
seed or size can make the splits meet.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cft_lab.config import DataError
from cft_lab.lab.language import (
    DAYS,
    FAMILIES,
    MAX_NUMBER,
    NAMES,
    PERCENTS,
    THINGS,
    UNITS,
    Family,
    Step,
    Template,
    open_problem,
    steps_of,
)

SPLITS = {"train": range(0, 70), "validation": range(70, 80), "test": range(80, 100)}
_EVENT_NUMBERS = range(1, 14)
_PATIENCE = 2000  # rejected draws in a row after which the world counts as exhausted
WeightedT = TypeVar("WeightedT", str, int)


@dataclass(frozen=True)
class LabProblem:
    """A problem with everything that is known about it; `steps` lead to `answer`."""

    question: str
    family: str
    steps: tuple[Step, ...]
    answer: int

    @property
    def id(self) -> str:
        """A name that depends on the question alone."""
        return "lab-" + hashlib.sha256(self.question.encode()).hexdigest()[:12]


def signature(question: str) -> str:
    """The question with names and things blanked out and its numbers sorted behind it."""
    words = re.sub(r"[0-9]+", "#", question)
    words = re.sub(rf"\b({'|'.join(NAMES)})\b", "<name>", words)
    words = re.sub(rf"\b({'|'.join(THINGS)})\b", "<thing>", words)
    numbers = sorted(int(number) for number in re.findall(r"[0-9]+", question))
    return f"{words} | {' '.join(map(str, numbers))}"


def split_of(question: str) -> str:
    """The split that a question belongs to, whoever makes it: train, validation or test."""
    bucket = int(hashlib.sha256(signature(question).encode()).hexdigest()[:8], 16) % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def make_problem(rng: random.Random, family: str, num_steps: int) -> LabProblem:
    """One problem of a family with at least `num_steps` steps (one more where a two-step sentence ends it)."""
    while True:
        problem = _try_problem(rng, FAMILIES[family], family, num_steps)
        if problem is not None:
            return problem


def make_problems(
    seed: int,
    split: str,
    families: Mapping[str, float],
    steps: Mapping[int, float],
    unique_by: Callable[[str], str] | None = str,
) -> Iterator[LabProblem]:
    """An endless stream of problems of one split, families and step counts drawn by weight.

    No two questions agree in `unique_by(question)`: `str` keeps them apart word for word, `signature` also after normalising, None
    lets them repeat. The stream is a function of its arguments: a longer run extends a shorter one.
    Raises DataError when the world holds no more new problems of these families and steps.
    """
    rng = random.Random(f"{seed}/{split}")
    seen: set[str] = set()
    rejected = 0
    while rejected < _PATIENCE:
        problem = make_problem(rng, weighted(rng, families), weighted(rng, steps))
        name = unique_by(problem.question) if unique_by else ""
        if split_of(problem.question) != split or name in seen:
            rejected += 1
            continue
        rejected = 0
        if unique_by:
            seen.add(name)
        yield problem
    raise DataError(
        f"the lab world has no more than {len(seen)} distinct {split} problems of families {dict(families)} and steps "
        f"{dict(steps)}: ask for fewer (data.pool), or for more families or steps"
    )


def weighted(rng: random.Random, weights: Mapping[WeightedT, float]) -> WeightedT:
    """One key drawn by its weight."""
    names = sorted(weights)  # a key does not know the order of a mapping, so a draw must not either
    return rng.choices(names, [weights[name] for name in names])[0]


def _try_problem(rng: random.Random, family: Family, name: str, num_steps: int) -> LabProblem | None:
    words = {"name": rng.choice(NAMES), "thing": rng.choice(THINGS)}
    opening = rng.choice(family.openings)
    if opening.rule in UNITS:
        words["thing"] = UNITS[opening.rule][1]
    slots = words | _opening_numbers(rng, opening)
    begun = open_problem(opening, slots)
    if begun is None:
        return None
    steps, total = begun
    sentences = [opening.text.format_map(slots)]
    # no event twice, so that each step of a solution quotes one sentence of the question
    events = iter(rng.sample(family.special, min(1, len(family.special))) + rng.sample(family.events, len(family.events)))
    days = iter(DAYS)
    while len(steps) < num_steps:
        event = next(events, None)
        if event is None:
            return None
        words["day"] = next(days)
        slots = words | {"n": str(rng.choice(_EVENT_NUMBERS)), "p": str(rng.choice(list(PERCENTS)))}
        added = steps_of(event, slots, total)
        if added is None:
            return None
        sentences.append(event.text.format_map(slots))
        steps, total = steps + added, added[-1].result
    sentences.append(family.question.format_map(words))
    return LabProblem(" ".join(sentences), name, steps, total)


def _opening_numbers(rng: random.Random, opening: Template) -> dict[str, str]:
    """Numbers for an opening; those of an equation are built from its solution so that it comes out whole."""
    if opening.rule == "start":
        return {"n": str(rng.randint(2, MAX_NUMBER))}
    if opening.rule in UNITS:
        return {"n": str(rng.randint(1, MAX_NUMBER // UNITS[opening.rule][0]))}
    if opening.rule == "*":
        a = rng.randint(2, 10)
        return {"a": str(a), "b": str(rng.randint(2, MAX_NUMBER // a))}
    a = rng.randint(2, 5)
    x = rng.randint(1, MAX_NUMBER // a)
    b = rng.choice(_EVENT_NUMBERS)
    return {
        "a": str(a),
        "b": str(b),
        "c": str(a * x + b if opening.rule == "linear+" else max(a * x - b, 0)),
    }  # a clipped one does not come out whole and is drawn again
