"""From one row of a data set, in any of three layouts, to question, solution, gold answer and critique.

columns    mapped columns; a dotted name goes into nested ones (student_solution.solution)
messages   a conversation [{role, content}, ...] of one user turn and one assistant turn; a system turn is ignored
critique   instruction / input / output as in WebInstruct-CFT: input is "Question:\\n...\\n\\nSolution:\\n...", output the critique

A row that cannot be read raises `RowError` with a short reason, under which it is counted; it costs nothing but itself.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cft_lab.config import DataConfig
from cft_lab.prompts import parse_question_and_solution

Row = Mapping[str, Any]

#: layout -> the fields that it cannot do without, each with the column that holds it unless data.columns names another
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "columns": {"question": "question", "solution": "solution"},
    "messages": {"messages": "messages"},
    "critique": {"input": "input", "output": "output"},
}
#: further fields of each layout that a data set may lack
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "columns": ("answer", "subject", "critique"),
    "messages": ("solution", "answer", "subject"),
    "critique": ("answer", "subject"),
}
#: columns that are listed in a message are looked for this many levels deep: a row may be nested deeper than Python recurses
_LISTED_LEVELS = 3
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CRITIQUE_LABEL = re.compile(r"\A\s*Critique:\s*")
_QUOTED = 80  # characters
_SHORT = reprlib.Repr()  # str() of a value that is nested deeply enough raises RecursionError
_SHORT.maxstring = _QUOTED


class RowError(ValueError):
    """A row that cannot be used. `reason` is what it is counted under, `quote` the start of what was found."""

    def __init__(self, reason: str, quote: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.quote = shown(quote if isinstance(quote, str) else _SHORT.repr(quote))


class Found(NamedTuple):
    """What a source has in one place (file and line, or the number of the row): a row, or why there is none."""

    where: str
    row: Row | RowError


def shown(text: str) -> str:
    """The start of a text of unknown origin, such that it can be printed and written as UTF-8."""
    return text.strip()[:_QUOTED].encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class SourceRow:
    """One usable row. Texts are stripped of outer blanks and never empty; `critique` is there only if released ones are read."""

    question: str
    solution: str
    answer: str | None = None
    subject: str | None = None
    critique: str | None = None


def column_map(data: DataConfig) -> dict[str, str]:
    """Our field -> its column, with the defaults of the layout filled in; a field that is mapped to nothing is not read.

    A column `answer` of plain columns is the gold answer if nothing else is read from it (some data sets call the solution so).
    """
    defaults = dict(_FIELDS[data.layout])
    taken = {column.partition(".")[0] for column in data.columns.values()}
    if data.layout == "columns" and data.gold == "column" and "answer" not in taken:
        defaults["answer"] = "answer"
    return {field: column for field, column in (defaults | dict(data.columns)).items() if column}


def layout_problems(data: DataConfig) -> Iterator[str]:
    """One line for each way in which layout, columns, gold and critiques contradict each other."""
    columns = column_map(data)
    allowed = (*_FIELDS[data.layout], *_OPTIONAL[data.layout])
    for field in data.columns:
        if field not in allowed:
            yield f"data.columns.{field} is unknown to data.layout={data.layout}: choose from {', '.join(allowed)}"
    for field in _FIELDS[data.layout]:
        if field not in columns:
            yield f"data.columns.{field} is empty: data.layout={data.layout} needs the name of the column that holds it"
    if data.gold != "column" and data.columns.get("answer"):
        yield f"data.gold={data.gold} reads no column: remove data.columns.answer, or set data.gold=column"
    if data.gold != "column" and data.layout == "critique":
        yield f"data.gold={data.gold} would take a noisy solution for gold: data.layout=critique allows only data.gold=column"
    if data.critiques == "released" and data.layout != "critique" and "critique" not in columns:
        yield (
            "data.critiques=released needs the critiques: set data.layout=critique, or +data.columns.critique=COLUMN to the column "
            "that holds them, or use data.critiques=teacher"
        )


def column_names(row: Row, levels: int = _LISTED_LEVELS) -> set[str]:
    """The names of a row's columns, nested ones dotted beside their parent, so many levels deep."""
    names = set()
    for name, value in row.items():
        names.add(name)
        if isinstance(value, Mapping) and levels > 1:
            names |= {f"{name}.{inner}" for inner in column_names(value, levels - 1)}
    return names


def missing_columns(data: DataConfig, rows: Iterable[Row]) -> dict[str, str]:
    """Our field -> the column that was to hold it, for every column that is needed and in none of the rows.

    Not needed are the subject, an answer that data.columns does not name, and critiques that are not read.
    """
    spared = {"subject"} if "answer" in data.columns else {"subject", "answer"}
    spared |= {"critique", "output"} if data.critiques != "released" else set()
    missing = {field: column for field, column in column_map(data).items() if field not in spared}
    for row in rows:
        missing = {field: column for field, column in missing.items() if not _has(row, column)}
    return missing


def _has(row: Row, column: str) -> bool:
    """Whether the row has the column, whatever it holds."""
    parent, _, name = column.rpartition(".")
    inside = lookup(row, parent) if parent else None
    return column in row or (isinstance(inside, Mapping) and name in inside)


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
    by_role: dict[str, list[Row]] = {"system": [], "user": [], "assistant": []}
    for turn in turns:
        role = turn.get("role")
        if not isinstance(role, str) or role not in by_role:
            raise RowError("a turn of unknown role", role)
        by_role[role].append(turn)
    apart = "solution" in columns
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
    _, _, after = text.partition("Question:\n")
    # looked for first, because without it the parser would go through the rest of the text once for every `Question:`
    parsed = parse_question_and_solution(text) if "\n\nSolution:\n" in after else None
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
    """A short value as text: numbers are written out; nothing, blanks and numbers that are not finite (NaN) are None."""
    value = lookup(row, columns[field]) if field in columns else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
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
