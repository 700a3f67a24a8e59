"""From one row of a data set, in any of three layouts, to question, solution, gold answer and critique.

columns    mapped columns; a dotted name goes into nested ones (student_solution.solution)
messages   a conversation [{role, content}, ...] of one user turn and one assistant turn; a system turn is ignored
critique   instruction / input / output as in WebInstruct-CFT: input is "Question:\\n...\\n\\nSolution:\\n...", output the critique

A row that cannot be read raises `RowError` with a short reason, under which it is counted; it costs nothing but itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.config import DataConfig
from cft_lab.prompts import parse_question_and_solution

Row = Mapping[str, Any]

#: layout -> the fields that data.columns may name in it; those with a default column may be left out
_FIELDS: Mapping[str, Mapping[str, str | None]] = {
    "columns": {"question": None, "solution": None},
    "messages": {"messages": "messages"},
    "critique": {"input": "input", "output": "output"},
}
#: further fields of each layout that a data set may lack
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "columns": ("answer", "subject", "critique"),
    "messages": ("solution", "answer", "subject"),
    "critique": ("answer", "subject"),
}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CRITIQUE_LABEL = re.compile(r"\A\s*Critique:\s*")


class RowError(ValueError):
    """A row that cannot be used. `reason` is what it is counted under, `quote` the start of what was found."""

    def __init__(self, reason: str, quote: object = "", where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.quote = str(quote).strip()[:80].encode("utf-8", "replace").decode("utf-8")
        self.where = where


@dataclass(frozen=True)
class SourceRow:
    """One usable row. Texts are stripped of outer blanks and never empty; `critique` is there only if released ones are read."""

    question: str
    solution: str
    answer: str | None = None
    subject: str | None = None
    critique: str | None = None


def column_map(data: DataConfig) -> dict[str, str]:
    """Our field -> its column, with the defaults of the layout filled in; a required field may still be missing."""
    defaults = {field: column for field, column in _FIELDS[data.layout].items() if column is not None}
    return defaults | dict(data.columns)


def layout_problems(data: DataConfig) -> Iterator[str]:
    """One line for each way in which layout, columns, gold and critiques contradict each other."""
    columns = column_map(data)
    allowed = (*_FIELDS[data.layout], *_OPTIONAL[data.layout])
    for field in data.columns:
        if field not in allowed:
            yield f"data.columns.{field} is unknown to data.layout={data.layout}: choose from {', '.join(allowed)}"
    for field in _FIELDS[data.layout]:
        if not columns.get(field):
            yield f"data.columns.{field} is missing: data.layout={data.layout} needs the name of the column that holds it"
    if data.gold != "column" and "answer" in data.columns:
        yield f"data.gold={data.gold} reads no column: remove data.columns.answer, or set data.gold=column"
    if data.gold != "column" and data.layout == "critique":
        yield f"data.gold={data.gold} would take a noisy solution for gold: data.layout=critique allows only data.gold=column"
    if data.critiques == "released" and data.layout != "critique" and "critique" not in columns:
        yield (
            "data.critiques=released needs the critiques: set data.layout=critique, or data.columns.critique to the column "
            "that holds them, or use data.critiques=teacher"
        )


def column_names(row: Row) -> set[str]:
    """The names of a row's columns, nested ones dotted beside their parent."""
    names = set()
    for name, value in row.items():
        names.add(name)
        if isinstance(value, Mapping):
            names |= {f"{name}.{inner}" for inner in column_names(value)}
    return names


def missing_columns(data: DataConfig, found: Iterable[str]) -> dict[str, str]:
    """Our field -> the column that was to hold it, for every mapped column that is not among those found."""
    names = set(found)
    return {field: column for field, column in column_map(data).items() if column not in names}


def read_row(data: DataConfig, row: Row) -> SourceRow:
    """The usable content of a row. Raises RowError if question, solution or a released critique is empty or no text."""
    columns = column_map(data)
    if data.layout == "messages":
        question, solution = _conversation(row, columns)
    elif data.layout == "critique":
        question, solution = _critique_input(_text(row, columns["input"], "input"))
    else:
        question, solution = _text(row, columns["question"], "question"), _text(row, columns["solution"], "solution")
    question, solution = _filled(question, "question"), _filled(solution, "solution")
    critique = None
    if data.critiques == "released":
        written = _text(row, columns["output" if data.layout == "critique" else "critique"], "critique")
        critique = _filled(_CRITIQUE_LABEL.sub("", written), "critique")
    return SourceRow(question, solution, _gold(data, row, columns, solution), _value(row, columns, "subject"), critique)


def lookup(row: Row, column: str) -> Any:
    """The value of a column, or of a nested one by its dotted name; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _conversation(row: Row, columns: Mapping[str, str]) -> tuple[str, str]:
    """Question and solution of a conversation; the solution may stand in a column of its own (AceMath)."""
    turns = lookup(row, columns["messages"])
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise RowError("messages are not a list of turns", turns)
    by_role: dict[Any, list[Row]] = {"user": [], "assistant": []}
    for turn in turns:
        by_role.setdefault(turn.get("role"), []).append(turn)
    apart = "solution" in columns
    if unknown := set(map(str, by_role)) - {"system", "user", "assistant"}:
        raise RowError("a turn of unknown role", ", ".join(sorted(unknown)))
    if len(by_role["user"]) > 1 or len(by_role["assistant"]) > (0 if apart else 1):
        raise RowError("several turns", by_role["user"][0].get("content") if by_role["user"] else "")
    question = _text(by_role["user"][0], "content", "question") if by_role["user"] else ""
    if apart:
        return question, _text(row, columns["solution"], "solution")
    return question, _text(by_role["assistant"][0], "content", "solution") if by_role["assistant"] else ""


def _critique_input(text: str) -> tuple[str, str]:
    """Question and solution of a critique prompt, cut at the first line that says `Solution:` after a blank one.

    The word elsewhere in the question does no harm. Where such a line occurs twice the first counts: solutions that have it as
    a heading are far commoner than questions that do.
    """
    parsed = parse_question_and_solution(text)
    if parsed is None:
        raise RowError("input is not a question and a solution", text)
    return parsed


def _text(row: Row, column: str, field: str) -> str:
    value = lookup(row, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{field} is not text", value)
    return value


def _filled(text: str, field: str) -> str:
    """The text without outer blanks. Raises RowError if nothing is left or is no valid Unicode (half a surrogate pair)."""
    stripped = text.strip()
    if not stripped:
        raise RowError(f"empty {field}")
    try:
        stripped.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"{field} is not valid Unicode", text) from error
    return stripped


def _value(row: Row, columns: Mapping[str, str], field: str) -> str | None:
    """A short value as text: numbers are written out, nothing and blanks are None."""
    value = lookup(row, columns[field]) if field in columns else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise RowError(f"{field} is not text", value)
    return _filled(value, field)


def _gold(data: DataConfig, row: Row, columns: Mapping[str, str], solution: str) -> str | None:
    """The gold answer, or None where the row has none."""
    if data.gold == "column":
        return _value(row, columns, "answer")
    if data.gold == "boxed":
        from cft_lab.evaluation.grading import extract_boxed

        return extract_boxed(solution)
    _, marker, tail = solution.rpartition("####")
    return _THOUSANDS.sub("", tail.strip()) or None if marker else None
