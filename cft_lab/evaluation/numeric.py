"""Evaluates expression trees at points, in floats and at 80 digits, and says whether two of them are the same function.

Two different analytic functions agree at random points with probability zero (Schwartz, J. ACM 27 (1980) 701, for polynomials).
"""

from __future__ import annotations

import cmath
import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cft_lab.evaluation.expressions import Node, canonical_tree, has, variables
from cft_lab.evaluation.rational import exact

_DIGITS = 80  # agreement is asked of 40, so that cancellation may cost the rest
_FUNCTION_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}


class _UndefinedError(Exception):
    """The expression has no value at the point, or one that is too large to compute with."""


_NO_VALUE = (_UndefinedError, ArithmeticError, ValueError)  # ours, overflow and division by zero, poles of the libraries


def same_function(first: Node, second: Node) -> bool | None:
    """Whether two expressions are identically equal where both are defined; None if that cannot be told.

    Exact for rational values. Otherwise both are evaluated at random points: a clear difference in floats decides against;
    agreement to 40 digits at all points decides for.
    """
    if canonical_tree(first) == canonical_tree(second):
        return True
    if has(first, "const", "infty") or has(second, "const", "infty"):
        return False
    values = exact(first), exact(second)
    if values[0] is not None and values[1] is not None:
        return values[0] == values[1]
    names = variables(first) | variables(second)
    points = [_point(names, number) for number in range(len(_SCALES) if names else 1)]
    differ = [_clearly_different(first, second, point) for point in points]
    if any(difference is True for difference in differ):
        return False
    return _agree_precisely(first, second, points)


def constant_ratio(first: Node, second: Node) -> float | None:
    """c if first = c * second with a constant real c (0 if they are not proportional); None if that cannot be told.

    With c other than 0, first = 0 and second = 0 are one equation; with c above 0, first < 0 and second < 0 are one inequality.
    """
    names = variables(first) | variables(second)
    if not names:
        return None
    ratios = []
    for number in range(len(_SCALES)):
        point = _point(names, number)
        try:
            below = evaluate(second, point, precise=True)
            ratios.append(evaluate(first, point, precise=True) / below)
        except _NO_VALUE:
            continue
    if len(ratios) < 3:
        return None
    constant = abs(ratios[0]) > 1e-30 and all(abs(ratio - ratios[0]) <= 1e-35 * abs(ratios[0]) for ratio in ratios)
    return float(ratios[0].real) if constant and abs(ratios[0].imag) < 1e-30 * abs(ratios[0]) else 0.0


def constant_value(node: Node) -> Fraction | None:
    """The value of an expression without unknowns, exact if rational, else to 60 significant digits at least.

    None if it is not real, or irrational and not within 1e-60 to 1e60.
    """
    if variables(node) or has(node, "const", "infty"):
        return None
    rational = exact(node)
    if rational is not None:
        return rational
    try:
        value = evaluate(node, {}, precise=True)
    except _NO_VALUE:
        return None
    if abs(value.imag) > 1e-40 * (1 + abs(value.real)) or not (value.real == 0 or 1e-60 < abs(value.real) < 1e60):
        return None
    sign, mantissa, exponent, _ = value.real._mpf_
    return Fraction(-int(mantissa) if sign else int(mantissa)) * Fraction(2) ** int(exponent)


#: size and sign of the unknowns at each point: some functions are defined only for large, or only for negative, values
_SCALES = ((1, False), (1, False), (1, False), (12, False), (12, False), (80, False), (1, True), (12, True))


def _point(names: frozenset[str], number: int) -> dict[str, int]:
    """Numerators over 2^20 of a value for each unknown, fixed by its name: scale times 0.2 to 2.2, with a sign of its own."""
    scale, signed = _SCALES[number]
    values = {}
    for name in names:
        digest = hashlib.sha256(f"{number} {name}".encode()).digest()
        size = scale * (209_715 + int.from_bytes(digest[:4], "big") % 2_097_152)
        values[name] = -size if signed and digest[4] % 4 else size
    return values


def _clearly_different(first: Node, second: Node, point: Mapping[str, int]) -> bool | None:
    """Whether float values differ by far more than rounding could explain; None where either is undefined."""
    try:
        largest: list[float] = [1e-300]
        a, b = evaluate(first, point, largest=largest), evaluate(second, point, largest=largest)
    except _NO_VALUE:
        return None
    if not (cmath.isfinite(a) and cmath.isfinite(b)) or _leaves_reals(first, second, a, b):
        return None
    return bool(abs(a - b) > 1e-9 * max(abs(a), abs(b)) and abs(a - b) > 1e-11 * largest[0])


def _leaves_reals(first: Node, second: Node, a: Any, b: Any) -> bool:
    """A real expression that turns complex at a point is not defined there."""
    if not variables(first) | variables(second):
        return False  # constants like (-8)^{1/3} are compared as they are
    complex_wanted = has(first, "const", "i") or has(second, "const", "i")
    return not complex_wanted and any(abs(value.imag) > 1e-12 * (1 + abs(value)) for value in (a, b))


def _agree_precisely(first: Node, second: Node, points: list[dict[str, int]]) -> bool | None:
    agreed = 0
    for point in points:
        try:
            a, b = evaluate(first, point, precise=True), evaluate(second, point, precise=True)
        except _NO_VALUE:
            continue
        if _leaves_reals(first, second, a, b) or a != a or b != b or abs(a) == abs(b) == math.inf:
            continue
        size = max(abs(a), abs(b))
        if size < 1e-60 and 0 in (a, b):
            continue  # zero, or what rounding left of it
        if abs(a - b) > 1e-40 * size or math.inf in (abs(a), abs(b)):
            return False
        agreed += bool(size < 1e30)  # 80 digits cannot tell 10^100 from 10^100 + 1
    return True if agreed >= min(3, len(points)) else None


def evaluate(node: Node, point: Mapping[str, int], precise: bool = False, largest: list[float] | None = None) -> Any:
    """The value at a point (numerators over 2^20), complex: at 80 digits if `precise`, else in floats.

    `largest[0]` collects the size of the largest intermediate value, which bounds the rounding error. Raises _UndefinedError or
    an ArithmeticError where there is no value that can be computed.
    """
    if not precise:
        return _evaluate(node, point, cmath, lambda top, below: complex(top / below), largest)
    import mpmath

    with mpmath.workdps(_DIGITS):
        return _evaluate(node, point, mpmath.mp, lambda top, below: mpmath.mpc(top) / below, None)


def _evaluate(node: Node, point: Mapping[str, int], lib: Any, number: Any, largest: list[float] | None) -> Any:
    values = [_evaluate(part, point, lib, number, largest) for part in node[1:] if isinstance(part, tuple)]
    result = _operation(node[0], node, values, point, lib, number)
    if largest is not None:
        largest[0] = max(largest[0], abs(result))
    return result


def _operation(kind: str, node: Node, values: list[Any], point: Mapping[str, int], lib: Any, number: Any) -> Any:
    if kind == "num":
        return number(node[1].numerator, node[1].denominator)
    if kind == "var":
        return number(point[node[1]], 1 << 20)
    if kind == "const":
        return {"pi": lib.pi * number(1, 1), "e": lib.e * number(1, 1), "i": number(1, 1) * 1j}[node[1]]
    if kind == "add":
        return sum(values[1:], start=values[0])
    if kind == "mul":
        return math.prod(values[1:], start=values[0])
    if kind == "neg":
        return number(0, 1) - values[0]  # not -x, which turns +0i into -0i and roots onto the other branch
    if kind == "div":
        return values[0] / values[1]
    if kind == "deg":
        return values[0] * lib.pi / 180
    if kind == "pow":
        return _power(values[0], values[1], lib)
    if kind == "root":
        return _root(values[0], values[1], number)
    if kind == "binom":
        return _binomial(values[0], values[1], lib, number)
    return _function(node[1], values[0], lib, number)


def _power(base: Any, exponent: Any, lib: Any) -> Any:
    if lib is not cmath and exponent.imag == 0 and exponent.real > 1e30 and base.imag == 0 and base.real >= 2:
        return lib.inf  # a tower like 9^9^9^9: larger than anything that is not one
    if abs(exponent) > (1e6 if lib is cmath else 1e30):
        raise _UndefinedError
    whole = int(exponent.real)
    if exponent == whole and abs(whole) < 1000:
        return base**whole
    if base == 0:
        raise _UndefinedError
    return lib.exp(exponent * lib.log(base))


def _root(value: Any, index: Any, number: Any) -> Any:
    degree = int(index.real)
    if index != degree or not 1 <= degree <= 1000:
        raise _UndefinedError
    if value == 0:
        return value
    if value.imag == 0 and value.real < 0 and degree % 2:  # the real root
        return -((-value) ** (number(1, 1) / degree))
    return value ** (number(1, 1) / degree)


def _binomial(top: Any, below: Any, lib: Any, number: Any) -> Any:
    """The falling factorial for a whole lower number up to 200, by the gamma function (at high precision only) elsewhere."""
    count = int(below.real)
    if below != count or not 0 <= count <= 200:
        return _gamma(top + 1, lib) / (_gamma(below + 1, lib) * _gamma(top - below + 1, lib))
    result = number(1, 1)
    for step in range(count):
        result = result * (top - step) / (step + 1)
    return result


def _function(name: str, value: Any, lib: Any, number: Any) -> Any:
    if name in ("floor", "ceil", "factorial"):
        return _whole_function(name, value, lib, number)
    if name == "abs":
        return number(1, 1) * abs(value)
    if name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "cot", "sec", "csc") and abs(value) > 1e12:
        raise _UndefinedError
    if name == "arccot":
        return lib.pi / 2 - lib.atan(value)
    if name in ("cot", "sec", "csc"):
        below = {"cot": lib.tan, "sec": lib.cos, "csc": lib.sin}[name](value)
        return 1 / below
    if name == "ln" and value == 0:
        raise _UndefinedError
    return getattr(lib, _FUNCTION_NAMES.get(name, name))(value)


def _gamma(value: Any, lib: Any) -> Any:
    if lib is cmath or abs(value) > 1e12:
        raise _UndefinedError
    return lib.gamma(value)


def _whole_function(name: str, value: Any, lib: Any, number: Any) -> Any:
    if abs(value.imag) > 1e-12 or abs(value) > 1e15:
        raise _UndefinedError
    whole = round(value.real)
    near = abs(value.real - whole) < 1e-12
    if name == "factorial":
        if not near or not 0 <= whole <= 150:
            return _gamma(value + 1, lib)
        result = number(1, 1)
        for step in range(2, whole + 1):
            result = result * step
        return result
    low = whole - (whole > value.real)
    if near:
        return number(whole, 1)
    return number(low + (name == "ceil"), 1)
