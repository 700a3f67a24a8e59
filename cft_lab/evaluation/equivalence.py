"""Whether an answer is mathematically the gold: three-valued, because some comparisons need a computer algebra system.

`compare` decides structure (order, brackets, units, percent) and everything that cft_lab.evaluation.expressions can read. Where
a part cannot be read it asks `decide`, which in this process says None ("not here") and in a worker process is math-verify.
The conventions, with reasons, are in docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

from cft_lab.evaluation.answer_text import canonical, clean, plain_words
from cft_lab.evaluation.answers import Matrix, Relation, Sequence, Union, Value, as_text, read_part, readings
from cft_lab.evaluation.decimals import STRICT, Terms, rounds, within_tolerance
from cft_lab.evaluation.expressions import read_expression, variables
from cft_lab.evaluation.numeric import constant_ratio, same_function
from cft_lab.evaluation.relations import as_union, assignment, difference, flip, interval, is_inequality
from cft_lab.evaluation.scalars import Scalar
from cft_lab.evaluation.units import known_unit

#: decides what this module cannot read: (gold text, answer text) -> equal, not equal, or None for "cannot be told here"
Decide = Callable[[str, str], bool | None]


class UnreadableGoldError(ValueError):
    """The gold looks like mathematics and cannot be read: nothing can be measured against it."""


def not_here(gold: str, answer: str) -> bool | None:
    """The `decide` of this process: what cannot be read is left to a worker."""
    return None


def compare(gold: str, answer: str, terms: Terms = STRICT, decide: Decide = not_here) -> bool | None:
    """Whether `answer` equals `gold`; None if it cannot be told without a worker. Raises UnreadableGoldError only from `decide`."""
    cleaned = clean(gold), clean(answer)
    if cleaned[0] == cleaned[1] or canonical(cleaned[0]) == canonical(cleaned[1]) != "":
        return True
    verdict: bool | None = False
    for gold_value in readings(gold):
        for answer_value in readings(answer):
            found = _Comparison(terms, decide).values(gold_value, answer_value)
            if found:
                return True
            verdict = None if found is None else verdict
    return verdict


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """False if any is, else None if any is, else True."""
    result: bool | None = True
    for verdict in verdicts:
        if verdict is False:
            return False
        result = None if verdict is None else result
    return result


@dataclass(frozen=True)
class _Comparison:
    terms: Terms
    decide: Decide

    def values(self, gold: Value, answer: Value) -> bool | None:
        """Dispatches on the two structures; the gold's decides what is asked of the answer."""
        if isinstance(gold, Scalar) and isinstance(answer, Scalar):
            return self.scalars(gold, answer)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self.relations(gold, answer)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.relation_and_value(gold, answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return self.matrices(gold, answer)
        if isinstance(gold, Union) or isinstance(answer, Union):
            return self.unions(gold, answer)
        if isinstance(gold, Sequence) and isinstance(answer, Sequence):
            return self.sequences(gold, answer)
        return self.sequence_and_scalar(gold, answer)

    # sequences

    def sequences(self, gold: Sequence, answer: Sequence) -> bool | None:
        if gold.opening == "" and all(is_inequality(item) for item in gold.items + answer.items):
            return self.unions(as_union(gold), as_union(answer))
        if gold.opening == "" and answer.opening != "" and len(gold.items) != len(answer.items):
            return False
        if gold.opening == "" or gold.opening == answer.opening == "{":
            once = gold.opening == "{"
            return self.unordered(_distinct(gold.items) if once else gold.items, _distinct(answer.items) if once else answer.items)
        if answer.opening != "" and not self._same_brackets(gold, answer):
            return False
        if gold.opening == "{":
            return self.unordered(gold.items, answer.items)
        return self.ordered(gold.items, answer.items)

    def _same_brackets(self, gold: Sequence, answer: Sequence) -> bool:
        if (gold.opening, gold.closing) == (answer.opening, answer.closing):
            return True
        if "{" in (gold.opening, answer.opening):
            return False
        return self.terms.lists_are_tuples or len(gold.items) > 2

    def ordered(self, gold: Many[Value], answer: Many[Value]) -> bool | None:
        if len(gold) != len(answer):
            return False
        return all_of(
            self.values(g, _value_side(a) if not isinstance(g, Relation) else a) for g, a in zip(gold, answer, strict=True)
        )

    def unordered(self, gold: Many[Value], answer: Many[Value]) -> bool | None:
        """Whether the parts can be paired off: surely (all pairs equal), surely not, or None if it hangs on open pairs."""
        if len(gold) != len(answer):
            return False
        table = [[self.values(g, a) for a in answer] for g in gold]
        if _pairs_off([[verdict is True for verdict in row] for row in table]):
            return True
        return None if _pairs_off([[verdict is not False for verdict in row] for row in table]) else False

    def sequence_and_scalar(self, gold: Value, answer: Value) -> bool | None:
        """One part against several: equal only if the several are one value."""
        several, one = (gold, answer) if isinstance(gold, Sequence) else (answer, gold)
        if isinstance(several, Sequence) and isinstance(one, Scalar):
            if len(several.items) == 1 or several.opening == "":  # a set of one; "3/4 or 0.75"
                return all_of(self.values(item, answer) if several is gold else self.values(gold, item) for item in several.items)
            if _is_reals(one):
                return _all_real(several)
            if one.is_text:
                return plain_words(one.text) == "".join(as_text(item) for item in several.items)
            if read_expression(one.body) is not None or not re.search(r"\\(?!text)[a-zA-Z]", one.body):
                return False
        return self.decide(*(_text_of(value) for value in (gold, answer)))

    # unions and intervals

    def unions(self, gold: Value, answer: Value) -> bool | None:
        sides: list[Many[Value]] = []
        for value in (gold, answer):
            if isinstance(value, Sequence) and value.opening == "" and all(is_inequality(item) for item in value.items):
                value = as_union(value)  # x < 1 or x > 3
            sides.append(value.items if isinstance(value, Union) else (value,))
        return self.unordered(*sides)

    # matrices

    def matrices(self, gold: Value, answer: Value) -> bool | None:
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            if (len(gold.rows), len(gold.rows[0])) != (len(answer.rows), len(answer.rows[0])):
                return False
            return self.ordered([cell for row in gold.rows for cell in row], [cell for row in answer.rows for cell in row])
        if any(isinstance(value, Scalar) and "\\begin" in value.body for value in (gold, answer)):
            return self.decide(_text_of(gold), _text_of(answer))  # sums and products of matrices
        cells = [_components(value) for value in (gold, answer)]
        if cells[0] is None or cells[1] is None:
            return False
        return self.ordered(cells[0], cells[1])

    # relations

    def relations(self, gold: Relation, answer: Relation) -> bool | None:
        if set(gold.signs) == set(answer.signs) == {"="}:
            gold_name, gold_value = assignment(gold)
            name, value = assignment(answer)
            if gold_name is not None and name is not None and canonical(gold_name) == canonical(name):
                return self.values(read_part(gold_value), read_part(value))
            return self.equations(gold, answer)
        if "=" in gold.signs or "=" in answer.signs:
            return False
        intervals = interval(gold), interval(answer)
        if intervals[0] is not None and intervals[1] is not None and canonical(intervals[0][0]) == canonical(intervals[1][0]):
            return self.values(intervals[0][1], intervals[1][1])
        if len(gold.signs) == len(answer.signs) == 1:
            return self.inequalities(gold, answer)
        return any_of(self.chains(gold, turned) for turned in (answer, flip(answer)))

    def chains(self, gold: Relation, answer: Relation) -> bool | None:
        if gold.signs != answer.signs:
            return False
        return all_of(self.values(read_part(g), read_part(a)) for g, a in zip(gold.sides, answer.sides, strict=True))

    def inequalities(self, gold: Relation, answer: Relation) -> bool | None:
        """l < r as l - r < 0, which may be multiplied by a positive constant."""
        below = [flip(relation) if relation.signs[0] in (">", "\\ge") else relation for relation in (gold, answer)]
        if below[0].signs != below[1].signs:
            return False
        sides = [difference(relation) for relation in below]
        if sides[0] is None or sides[1] is None:
            return self.chains(below[0], below[1])
        ratio = constant_ratio(sides[0], sides[1])
        return None if ratio is None else ratio > 0 or (ratio != 0 and below[0].signs[0] == "\\ne")

    def equations(self, gold: Relation, answer: Relation) -> bool | None:
        """l = r as l - r = 0, which may be multiplied by a constant."""
        if len(gold.signs) > 1 or len(answer.signs) > 1:
            return False
        sides = [difference(relation) for relation in (gold, answer)]
        if sides[0] is None or sides[1] is None:
            return all_of(
                self.decide(g, a)
                if read_expression(g) is None or read_expression(a) is None
                else self.values(read_part(g), read_part(a))
                for g, a in zip(gold.sides, answer.sides, strict=True)
            )
        if all(self.values(read_part(g), read_part(a)) for g, a in zip(gold.sides, answer.sides, strict=True)):
            return True
        if not variables(sides[0]) or not variables(sides[1]):
            return False
        ratio = constant_ratio(sides[0], sides[1])
        return None if ratio is None else ratio != 0

    def relation_and_value(self, gold: Value, answer: Value) -> bool | None:
        relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
        assert isinstance(relation, Relation)
        if set(relation.signs) == {"="}:
            name, value = assignment(relation)
            if name is None:
                return False
            part = read_part(value)
            return self.values(part, other) if relation is gold else self.values(other, part)
        found = interval(relation)
        if found is None or (isinstance(other, Scalar | Matrix) and not _is_reals(other)):
            return False
        return self.unions(found[1], other) if relation is gold else self.unions(other, found[1])

    # single values

    def scalars(self, gold: Scalar, answer: Scalar) -> bool | None:
        if gold.text == answer.text or (_is_reals(gold) and _is_reals(answer)):
            return True
        answer = _with_letter_unit(gold, answer)
        if gold.unit and answer.unit and gold.unit != answer.unit:
            return False
        if gold.base or answer.base:
            return gold.body == answer.body and (gold.base is None or answer.base is None or gold.base == answer.base)
        if gold.is_text or answer.is_text or ((gold.text + answer.text).isalpha() and min(len(gold.text), len(answer.text)) > 2):
            if plain_words(gold.text) == plain_words(answer.text) != "":
                return True
            if gold.is_text or answer.is_text:
                return False
        if gold.percent == answer.percent:
            return self.numbers(gold.body, answer.body)
        without, with_sign = (answer, gold) if gold.percent else (gold, answer)
        hundredth = replace(with_sign, body=f"({with_sign.body})/100", percent=False)
        whole = replace(with_sign, percent=False)
        pairs = [(form, without) if gold.percent else (without, form) for form in (whole, hundredth)]
        return any_of(self.numbers(g.body, a.body) for g, a in pairs)

    def numbers(self, gold: str, answer: str) -> bool | None:
        """Two bodies without units: exactly equal, equal as rounded decimals, or within the benchmark's tolerance."""
        if gold == answer:
            return True
        nodes = read_expression(gold), read_expression(answer)
        if nodes[0] is None or nodes[1] is None:
            if nodes[0] is not None and not re.search(r"\\[a-zA-Z]|[\^_=<>|]", answer):
                return False  # a sentence, or broken text: no computer algebra can make it the gold
            return self.decide(gold, answer)
        if within_tolerance(gold, nodes[0], nodes[1], self.terms) or rounds(gold, answer, nodes[0], nodes[1]):
            return True
        verdict = same_function(nodes[0], nodes[1])
        return self.decide(gold, answer) if verdict is None else verdict


def any_of(verdicts: Iterable[bool | None]) -> bool | None:
    """True if any is, else None if any is, else False."""
    result: bool | None = False
    for verdict in verdicts:
        if verdict:
            return True
        result = None if verdict is None else result
    return result


def _pairs_off(allowed: list[list[bool]]) -> bool:
    """Whether a perfect matching exists (augmenting paths)."""
    partner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fits in enumerate(allowed[row]):
            if fits and column not in tried:
                tried.add(column)
                if column not in partner or place(partner[column], tried):
                    partner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(allowed)))


def _distinct(items: Many[Value]) -> list[Value]:
    """A set's elements without those that repeat an earlier one."""
    kept: list[Value] = []
    for item in items:
        if not any(_Comparison(STRICT, not_here).values(item, other) for other in kept):
            kept.append(item)
    return kept


def _components(value: Value) -> Many[Value] | None:
    """The entries of a row or column vector, or of a tuple."""
    if isinstance(value, Matrix):
        vector = len(value.rows) == 1 or len(value.rows[0]) == 1
        return [cell for row in value.rows for cell in row] if vector else None
    return value.items if isinstance(value, Sequence) and value.opening in ("", "(", "[") else None


def _value_side(value: Value) -> Value:
    """x = 1 in an ordered list stands for 1."""
    if isinstance(value, Relation) and set(value.signs) == {"="}:
        name, text = assignment(value)
        return read_part(text) if name is not None else value
    return value


_REALS = re.compile(r"\\reals|(?:all|the)?\s*real\s*numbers?|all\s*reals?", re.IGNORECASE)


def _is_reals(value: Value) -> bool:
    return isinstance(value, Scalar) and _REALS.fullmatch(value.body.strip().replace("\\text", "").strip("{} ")) is not None


def _all_real(several: Sequence) -> bool:
    ends = [canonical(item.body) if isinstance(item, Scalar) else "" for item in several.items]
    return ends[0] == "-\\infty" and ends[-1].lstrip("+") == "\\infty"


def _text_of(value: Value) -> str:
    """A value's text as computer algebra reads it."""
    if isinstance(value, Scalar):
        return value.body
    if isinstance(value, Relation):
        return " ".join(part for pair in zip(value.sides, (*value.signs, ""), strict=True) for part in pair)
    if isinstance(value, Sequence):
        opening, closing = (f"\\{value.opening}", f"\\{value.closing}") if value.opening == "{" else (value.opening, value.closing)
        return opening + ",".join(_text_of(item) for item in value.items) + closing
    if isinstance(value, Union):
        return "\\cup ".join(_text_of(item) for item in value.items)
    return "\\begin{pmatrix}" + "\\\\".join("&".join(_text_of(cell) for cell in row) for row in value.rows) + "\\end{pmatrix}"


_LETTER_UNIT = re.compile(r"(.*\d)\s+([mghsLNJWVKACT]|[mk]?m/s(?:\^\{?2\}?)?|[mk]m/h)")


def _with_letter_unit(gold: Scalar, answer: Scalar) -> Scalar:
    """5 m is 5 with a unit, if the gold has no letters that m could be."""
    match = _LETTER_UNIT.fullmatch(answer.body)
    if match is None or re.search(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", gold.body):
        return answer
    return replace(answer, body=match[1], unit=known_unit(match[2]))
