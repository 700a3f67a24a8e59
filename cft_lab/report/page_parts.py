"""What the page shows besides tables: arms in groups, curves, costs. Data and samples: page_data.py, page_samples.py.

Each part is read from the store through `Results` and is a frozen record of numbers and texts; templates only place them. What a
store does not have is None or left out, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cft_lab.report.tables import MEASURED, ArmTrace, Report, ReportTable, Row
from cft_lab.results import Results


@dataclass(frozen=True)
class Group:
    """Rows of a table that stand together. `label` is what they share; empty where a table has one group."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Curve:
    """The training of one run: validation accuracy of its checkpoints (step, accuracy), and its loss (step, loss)."""

    label: str
    arm: str
    seed: int
    checkpoints: tuple[tuple[float, float], ...]
    losses: tuple[tuple[float, float], ...]
    chosen: int | None
    chosen_accuracy: float | None
    n: int | None
    key: str


@dataclass(frozen=True)
class CurveGroup:
    """Curves that share a panel."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Amount:
    """A sum over stages. `value` is None if none of them measured it; `measured` of `stages` did."""

    value: float | None
    measured: int
    stages: int


@dataclass(frozen=True)
class CostPart:
    """What the finished stages of one name have cost, each counted once. `keys` are theirs."""

    stage: str
    keys: tuple[str, ...]
    amounts: Mapping[str, Amount]


FIGURE1_TABLES = ("figure1", "lab/table2")  # a row for each base model, a column for each arm
TEMPERATURE_TABLES = ("table8", "lab/table8")  # a row for each protocol, a column for each temperature
COST_COLUMNS = ("seconds", "gpu_hours", "usd", "tokens", "prompt_tokens", "supervised_tokens")


def report_tables(report: Report) -> list[ReportTable]:
    """The tables of cells."""
    return [table for table in report.tables if isinstance(table, ReportTable)]


def has_values(table: ReportTable) -> bool:
    """Whether anything of the table was measured."""
    return any(entry.state == MEASURED for row in table.rows for entry in row.entries.values())


def groups(table: ReportTable) -> list[Group]:
    """The rows by their first label; one group where no two rows share it, or rows have no second one."""
    labels = dict.fromkeys(row.label for row in table.rows)
    if len(labels) == len(table.rows) or not any(row.column for row in table.rows):
        return [Group("", table.rows)]
    return [Group(label, tuple(row for row in table.rows if row.label == label)) for label in labels]


def series_label(row: Row) -> str:
    """What a row is called within its group."""
    return row.column or row.label


def row_label(row: Row) -> str:
    """What the row of a place is called."""
    return row.label


def row_name(row: Row) -> str:
    """What a row is called within its table."""
    return ", ".join(filter(None, (row.label, row.column)))


def trained_rows(report: Report, group: Group) -> Iterator[tuple[Row, ArmTrace]]:
    """The rows of a group that have runs."""
    for row in group.rows:
        trace = report.arms.get(row.arm) if row.arm else None
        if trace and trace.runs:
            yield row, trace


def curve_groups(report: Report, results: Results) -> list[CurveGroup]:
    """Selection and training curves of every training that the report stands on.

    A group of arms is left out if earlier groups have all of its trainings; else it has all of them, so that no arm stands alone.
    """
    seen: set[str] = set()
    found = []
    for table in report_tables(report):
        for group in groups(table):
            own: dict[str, Curve] = {}
            for row, trace in trained_rows(report, group):
                for run in trace.runs:
                    key = run.keys.get("candidates")
                    if key and key not in own:
                        label, selected = series_label(row), run.keys.get("selected", key)
                        own[key] = _curve(results, label, trace.id, run.result, run.seed, selected)
            curves = tuple(curve for curve in own.values() if curve.checkpoints or curve.losses)
            if curves and not seen >= own.keys():
                found.append(CurveGroup(", ".join(filter(None, (table.title, group.label))), curves))
            seen |= own.keys()
    return found


def _curve(results: Results, label: str, arm: str, result: str, seed: int, key: str) -> Curve:
    selection, training = results.selection(result), results.training(result)
    chosen = selection[selection["selected"].astype(bool)] if len(selection) else selection
    picked = chosen.iloc[0] if len(chosen) else None
    return Curve(
        label,
        arm,
        seed,
        tuple((float(step), float(value)) for step, value in zip(selection["step"], selection["accuracy"], strict=True)),
        tuple((float(step), float(value)) for step, value in zip(training["step"], training["loss"], strict=True)),
        int(picked["step"]) if picked is not None else None,
        float(picked["accuracy"]) if picked is not None else None,
        int(picked["n"]) if picked is not None else None,
        key,
    )


def cost_parts(report: Report, results: Results) -> list[CostPart]:
    """What the stages have cost that the report stands on, by stage in the order of the pipeline, and in total."""
    wanted = dict.fromkeys(key for trace in report.arms.values() for run in trace.runs for key in (*run.keys.values(), run.result))
    frame = results.costs()
    frame = frame[frame.index.isin(list(wanted))]
    stages = [stage for stage in frame["stage"].unique() if stage != "result"]
    stages.sort(key=lambda stage: _ORDER.index(stage) if stage in _ORDER else len(_ORDER))
    parts = []
    for stage in [*stages, ""]:
        rows = frame[frame["stage"] == stage] if stage else frame[frame["stage"] != "result"]
        amounts = {name: _sum(number(value) for value in rows[name]) for name in COST_COLUMNS}
        parts.append(CostPart(stage, tuple(str(key) for key in rows.index), amounts))
    return parts if stages else []


_ORDER = (
    *("problems", "responses", "answers", "critiques", "examples", "base_model", "candidates", "selected"),
    *("generations", "scores"),
)


def _sum(values: Iterable[float | None]) -> Amount:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return Amount(math.fsum(known) if known else None, len(known), len(listed))


def number(value: object) -> float | None:
    """A number of a DataFrame; None for what is missing."""
    if value is None:
        return None
    found = float(value)  # type: ignore[arg-type]
    return None if math.isnan(found) else found


def whole(value: object) -> int | None:
    """A whole number of a DataFrame; None for what is missing."""
    found = number(value)
    return None if found is None else int(found)
