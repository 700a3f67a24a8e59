"""Exact rational values of expression trees, with a bound on the size of the numbers."""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial, isqrt

from cft_lab.evaluation.expressions import Node

_MAX_BITS = 40_000  # numerator and denominator together


def exact(node: Node) -> Fraction | None:
    """The rational value of an expression without unknowns, or None if it has none or is too large to write down."""
    kind = node[0]
    if kind == "num":
        value: Fraction = node[1]
        return value if value.numerator.bit_length() + value.denominator.bit_length() <= _MAX_BITS else None
    if kind not in ("add", "mul", "div", "neg", "pow", "root", "func", "binom"):
        return None
    parts = [exact(part) for part in node[1:] if isinstance(part, tuple)]
    if any(part is None for part in parts):
        return None
    values = [part for part in parts if part is not None]
    result = _exact_operation(kind, node, values)
    if result is None or result.numerator.bit_length() + result.denominator.bit_length() > _MAX_BITS:
        return None
    return result


def _exact_operation(kind: str, node: Node, values: list[Fraction]) -> Fraction | None:
    if kind == "add":
        return sum(values, Fraction(0))
    if kind == "mul":
        result = Fraction(1)
        for value in values:
            result *= value
        return result
    if kind == "neg":
        return -values[0]
    if kind == "div":
        return values[0] / values[1] if values[1] else None
    if kind == "pow":
        return _exact_power(*values)
    if kind == "root":
        return _exact_root(*values)
    if kind == "binom":
        n, k = values
        small = n.denominator == k.denominator == 1 and 0 <= k <= n <= 5000
        return Fraction(comb(int(n), int(k))) if small else None
    return _exact_function(node[1], values[0])


def _exact_function(name: str, value: Fraction) -> Fraction | None:
    if name == "factorial" and value.denominator == 1 and 0 <= value <= 3000:
        return Fraction(factorial(int(value)))
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        return Fraction(value.__floor__() if name == "floor" else value.__ceil__())
    return None


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _exact_root(base, Fraction(exponent.denominator)) if base > 0 else None
        return None if root is None else _exact_power(root, Fraction(exponent.numerator))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > _MAX_BITS or (base == 0 and exponent <= 0):
        return None
    return Fraction(base ** int(exponent))


def _exact_root(value: Fraction, index: Fraction) -> Fraction | None:
    if value < 0 or index != 2:
        return None
    top, below = isqrt(value.numerator), isqrt(value.denominator)
    return Fraction(top, below) if top * top == value.numerator and below * below == value.denominator else None
