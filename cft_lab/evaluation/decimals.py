"""When two numbers that differ are still one answer: rounded decimals, and the tolerance that a benchmark states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from cft_lab.evaluation.expressions import Node
from cft_lab.evaluation.numeric import constant_value
from cft_lab.evaluation.rational import exact


@dataclass(frozen=True)
class Terms:
    """What a benchmark grants beyond equality. `relative` holds for golds written as decimals, `absolute` for every number."""

    relative: Fraction = Fraction(0)
    absolute: Fraction = Fraction(0)
    lists_are_tuples: bool = False  # [1, 2] is an ordered list and no interval


STRICT = Terms()

_DECIMAL = re.compile(
    r"[-+]?(?P<whole>\d*)\.(?P<decimals>\d+)(?:(?:e|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?)\s*(?P<power>[-+]?\d{1,4})\s*\}?)?",
    re.IGNORECASE,
)
_GOLD_DIGITS, _ANSWER_DIGITS = 4, 6  # significant digits that make a decimal a rounded value: docs/grading.md, "rounding"


def rounds(gold: str, answer: str, gold_node: Node, answer_node: Node) -> bool:
    """Whether one side is a decimal with enough digits that is the other, rounded or cut off."""
    digits, decimals = _precision(answer)
    gold_digits, gold_decimals = _precision(gold)
    if gold_digits >= _GOLD_DIGITS and (digits == 0 or decimals > gold_decimals):
        return _error_in_last_place(answer_node, gold_node, gold_decimals)
    if digits >= _ANSWER_DIGITS and (gold_digits == 0 or gold_decimals > decimals):
        return _error_in_last_place(gold_node, answer_node, decimals)
    return False


def _precision(text: str) -> tuple[int, int]:
    """(significant digits, decimals) of a decimal, which may have a power of ten; (0, 0) for anything else."""
    match = _DECIMAL.fullmatch(text.strip())
    if match is None:
        return 0, 0
    return len((match["whole"] + match["decimals"]).lstrip("0")), len(match["decimals"]) - int(match["power"] or 0)


def _error_in_last_place(long: Node, short: Node, decimals: int) -> bool:
    """Whether `short` is `long` rounded to so many decimals, or cut off there."""
    rounded = exact(short)
    if rounded is None:
        return False
    value = constant_value(long)
    if value is None:
        return False
    cut = abs(value) > abs(rounded)  # cutting goes towards zero, rounding either way by half a place
    return abs(value - rounded) * Fraction(10) ** decimals <= (1 if cut else Fraction(1, 2))


def within_tolerance(gold: str, gold_node: Node, answer_node: Node, terms: Terms) -> bool:
    """Whether the answer lies within what the benchmark grants; `relative` holds only for golds written as decimals."""
    relative = terms.relative if re.search(r"\.|\de", gold) else Fraction(0)
    if not relative and not terms.absolute:
        return False
    target, value = constant_value(gold_node), constant_value(answer_node)
    return target is not None and value is not None and abs(value - target) <= max(terms.absolute, relative * abs(target))
