"""`python -m cft_lab grade FILE.jsonl`: grades answers of any system, one JSON object per line.

    {"gold": "72", "response": "... The answer is 72.", "expected": true}
    {"gold": "B", "pred": "(b)", "options": ["3 cm", "5 cm"]}

A row needs `gold` and either `response` (free text: the answer is extracted) or `pred` (an answer); where both are given,
`response` is graded. Optional: `expected` (whether a person calls it right), `options` (texts of A, B, ...), `finish` (stop,
length, error) and `tolerance` (an absolute error that the item allows). The rows come out in order with `extracted`, `rule`,
`outcome`, the outcome of both graders as `strict` and `paper`, and `reason` for an error. A bad row costs itself: outcome error.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.profiles import PROFILES, Profile, profile_of
from cft_lab.evaluation.statistics import wilson
from cft_lab.evaluation.workers import Limits, WorkerPool, processors
from cft_lab.records import Grade, Outcome

_CHUNK = 2_000  # rows that are graded together: results flow while a long file is read
_FINISHES = ("stop", "length", "error")
_MAX_OPTIONS = 10


class RowError(ValueError):
    """A row that cannot be graded; the message says which field, what it was and what is allowed."""


def add_parser(commands: Any) -> None:
    """Adds `grade` to the subparsers of `python -m cft_lab`."""
    parser = commands.add_parser("grade", help="grades a JSONL file of golds and answers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument(
        "--grader", choices=("strict", "paper"), default="strict", help="whose verdict is `outcome` (default: strict)"
    )
    parser.add_argument(
        "--benchmark", default="any", metavar="NAME", help=f"extraction rules and tolerance of a benchmark: {', '.join(PROFILES)}"
    )
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="worker processes at most (default: one per processor)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the rows go (default: stdout)")
    parser.add_argument("--csv", action="store_true", help="rows as CSV instead of JSON lines")


def run(options: argparse.Namespace) -> int:
    """Grades the file; returns 0, 2 if the command cannot start (nothing is written then), or 130 if it was interrupted."""
    problem, profile = _check(options)
    if profile is None:
        print(problem, file=sys.stderr)
        return 2
    started = time.perf_counter()
    summary = _Summary(options.grader)
    try:
        with WorkerPool(options.jobs or processors(), Limits()) as pool:
            rows = summary.watch(_graded(_read(options.file), profile, options.grader, pool))
            _write(rows, options.output, options.csv)
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    print(summary.text(profile.name, time.perf_counter() - started), file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> tuple[str, Profile | None]:
    """What keeps the command from starting ("" if nothing does), and the profile if nothing does."""
    try:
        profile = profile_of(options.benchmark)
    except ValueError as error:
        return f"--benchmark: {error}", None
    if options.jobs is not None and options.jobs < 1:
        return f"--jobs {options.jobs} must be 1 or more", None
    if not options.file.is_file():
        return f"{options.file} is not a file: name a file with one JSON object per line", None
    try:
        with options.file.open("rb"):
            pass
    except OSError as error:
        return f"{options.file} cannot be read: {error.strerror}", None
    if options.output is not None and (options.output.is_dir() or not options.output.absolute().parent.is_dir()):
        return f"--output {options.output} cannot be written: name a file in a folder that exists", None
    return "", profile


# rows


def _read(path: Path) -> Iterator[tuple[dict[str, Any], Submission | None]]:
    """(row as it came, what to grade) per line; None for a bad row, which has its `reason` then. Empty lines are no rows."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            row: Any = None
            try:
                row = _parsed(line)
                yield row, submission(row, str(number))
            except RowError as error:
                kept = row if isinstance(row, dict) else {"input": line.decode("utf-8", "replace").rstrip("\r\n")}
                yield {**kept, "reason": f"line {number}: {error}"}, None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"not valid UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON ({str(error)[:100]})") from error
    if not isinstance(row, dict):
        raise RowError(f"must be a JSON object with gold and response or pred, got {type(row).__name__}")
    return row


def submission(row: Mapping[str, Any], name: str) -> Submission:
    """What a row asks to grade. Raises RowError if a field is missing or of a wrong type."""
    if row.get("gold") is None:
        raise RowError("gold is missing; every row needs the right answer")
    gold = _text(row["gold"], "gold")
    if not gold.strip():
        raise RowError("gold is empty; every row needs the right answer")
    if row.get("response") is None and row.get("pred") is None:
        raise RowError("neither response nor pred is given; one of them is what gets graded")
    response = row.get("response")
    if response is not None and not isinstance(response, str):
        raise RowError(f"response must be text, got {type(response).__name__}")
    _expected(row)
    finish = row.get("finish") or "stop"
    if finish not in _FINISHES:
        raise RowError(f"finish {finish!r} must be one of {', '.join(_FINISHES)}")
    text = response if response is not None else _text(row["pred"], "pred")
    return Submission(name, gold, text, finish, _options(row), response is None, _tolerance(row))


def _text(value: Any, field: str) -> str:
    """Text, or a number, truth value or list as its text; several texts in a list are the parts of one answer."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    if isinstance(value, list) and value and all(isinstance(part, int | float) for part in value):
        return json.dumps(value)
    raise RowError(f"{field} must be text, a finite number, true or false, or a list of texts or numbers, got {str(value)[:80]!r}")


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    options = row.get("options")
    if options is None:
        return ()
    if not isinstance(options, list) or not 1 <= len(options) <= _MAX_OPTIONS:
        raise RowError(f"options must be a list of 1 to {_MAX_OPTIONS} texts (A, B, ...), got {str(options)[:80]!r}")
    return tuple(_text(option, "options") for option in options)


def _tolerance(row: Mapping[str, Any]) -> Fraction:
    value = row.get("tolerance")
    if value is None:
        return Fraction(0)
    try:
        tolerance = float(str(value))  # from text: True is no number, and an integer may have any number of digits
    except ValueError as error:
        raise RowError(f"tolerance {str(value)[:80]!r} must be a number") from error
    if not math.isfinite(tolerance) or tolerance < 0:
        raise RowError(f"tolerance {str(value)[:80]!r} must be finite and not negative")
    return Fraction(repr(tolerance))  # the decimal as written: 0.1 is 1/10


def _expected(row: Mapping[str, Any]) -> bool | None:
    value = row.get("expected")
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise RowError(f"expected {str(value)[:80]!r} must be true or false")


def _graded(
    rows: Iterable[tuple[dict[str, Any], Submission | None]], profile: Profile, grader: str, pool: WorkerPool
) -> Iterator[dict[str, Any]]:
    chunk: list[tuple[dict[str, Any], Submission | None]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield from _grade_chunk(chunk, profile, grader, pool)
            chunk = []
    yield from _grade_chunk(chunk, profile, grader, pool)


def _grade_chunk(
    chunk: Sequence[tuple[dict[str, Any], Submission | None]], profile: Profile, grader: str, pool: WorkerPool
) -> Iterator[dict[str, Any]]:
    grades = iter(grade_many([asked for _, asked in chunk if asked is not None], profile, pool=pool))
    for row, asked in chunk:
        yield _with_grade(row, next(grades), grader) if asked is not None else _bad_row(row)


def _with_grade(row: dict[str, Any], grade: Grade, grader: str) -> dict[str, Any]:
    paper = grade.paper or grade.outcome
    outcome = grade.outcome if grader == "strict" else paper
    result = row | {"extracted": grade.extracted, "rule": grade.rule, "outcome": outcome.value}
    result |= {"strict": grade.outcome.value, "paper": paper.value}
    return result | ({"reason": grade.reason} if grade.reason else {})


def _bad_row(row: dict[str, Any]) -> dict[str, Any]:
    error = Outcome.ERROR.value
    return row | {"extracted": None, "rule": None, "outcome": error, "strict": error, "paper": error}


# output


def _write(rows: Iterable[dict[str, Any]], output: Path | None, as_csv: bool) -> None:
    """Writes the rows to stdout, or to a file that is put in place when it is complete."""
    lines = _csv_lines(rows) if as_csv else (_json_line(row) for row in rows)
    if output is None:
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return
    partial = output.with_name(output.name + ".partial")
    with partial.open("wb") as file:
        file.writelines(lines)
    partial.replace(output)


def _json_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _csv_lines(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """A header with every field of any row, then the rows; lists and objects as JSON."""
    kept = list(rows)
    fields = list(dict.fromkeys(name for row in kept for name in row))
    for cells in [fields, *([_cell(row.get(name)) for name in fields] for row in kept)]:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        yield line.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


class _Summary:
    """Counts rows as they pass."""

    def __init__(self, grader: str) -> None:
        self.grader = grader
        self.outcomes: Counter[str] = Counter()
        self.agreement: Counter[bool] = Counter()
        self.uncompared = 0
        self.graders_differ = 0

    def watch(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows, counted."""
        for row in rows:
            outcome = row["outcome"]
            self.outcomes[outcome] += 1
            self.graders_differ += row["strict"] != row["paper"]
            if row.get("expected") in (True, False):
                if outcome == Outcome.ERROR:
                    self.uncompared += 1
                else:
                    self.agreement[(outcome == Outcome.CORRECT) == bool(row["expected"])] += 1
            yield row

    def text(self, benchmark: str, seconds: float) -> str:
        """The summary. Errors are in no accuracy: nothing was measured there."""
        total = self.outcomes.total()
        correct = self.outcomes[Outcome.CORRECT]
        measured = total - self.outcomes[Outcome.ERROR]
        interval = wilson(correct, measured)
        lines = [
            f"{total} rows in {seconds:.1f} s ({total / seconds:.0f} rows/s), grader {self.grader}, rules of {benchmark}",
            "  ".join(f"{outcome.value} {self.outcomes[outcome]}" for outcome in Outcome),
        ]
        if interval is None:
            lines.append("accuracy: nothing was measured")
        else:
            low, high = interval
            share = f"accuracy {correct / measured:.2%} [{low:.2%}, {high:.2%}]"
            lines.append(f"{share} of {measured} rows (95 % Wilson interval; errors left out)")
        compared = self.agreement.total()
        if compared or self.uncompared:
            share = f" ({self.agreement[True] / compared:.2%})" if compared else ""
            left_out = f", {self.uncompared} errors left out" if self.uncompared else ""
            lines.append(f'agreement with "expected": {self.agreement[True]} of {compared}{share}{left_out}')
        lines.append(f"strict and paper differ on {self.graders_differ} rows")
        return "\n".join(lines)
