"""From a benchmark's row to a `Problem` with a normalised gold answer: one function for each form of row.

Each function takes a row as a dict and the place where it stood, and accepts the columns of the hub's copy and of the copies
that evaluation repositories carry. A real row stands in its docstring, cut at "..."; GPQA's authors ask that none of its text is
shown in the open. A row that cannot be used raises `BadRowError`, whose text never quotes the row.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from cft_lab.records import Problem

Row = Mapping[str, Any]

LETTERS = "ABCDEFGHIJ"
GPQA_SHUFFLE_SEED = 0


class BadRowError(ValueError):
    """A row that cannot be used; the text says why without quoting it."""


def worked(row: Row, place: str, source: str) -> Problem:
    """MATH, MATH-500 and Minerva-Math: a problem whose gold is a column or the last box of its solution.

    {"problem": "How many vertical asymptotes does the graph of $y=\\\\frac{2}{x^2+x-6}$ have?", "level": "Level 3",
     "type": "Algebra", "solution": "The denominator ... the graph has $\\\\boxed{2}$ vertical asymptotes."}

    The hub's minervamath has only "question" and "answer".
    """
    solution = _optional(row, "solution")
    answer = _optional(row, "answer") or boxed_answer(solution or "")
    if not answer:
        raise BadRowError("it has neither an answer nor a \\boxed one in its solution")
    return Problem(
        id=_id(row, place, source),
        question=_required(row, "problem", "question"),
        source=source,
        answer=answer,
        solution=solution,
        subject=_optional(row, "subject", "type"),
        level=_level(row.get("level")),
    )


def contest(row: Row, place: str, source: str) -> Problem:
    """AIME and AMC, whose golds are whole numbers written "025" or 27.0 and become "25" and "27".

    math-ai/aime24 has no answer column, only the box of its solution.

    {"id": 60, "problem": "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop ...",
     "answer": "204", "url": "https://artofproblemsolving.com/wiki/index.php/2024_AIME_I_..."}
    """
    answer = _optional(row, "answer") or boxed_answer(_optional(row, "solution") or "")
    if not answer:
        raise BadRowError("it has neither an answer nor a \\boxed one in its solution")
    return Problem(
        id=_id(row, place, source),
        question=_required(row, "problem", "question"),
        source=source,
        answer=plain_number(answer),
        solution=_optional(row, "solution"),
        kind="number",
    )


def gsm8k(row: Row, place: str, source: str) -> Problem:
    """GSM8K: the gold follows "####" in the worked answer, and loses its thousands commas.

    {"question": "Janet’s ducks lay 16 eggs per day. ...",
     "answer": "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day. ...\\n#### 18"}
    """
    text = _required(row, "answer")
    worked_text, mark, last = text.rpartition("####")
    return Problem(
        id=_id(row, place, source),
        question=_required(row, "question"),
        source=source,
        answer=plain_number(last if mark else text),
        solution=worked_text.strip() if mark else _optional(row, "solution"),
        kind="number",
    )


def olympiadbench(row: Row, place: str, source: str) -> Problem:
    """OlympiadBench, text-only English mathematics.

    {"id": 1606, "subfield": "Combinatorics", "context": null, "question": "Xenia and Sergey play the following game. ...",
     "solution": ["Sergey can determine Xenia's number in 2 but not fewer moves. ..."], "final_answer": ["2"],
     "is_multiple_answer": false, "unit": null, "answer_type": "Numerical", "error": null}

    Dollar signs are dropped from golds and the entries of `final_answer` joined with commas; several answers become a `set`.
    `error` is the largest absolute error that is accepted.
    """
    answers = row.get("final_answer")
    listed = (
        [str(answer) for answer in answers] if isinstance(answers, Sequence) and not isinstance(answers, str) else [str(answers)]
    )
    gold = ", ".join(answer.replace("$", "").strip().removesuffix(".") for answer in listed)
    if answers is None or not gold.strip(", "):
        raise BadRowError("its final_answer is empty")
    context = _optional(row, "context")
    question = _required(row, "question")
    solutions = row.get("solution") or [None]
    return Problem(
        id=_id(row, place, source),
        question=f"{context}\n{question}" if context else question,
        source=source,
        answer=gold,
        solution=solutions if isinstance(solutions, str) else solutions[0],
        subject=_optional(row, "subfield"),
        kind="set" if row.get("is_multiple_answer") or len(listed) > 1 else "math",
        tolerance=_tolerance(row.get("error")),
    )


def theoremqa(row: Row, place: str, source: str) -> Problem:
    """TheoremQA: numbers, lists, True or False, or the letter of an option that stands in the question.

    {"Question": "How many ways are there to divide a set of 8 elements into 5 non-empty ordered subsets?", "Answer": 11760,
     "Answer_type": "integer", "Picture": null, "id": "jianyu_xu/Lah_number_6.json", "field": "Math"}

    The hub writes every Answer as a string. A float stays a decimal, 345.0 too: the benchmark's own evaluator takes floats within
    4 % and integers exactly, so graders must be able to tell them apart.
    """
    kind = _required(row, "Answer_type", "answer_type")
    answer = row.get("Answer", row.get("answer"))
    if answer is None:
        raise BadRowError("its Answer is empty")
    return Problem(
        id=_id(row, place, source),
        question=_required(row, "Question", "question"),
        source=source,
        answer=_theoremqa_gold(kind, answer),
        subject=_optional(row, "subfield", "field"),
        kind={"bool": "bool", "option": "choice", "integer": "number", "float": "number"}.get(kind, "list"),
        needs_picture=_has_picture(row.get("Picture")),
    )


def gpqa(row: Row, place: str, source: str) -> Problem:
    """GPQA: one right and three wrong answers, shuffled by a fixed seed and the row's id, so the order of rows does not matter.

    Columns: "Question", "Correct Answer", "Incorrect Answer 1" to "Incorrect Answer 3", "Record ID", "Subdomain". Copies whose
    options are in order already have "question", "options" and "answer" and are read like MMLU-Pro.
    """
    if "Correct Answer" not in row:
        return multiple_choice(row, place, source)
    right = _required(row, "Correct Answer")
    options = [right, *(_required(row, f"Incorrect Answer {number}") for number in (1, 2, 3))]
    name = _id(row, place, source)
    order = list(range(len(options)))
    random.Random(f"{GPQA_SHUFFLE_SEED}/{name}").shuffle(order)
    return Problem(
        id=name,
        question=_required(row, "Question"),
        source=source,
        answer=LETTERS[order.index(0)],
        subject=_optional(row, "Subdomain", "High-level domain"),
        kind="choice",
        options=tuple(options[i] for i in order),
    )


def multiple_choice(row: Row, place: str, source: str) -> Problem:
    """MMLU-Pro: up to ten options and the letter of the right one.

    {"question_id": 87, "question": "George is seen to place an even-money $100,000 bet on the Bulls ...",
     "options": ["0.525", "0.800", ...], "answer": "C", "answer_index": 2, "category": "business", "src": "theoremQA-Finance"}
    """
    options = row.get("options")
    if not isinstance(options, Sequence) or isinstance(options, str) or not 1 <= len(options) <= len(LETTERS):
        raise BadRowError(f"its options are not a list of 1 to {len(LETTERS)} texts")
    letter = _required(row, "answer").strip("()").upper()
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise BadRowError(f"its answer is not one of the letters {LETTERS[: len(options)]}")
    if row.get("answer_index") is not None and row["answer_index"] != LETTERS.index(letter):
        raise BadRowError("its answer and its answer_index disagree")
    return Problem(
        id=_id(row, place, source),
        question=_required(row, "question"),
        source=source,
        answer=letter,
        subject=_optional(row, "category", "subject"),
        kind="choice",
        options=tuple(str(option).strip() for option in options),
    )


def boxed_answer(solution: str) -> str | None:
    """The content of a reference solution's last \\boxed{...} (\\fbox, \\framebox, `\\boxed 5`); None if there is none."""
    found = list(re.finditer(r"\\(?:boxed|fbox|framebox)\s*(?P<brace>\{)?", solution))
    if not found:
        return None
    rest = solution[found[-1].end() :]
    if not found[-1]["brace"]:
        bare = re.match(r"[^\s$]+", rest)
        return bare[0].rstrip(".,;") or None if bare else None
    depth = 1
    for match in re.finditer(r"\\.|[{}]", rest, re.DOTALL):  # an escaped brace is a character, not a group
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return rest[: match.start()].strip() or None
    return None


def plain_number(value: Any) -> str:
    """A number without leading zeros, thousands commas, a trailing ".0" or an exponent. Raises BadRowError for anything else."""
    try:
        number = Decimal(str(value).strip().replace(",", ""))
    except InvalidOperation:
        raise BadRowError("its answer is not a number") from None
    if not number.is_finite():
        raise BadRowError("its answer is not a finite number")
    whole = number.to_integral_value()
    return str(int(whole)) if number == whole else format(number.normalize(), "f")


def _decimal(value: Any) -> str:
    """A plain number that shows by its point that it is a float."""
    text = plain_number(value)
    return text if "." in text else f"{text}.0"


def _theoremqa_gold(kind: str, answer: Any) -> str:
    if kind == "bool":
        truth = {"true": "True", "false": "False"}.get(str(answer).strip().lower())
        if truth is None:
            raise BadRowError("its Answer is neither True nor False")
        return truth
    if kind == "option":
        letter = str(answer).strip().strip("()").upper()
        if len(letter) != 1 or letter not in LETTERS:
            raise BadRowError("its Answer is not the letter of an option")
        return letter
    if kind.startswith("list of "):
        try:
            values = json.loads(answer) if isinstance(answer, str) else answer
        except ValueError as error:
            raise BadRowError("its Answer is not a list") from error
        if not isinstance(values, list) or not values:
            raise BadRowError("its Answer is not a list")
        return f"[{', '.join(_decimal(value) if kind == 'list of float' else plain_number(value) for value in values)}]"
    if kind in ("integer", "float"):
        return _decimal(answer) if kind == "float" else plain_number(answer)
    raise BadRowError("its Answer_type is not bool, option, integer, float or a list of numbers")


def _id(row: Row, place: str, source: str) -> str:
    """The data's own id where there is one, so that ids do not depend on the order of rows; else the place of the row."""
    own = next((row[name] for name in ("unique_id", "id", "question_id", "Record ID", "idx") if row.get(name) is not None), place)
    return f"{source}/{own}"


def _optional(row: Row, *names: str) -> str | None:
    """The first of these columns that has a text."""
    for name in names:
        if row.get(name) is not None and str(row[name]).strip():
            return str(row[name]).strip()
    return None


def _required(row: Row, *names: str) -> str:
    text = _optional(row, *names)
    if text is None:
        raise BadRowError(f"its {' or '.join(names)} is empty")
    return text


def _level(value: Any) -> str | None:
    """5 or "Level 5" as "5"; None for "Level ?"."""
    digits = re.search(r"\d+", str(value))
    return digits[0] if digits else None


def _tolerance(error: Any) -> float | None:
    if error is None or not str(error).strip():
        return None
    try:
        return float(error)
    except ValueError as problem:
        raise BadRowError("its error is not a number") from problem


def _has_picture(picture: Any) -> bool:
    """A path in local copies; bytes and a path on the hub."""
    if isinstance(picture, Mapping):
        return any(picture.values())
    return picture is not None and str(picture).strip().lower() not in ("", "none", "null")
