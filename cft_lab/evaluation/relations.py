"""Equations and inequalities: names and their values, and the intervals that inequalities describe."""

from __future__ import annotations

from cft_lab.evaluation.answers import Relation, Sequence, Union, Value, is_constant_chain, is_name, read_part
from cft_lab.evaluation.expressions import Node, read_expression


def assignment(relation: Relation) -> tuple[str | None, str]:
    """(name, value) of name = ... = value or value = name; for a chain of bare values its last, with the name "".

    The name is None where there is neither: other equations, and numbers that are not equal (1/3 = 2).
    """
    first, last = relation.sides[0], relation.sides[-1]
    if is_name(first):
        return first, last
    if is_name(last) and len(relation.sides) == 2:
        return last, first
    return ("" if is_constant_chain(relation) else None), last  # 2 + 3 = 5


def difference(relation: Relation) -> Node | None:
    """Left side minus right side of a relation with one sign; None if one cannot be read."""
    left, right = (read_expression(side) for side in relation.sides)
    return None if left is None or right is None else ("add", left, ("neg", right))


_OPPOSITE = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


def flip(relation: Relation) -> Relation:
    """The same relation read from right to left."""
    return Relation(relation.sides[::-1], tuple(_OPPOSITE[sign] for sign in relation.signs[::-1]))


def is_inequality(value: Value) -> bool:
    """Whether a part of a list is an inequality."""
    return isinstance(value, Relation) and "=" not in value.signs


def as_union(value: Sequence) -> Union:
    """The union that "x < 1 or x > 3" describes."""
    return Union(tuple(found[1] for item in value.items if isinstance(item, Relation) and (found := interval(item))))


def interval(relation: Relation) -> tuple[str, Value] | None:
    """(unknown, the set of its values) of x > a, a <= x, a < x <= b or x != a; None for other relations."""
    if relation.signs[0] in (">", "\\ge") and len(relation.signs) == 2:
        relation = flip(relation)
    sides, signs = relation.sides, relation.signs
    if len(signs) == 2 and is_name(sides[1]) and all(sign in ("<", "\\le") for sign in signs):
        return sides[1], _range(sides[0], signs[0], sides[2], signs[1])
    if len(signs) != 1 or is_name(sides[0]) == is_name(sides[1]):
        return None
    if is_name(sides[1]):
        sides, signs = flip(relation).sides, flip(relation).signs
    name, bound = sides
    if signs[0] == "\\ne":
        return name, Union((_range("-\\infty", "<", bound, "<"), _range(bound, "<", "\\infty", "<")))
    if signs[0] in ("<", "\\le"):
        return name, _range("-\\infty", "<", bound, signs[0])
    return name, _range(bound, signs[0].replace("ge", "le").replace(">", "<"), "\\infty", "<")


def _range(low: str, low_sign: str, high: str, high_sign: str) -> Sequence:
    opening, closing = ("(" if low_sign == "<" else "["), (")" if high_sign == "<" else "]")
    return Sequence(opening, closing, (read_part(low), read_part(high)))
