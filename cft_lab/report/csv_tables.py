"""Tables, data sets and notes of a report as CSV: every number, one a line; fractions as they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from cft_lab.report.tables import ITEMS, MEASURED, MISSING, DataSetTable, Delta, Report, ReportTable, Row

_VALUES = ("mean", "low", "high", "n_items", "seeds", "errors", "paper_grader", "truncated", "unparsed", "seed_sd")
_HEAD = (
    *("table", "kind", "row", "column", "benchmark", "state", *_VALUES, "covers", "published", "difference"),
    *("supervised_tokens", "reason", "note", "command", "cell"),
)
_DATA_SETS = ("name", "size", "seed", "discipline", "counted", "counted_in", "command")


def tables_csv(report: Report) -> list[str]:
    """The tables of cells in one text, entries and then differences of each, and the tables of data sets in another, if there."""
    cells = [table for table in report.tables if isinstance(table, ReportTable)]
    data_sets = [table for table in report.tables if isinstance(table, DataSetTable)]
    texts = [written(_HEAD, (line for table in cells for line in _lines(table)))] if cells else []
    if data_sets:
        lines = ((table.name, *(getattr(row, name) for name in _DATA_SETS)) for table in data_sets for row in table.rows)
        texts.append(written(("table", *_DATA_SETS), lines))
    return texts


def notes_csv(notes: Iterable[tuple[str, str]]) -> str:
    """Notes with the table that each is about; empty for the whole report."""
    return written(("table", "note"), notes)


def written(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Lines under a head as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return file.getvalue()


def _lines(table: ReportTable) -> Iterator[Sequence[object]]:
    for row in (*table.rows, *table.others):
        yield from _row(table.name, row)
    for delta in table.deltas:
        yield _delta(table.name, delta)


def _row(table: str, row: Row) -> Iterator[Sequence[object]]:
    for entry in row.entries.values():
        values = [getattr(entry.value, name) if entry.value else None for name in _VALUES]
        places = (table, "value", entry.row, entry.column, entry.benchmark, entry.state)
        covers = ITEMS if entry.value else None
        rest = (row.supervised_tokens, entry.reason, entry.note, entry.command, entry.cell)
        yield (*places, *values, covers, entry.published, entry.difference, *rest)


def _delta(table: str, delta: Delta) -> Sequence[object]:
    there = delta.estimate is not None
    values = [delta.estimate, delta.low, delta.high, delta.n_items, delta.seeds, *[None] * 5]
    places = (table, "difference", delta.label, "", delta.benchmark, MEASURED if there else MISSING)
    cells = " - ".join((delta.first, " | ".join(delta.rivals)))
    return (*places, *values, delta.covers if there else None, delta.published, None, None, delta.reason, None, None, cells)
