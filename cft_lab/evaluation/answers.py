r"""Reads the structure of a cleaned answer: numbers with units, tuples, sets, lists, intervals, unions, matrices, relations, words.

    (1, \frac{1}{2})        Sequence "(" ")"        x \in [0,1)     the interval
    1, 2 and 3              Sequence without brackets    x = 5           Relation
    5\text{ cm}             Scalar 5, unit cm       \text{even}     Scalar that is text

Conventions: docs/grading.md. Nothing here decides equality; cft_lab.evaluation.equivalence does.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from cft_lab.evaluation.answer_text import MAX_LENGTH, ROW_END, canonical, clean, plain_words
from cft_lab.evaluation.expressions import FUNCTIONS, read_expression, variables
from cft_lab.evaluation.numeric import constant_value
from cft_lab.evaluation.scalars import Scalar, read_scalar
from cft_lab.evaluation.units import CURRENCY_SIGNS

_MAX_ITEMS = 200
_MAX_NESTING = 8


@dataclass(frozen=True)
class Sequence:
    """Parts in brackets; opening is "(", "[", "{" (a set) or "" (a bare list)."""

    opening: str
    closing: str
    items: tuple[Value, ...]


@dataclass(frozen=True)
class Union:
    """A union of intervals and sets."""

    items: tuple[Value, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries, all of one length."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Relation:
    """sides[0] signs[0] sides[1] signs[1] ...; signs are =, <, >, \\le, \\ge, \\ne. Sides are texts."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


Value: TypeAlias = Scalar | Sequence | Union | Matrix | Relation

_SEPARATOR = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|[,;]")
_SIGN = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|:?=|<|>")
_ROWS_OF_RELATIONS = re.compile(r"\\begin\{(cases|aligned|align\*?|gathered)\}(.*)\\end\{\1\}")
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}(?:\^\{?(T|\\top)\}?)?")
_THOUSANDS = re.compile(r"[-+]?[" + CURRENCY_SIGNS + r"]?\s?[-+]?\d{1,3}(?:,\s?\d{3})+(?:\.\d+)?(?![\d,])")
_LEADING = re.compile(r"(?:[a-zA-Z' ]{0,80}\b)?(?:is|are|equals|about|approximately|roughly|around)\s+(?=[^a-zA-Z\s])")
_LEADING_WORDS = re.compile(r"(?:[a-zA-Z]{2,20}\s+){1,6}(?=[\d(\[\\¤-])(?!\\text)")  # "the point (1, 2)", "exactly 5"
_NAME = re.compile(
    r"(?:\\(?:angle|triangle|text|overline|vec|dot|ddot|mathbb)\s*)*(?:\\?[a-zA-Z][a-zA-Z ]*|\{[a-zA-Z ]+\})"
    r"(?:[_'][a-zA-Z0-9]?|\{[\w\\ ,]*\}|\s)*(?:\(\s*[a-zA-Z\\][\w\\ ,]*\))?(?:\s[A-Z](?:_\{?\w\}?)?)*"
)
_OPENING, _CLOSING = ("(", "[", "{", "\\{", "\\begin"), (")", "]", "}", "\\}", "\\end")
_BRACKETS = re.compile(r"\\begin|\\end|\\[{}]|[()\[\]{}]")


@functools.lru_cache(maxsize=16_384)
def readings(text: str) -> tuple[Value, ...]:
    """The ways to read a raw answer: one, or two where a comma may separate thousands or parts (100,200)."""
    cleaned = clean(text)
    if len(cleaned) > MAX_LENGTH:
        return (Scalar(cleaned, cleaned, is_text=True),)
    before, _, after = cleaned.rpartition("\\approx")
    if before.strip() and after.strip():  # 5\sqrt{2} \approx 7.07: either; x \approx 5: as x = 5
        if is_name(before.strip()):
            return (_read(f"{before} = {after}", 0),)
        return (_read(before, 0), _read(after, 0))
    if _THOUSANDS.match(cleaned):
        joined = _THOUSANDS.sub(lambda match: re.sub(r",\s?", "", match[0]), cleaned)
        if "," not in joined:
            return (_read(joined, 0), _read(cleaned, 0))
    if "," in cleaned and not re.search(r"[(\[]", cleaned):  # thousands inside "x = 10,000" or "10,000\pi"
        joined = re.sub(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])", lambda match: match[0].replace(",", ""), cleaned)
        if joined != cleaned:
            separate = _read(cleaned, 0)
            return (_read(joined, 0), *([separate] if isinstance(separate, Sequence) else []))
    value = _read(cleaned, 0)
    if isinstance(value, Relation) and is_constant_chain(value):  # \sqrt{51} = 7.14: either end
        return (value, _read(value.sides[0], 0))
    return (value,)


def is_constant_chain(relation: Relation) -> bool:
    """Whether a = ... = b has numbers at both ends, which are one value as far as their decimals say: 2 + 3 = 5, 1/3 = 0.33."""
    if set(relation.signs) != {"="}:
        return False
    ends = [read_scalar(relation.sides[place]) for place in (0, -1)]
    nodes = [read_expression(end.body) for end in ends]
    if any(end.is_text for end in ends) or any(node is None or variables(node) for node in nodes):
        return False
    if ends[0].unit and ends[1].unit and ends[0].unit != ends[1].unit:
        return True  # 30 min = 0.5 h; nothing is converted
    values = [None if node is None else constant_value(node) for node in nodes]
    if values[0] is None or values[1] is None:
        return canonical(ends[0].body) == canonical(ends[1].body)
    scales = [(1, Fraction(1, 100)) if end.percent else (1,) for end in ends]  # 1/2 = 50 %
    error = max(_last_place(end.body) for end in ends) or abs(values[0]) / 10**12
    return any(abs(values[0] * first - values[1] * last) <= error * min(first, last) for first in scales[0] for last in scales[1])


def _last_place(number: str) -> Fraction:
    """What one step in the last decimal of a number is worth; 0 if it has no decimals and is therefore exact."""
    match = re.fullmatch(r"[-+]?\d*\.(\d{1,50})", number.strip())
    return Fraction(1, 10 ** len(match[1])) if match else Fraction(0)


def read_part(text: str) -> Value:
    """The structure of a cleaned text, in its first reading."""
    return _read(text, _MAX_NESTING // 2)


def _read(text: str, depth: int) -> Value:
    text = _drop_leading(text.strip())
    if depth > _MAX_NESTING:
        return read_scalar(text)
    whole_text = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    if whole_text:
        inner = whole_text[1].strip()
        return _read(inner, depth + 1) if re.search(r"\d|,", inner) else read_scalar(text)
    for reader in (_read_matrix, _read_union, _read_list, _read_membership, _read_relation, _read_brackets):
        value = reader(text, depth)
        if value is not None:
            return value
    return read_scalar(text)


def _drop_leading(text: str) -> str:
    text = re.sub(r"^(?:\\approx(?![a-zA-Z])|\\text\{[^{}]*(?:approx|about)[^{}]*\}|[:=])\s*", "", text)
    match = _LEADING.match(text)
    text = text[match.end() :] if match and re.search(r"\d|\\", text[match.end() :]) else text
    words = _LEADING_WORDS.match(text)
    if words and not any(word.lower() in FUNCTIONS for word in words[0].split()) and re.search(r"[a-z]{3}", words[0]):
        return text[words.end() :]
    return text


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces between separators that lie outside all brackets; separators themselves stand at the odd places."""
    depth = 0
    pieces: list[str] = []
    start = place = 0
    while place < len(text):
        bracket = _BRACKETS.match(text, place)
        if bracket:
            found = separator.match(text, place) if depth == 0 and bracket[0] not in _CLOSING else None
            if not found:
                depth += 1 if bracket[0] in _OPENING else -1
                depth = max(depth, 0)
                place = bracket.end()
                continue
        else:
            found = separator.match(text, place) if depth == 0 else None
        if found:
            pieces += [text[start:place], found[0]]
            start = place = found.end()
        elif text[place] == "\\" and not bracket:
            command = re.compile(r"\\(?:[a-zA-Z]+|.)?", re.DOTALL).match(text, place)
            place = max(place + 1, command.end() if command else 0)
        else:
            place += 1
    return [*pieces, text[start:]]


def _read_matrix(text: str, depth: int) -> Value | None:
    relations = _ROWS_OF_RELATIONS.fullmatch(text)
    if relations:
        text = relations[2].replace("&", "").strip(f"{ROW_END} ,")
        return _read(re.sub(rf"[,;]?\s*{ROW_END}", ",", text), depth + 1)
    match = _MATRIX.fullmatch(text)
    if match is None or match[1] in ("vmatrix", "Vmatrix") or "\\begin" in match[2]:
        return None
    lines = [line for line in match[2].split(ROW_END) if line.strip()]
    rows = [tuple(_read(cell, depth + 1) for cell in line.split("&")) for line in lines]
    if not rows or len(rows) * len(rows[0]) > _MAX_ITEMS or len({len(row) for row in rows}) != 1:
        return None
    return Matrix(tuple(zip(*rows, strict=True)) if match[3] else tuple(rows))


def _read_union(text: str, depth: int) -> Value | None:
    pieces = split_top(text, re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]])\s*U\s*(?=[(\[])"))[::2]
    if len(pieces) < 2 or len(pieces) > _MAX_ITEMS or _SIGN.search(text) or "\\in " in text:
        return None
    return Union(tuple(_read(piece, depth + 1) for piece in pieces))


def _read_list(text: str, depth: int) -> Value | None:
    if re.fullmatch(r"\][^\[\]]*\[", text):
        return Sequence("(", ")", tuple(_read(part, depth + 1) for part in text[1:-1].split(",")))
    pieces = [piece.strip() for piece in split_top(text, _SEPARATOR)[::2]]
    pieces = [piece for piece in pieces if piece]
    if ("\\pm" in text or "\\mp" in text) and not any(_lists(piece) for piece in pieces):
        pieces = [variant for piece in pieces for variant in _plus_minus(piece)]
    if not 2 <= len(pieces) <= _MAX_ITEMS:
        return None
    if all(re.fullmatch(r"[a-zA-Z' ]*[a-z]{3,}[a-zA-Z' ]*", piece) for piece in pieces) and "," not in text:
        return None  # prose with an "and" in it
    return Sequence("", "", tuple(_read(piece, depth + 1) for piece in pieces))


def _lists(piece: str) -> bool:
    """Whether a text is one bracketed group of several parts, which expands its own signs."""
    inside = re.sub(r"^(?:\\\{|[(\[])|(?:\\\}|[)\]])$", "", piece)
    return inside != piece and _group_end(piece) == len(piece) and len(split_top(inside, re.compile(r"[,;]"))) > 1


def _plus_minus(piece: str) -> list[str]:
    if "\\pm" not in piece and "\\mp" not in piece:
        return [piece]
    upper = re.sub(r"\\mp(?![a-zA-Z])", "-", re.sub(r"\\pm(?![a-zA-Z])", "+", piece))
    lower = re.sub(r"\\mp(?![a-zA-Z])", "+", re.sub(r"\\pm(?![a-zA-Z])", "-", piece))
    return [upper, lower]


def _read_membership(text: str, depth: int) -> Value | None:
    pieces = split_top(text, re.compile(r"\\in(?![a-zA-Z])"))[::2]
    return _read(pieces[1], depth + 1) if len(pieces) == 2 and _NAME.fullmatch(pieces[0].strip()) else None


def _read_relation(text: str, depth: int) -> Value | None:
    pieces = split_top(text, _SIGN)
    if len(pieces) < 3 or len(pieces) > 13 or not all(piece.strip() for piece in pieces):
        return None
    return Relation(tuple(piece.strip() for piece in pieces[::2]), tuple(sign.strip().removeprefix(":") for sign in pieces[1::2]))


def is_name(text: str) -> bool:
    """Whether the left side of an equation names its right side: x, a_n, f(x), AB, \\frac{dy}{dx}, y'. \\pi does not."""
    if re.fullmatch(r"\\frac\{d\^?\d?[^{}]{0,20}\}\{d[^{}]{0,20}\}", text):
        return True
    if len(text) > 60 or text in ("e", "i") or _is_constant(text):
        return False
    if re.fullmatch(r"[a-zA-Z]\([^()]*\)", text):  # f(2), P(X = 1)
        return True
    names = text[1:-1].split(",") if text.startswith("(") and text.endswith(")") and "," in text else [text]  # (x, y) = (1, 2)
    return all(_NAME.fullmatch(name.strip()) is not None for name in names)


def _is_constant(text: str) -> bool:
    node = read_expression(text) if len(text) > 1 else None
    return node is not None and not variables(node)


def _read_brackets(text: str, depth: int) -> Value | None:
    """A text that is one bracketed group: tuple, interval, set, list, nested lists (a matrix), or a value in parentheses."""
    for opening, closings in (("\\{", ("\\}",)), ("{", ("}",)), ("(", (")", "]")), ("[", ("]", ")"))):
        if text.startswith(opening):
            closing = next((mark for mark in closings if text.endswith(mark)), None)
            if closing is None or _group_end(text) != len(text):
                return None
            inside = text[len(opening) : -len(closing)]
            return _read_group(opening.removeprefix("\\"), closing.removeprefix("\\"), opening == "{", inside, depth)
    return None


def _group_end(text: str) -> int:
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth += 1 if bracket[0] in _OPENING else -1
        if depth == 0:
            return bracket.end()
    return -1


def _read_group(opening: str, closing: str, plain_braces: bool, inside: str, depth: int) -> Value | None:
    pieces = [piece.strip() for piece in split_top(inside, re.compile(r"[,;]"))[::2]]
    pieces = [variant for piece in pieces for variant in _plus_minus(piece)] if opening == "{" else pieces
    if not all(pieces) or len(pieces) > _MAX_ITEMS:
        return None
    items = tuple(_read(piece, depth + 1) for piece in pieces)
    if len(items) > 1:
        nested = opening == "[" and all(isinstance(item, Sequence) and item.opening == "[" for item in items)
        if nested:
            rows = tuple(item.items for item in items if isinstance(item, Sequence))
            return Matrix(rows) if len({len(row) for row in rows}) == 1 else None
        return Sequence(opening, closing, items)
    if len(items) == 1 and isinstance(items[0], Matrix):
        return items[0]
    if (opening == "{" and not plain_braces) or opening == "[":
        return Sequence(opening, closing, items)
    return items[0] if opening in "({" and closing in ")}" else None


def as_text(value: Value) -> str:
    """Letters and digits of a scalar, for comparing words."""
    return plain_words(value.text) if isinstance(value, Scalar) else ""
