"""The paper's leniency, on top of whatever the strict grader accepts (docs/grading.md, "paper").

Written from its description: both sides are cut to the text behind their last "=", numbers that agree after rounding to one
decimal are equal, and so are two texts that contain the same 10^{n}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as Many

from cft_lab.evaluation.answer_text import canonical, clean
from cft_lab.evaluation.answers import Sequence, Value, readings
from cft_lab.evaluation.decimals import STRICT, Terms
from cft_lab.evaluation.equivalence import Decide, all_of, any_of, compare, not_here
from cft_lab.evaluation.expressions import read_expression
from cft_lab.evaluation.numeric import constant_value
from cft_lab.evaluation.scalars import Scalar

_POWER_OF_TEN = re.compile(r"10\^(?:\{(-?\d{1,6})\}|(-?\d{1,6}))")


def paper_compare(gold: str, answer: str, terms: Terms = STRICT, decide: Decide = not_here) -> bool | None:
    """Whether the paper's grader, as described, accepts the answer where the strict one did not; None: only a worker can tell."""
    gold, answer = _behind_last_equals(gold), _behind_last_equals(answer)
    if not gold or not answer:
        return False
    powers = _powers_of_ten(gold), _powers_of_ten(answer)
    if powers[0] & powers[1]:
        return True
    if any(_round_alike(g, a) for g in readings(gold) for a in readings(answer)):
        return True
    return compare(gold, answer, terms, decide)


def _behind_last_equals(text: str) -> str:
    return clean(text).rpartition("=")[2].strip()


def _powers_of_ten(text: str) -> set[str]:
    return {first or second for first, second in _POWER_OF_TEN.findall(canonical(text))}


def _round_alike(gold: Value, answer: Value) -> bool:
    """Whether the values, or all values of two lists or tuples in order, are numbers that agree after rounding to one decimal."""
    if isinstance(gold, Sequence) and isinstance(answer, Sequence):
        return len(gold.items) == len(answer.items) and bool(
            all_of(_round_alike(g, a) for g, a in zip(gold.items, answer.items, strict=True))
        )
    if not isinstance(gold, Scalar) or not isinstance(answer, Scalar):
        return False
    return bool(any_of(abs(g - a) < 1e-9 for g in _rounded(gold) for a in _rounded(answer)))


def _rounded(value: Scalar) -> Many[float]:
    """The number rounded to one decimal; for a percentage also its hundredth. Empty if it is no finite number."""
    node = read_expression(value.body)
    number = None if node is None or value.is_text or value.base else constant_value(node)
    if number is None or abs(number) > 1e15:
        return ()
    return tuple(round(float(form), 1) for form in ((number, number / 100) if value.percent else (number,)))
