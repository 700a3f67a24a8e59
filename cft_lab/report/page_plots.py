"""The plots of the page from the records of a report: which values stand in which panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cft_lab.report import plots
from cft_lab.report.page_parts import CurveGroup, Group, groups, has_values, report_tables, series_label
from cft_lab.report.render import benchmark_name
from cft_lab.report.tables import AVG, MEASURED, Entry, Report, ReportTable

_BASE = 0  # the style of the base model, grey


@dataclass(frozen=True)
class PlotRow:
    """Panels that stand in a row and wrap. `anchor` is the id of their heading in the page."""

    title: str
    scale: str
    panels: tuple[Markup, ...]
    note: str = ""


def series_styles(report: Report) -> dict[str, int]:
    """A colour and marker for every series of the page, the same in all plots: the base model first, the rest as they come."""
    labels = [series_label(row) for table in report_tables(report) if has_values(table) for row in table.rows]
    labels += [series_label(row) for table in report_tables(report) for row in table.rows]
    others = [label for label in dict.fromkeys(labels) if not _is_base(label)]
    return {label: _BASE for label in labels if _is_base(label)} | {
        label: 1 + place % (len(plots.MARKERS) - 1) for place, label in enumerate(others)
    }


def _is_base(label: str) -> bool:
    return label.lower() == "base"


def figure1_plots(report: Report, styles: Mapping[str, int]) -> list[PlotRow]:
    """Figure 1 and its lab twin, which is lab table 2: for each base model the arms beside each other on every benchmark."""
    tables = [table for table in report_tables(report) if table.name in ("figure1", "lab/table2")]
    found = []
    for table in sorted(tables, key=lambda table: not has_values(table)):
        for place, group in enumerate(groups(table)):
            if any(_known(entry) for row in group.rows for entry in row.entries.values()):
                title = ", ".join(filter(None, (table.title, group.label)))
                note = _not_run(group)
                found.append(PlotRow(title, table.scale, _dot_panels(table, group, f"dots-{_name(table)}-{place}", styles), note))
    return found


def _not_run(group: Group) -> str:
    if not _any_measured(group):
        return "Nothing of it was run here: the diamonds are the paper's values."
    lacking = [series_label(row) for row in group.rows if not any(entry.value for entry in row.entries.values())]
    return f"Not run: {', '.join(lacking)}." if lacking else ""


def _dot_panels(table: ReportTable, group: Group, name: str, styles: Mapping[str, int]) -> tuple[Markup, ...]:
    entries = [entry for row in group.rows for entry in row.entries.values()]
    highest = [entry.value.high if entry.value else None for entry in entries] + [entry.published for entry in entries]
    limits = plots.shared_limits(highest)
    panels = []
    for place, benchmark in enumerate(table.benchmarks):
        dots = []
        for row in group.rows:
            entry = row.entries[benchmark]
            value = entry.value
            if value is None and (entry.published is None or _any_measured(group)):
                continue
            mean, low, high = (value.mean, value.low, value.high) if value else (None, None, None)
            label = series_label(row)
            dots.append(plots.Dot(label, mean, low, high, entry.published, styles[label]))
        if dots:
            panels.append(plots.dots(f"{name}-{place}", benchmark_name(benchmark), dots, limits))
    return tuple(panels)


def temperature_plots(report: Report) -> list[PlotRow]:
    """Accuracy against the temperature of decoding, by protocol: table 8 and its lab twin. Arms that were not run are left out."""
    found = []
    for table in report_tables(report):
        if table.name not in ("table8", "lab/table8") or not has_values(table):
            continue
        protocols = {label: 1 + place for place, label in enumerate(dict.fromkeys(row.label for row in table.rows))}
        panels = []
        for place, benchmark in enumerate((AVG, *(name for name in table.benchmarks if name != AVG))):
            series = [
                plots.Series(label, _by_temperature(report, table, label, benchmark), protocols[label]) for label in protocols
            ]
            series = [one for one in series if one.points]
            if series:
                panels.append(plots.lines(f"temperature-{_name(table)}-{place}", benchmark_name(benchmark), series, "temperature"))
        found.append(PlotRow(table.title, table.scale, tuple(panels)))
    return found


def _by_temperature(report: Report, table: ReportTable, label: str, benchmark: str) -> tuple[plots.Point, ...]:
    points = []
    for row in table.rows:
        value = row.entries[benchmark].value
        temperature = _temperature(report, row.arm)
        if row.label == label and value is not None and temperature is not None:
            points.append(plots.Point(temperature, value.mean, value.low, value.high))
    return tuple(sorted(points, key=lambda point: point.x))


def _temperature(report: Report, arm: str | None) -> float | None:
    if arm is None or arm not in report.arms:
        return None
    said = [override.partition("=")[2] for override in report.arms[arm].overrides if override.startswith("temperature=")]
    return float(said[-1]) if said else 0.0


def curve_plots(found: Sequence[CurveGroup], styles: Mapping[str, int]) -> list[PlotRow]:
    """Validation accuracy of checkpoints, and losses: a panel for each group of trainings, a line for each seed."""
    checkpoints, losses = [], []
    for place, group in enumerate(found):
        series = _series([(one.label, one.checkpoints) for one in group.curves], styles)
        if series:
            checkpoints.append(plots.lines(f"selection-{place}", group.title, series, "optimizer step"))
        series = _series([(one.label, one.losses) for one in group.curves], styles)
        if series:
            losses.append(plots.lines(f"loss-{place}", group.title, series, "optimizer step", "loss", percent=False))
    note = "Losses of different arms are of different targets: they cannot be compared with each other."
    return [
        PlotRow("Validation accuracy of checkpoints", "", tuple(checkpoints)),
        PlotRow("Training loss", "", tuple(losses), note),
    ]


def _series(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], styles: Mapping[str, int]) -> list[plots.Series]:
    return [plots.Series(label, tuple(plots.Point(x, y) for x, y in curve), styles[label]) for label, curve in curves if curve]


def _any_measured(group: Group) -> bool:
    return any(entry.state == MEASURED for row in group.rows for entry in row.entries.values())


def _known(entry: Entry) -> bool:
    return entry.value is not None or entry.published is not None


def _name(table: ReportTable) -> str:
    return table.name.replace("/", "-")
