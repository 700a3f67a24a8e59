"""The plots of the page from the records of a report: which values stand in which panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cft_lab.report import plots
from cft_lab.report.page_parts import (
    FIGURE1_TABLES,
    TEMPERATURE_TABLES,
    CurveGroup,
    Group,
    groups,
    has_values,
    report_tables,
    series_label,
)
from cft_lab.report.render import benchmark_name
from cft_lab.report.strips import Strip, StripGroup, StripPlot, accuracy_plot, colour_of, marker_of, shared_limits
from cft_lab.report.tables import AVG, MEASURED, Entry, Report, ReportTable, Row

_BASE = 0  # the style of the base model, grey


@dataclass(frozen=True)
class PlotRow:
    """Panels that stand in a row and wrap. `anchor` is the id of their heading in the page."""

    title: str
    scale: str
    panels: tuple[Markup, ...]
    note: str = ""


@dataclass(frozen=True)
class StripRow:
    """Panels of strips that stand in a row and wrap."""

    title: str
    scale: str
    panels: tuple[StripPlot, ...]
    note: str = ""


def series_styles(report: Report) -> dict[str, int]:
    """A colour and marker for every series of the page, the same in all plots: the base model first, the rest as they come."""
    labels = [series_label(row) for table in report_tables(report) if has_values(table) for row in table.rows]
    labels += [series_label(row) for table in report_tables(report) for row in table.rows]
    others = [label for label in dict.fromkeys(labels) if not _is_base(label)]
    return {label: _BASE for label in labels if _is_base(label)} | {label: 1 + place for place, label in enumerate(others)}


def _is_base(label: str) -> bool:
    return label.lower() == "base"


def figure1_plots(report: Report, styles: Mapping[str, int]) -> list[StripRow]:
    """Figure 1 and its lab twin, which is lab table 2: for each base model the arms beside each other on every benchmark."""
    tables = [table for table in report_tables(report) if table.name in FIGURE1_TABLES]
    found = []
    for table in sorted(tables, key=lambda table: not has_values(table)):
        for group in groups(table):
            if any(_known(entry) for row in group.rows for entry in row.entries.values()):
                title = ", ".join(filter(None, (table.title, group.label)))
                found.append(StripRow(title, table.scale, _strip_panels(table, group, styles), _not_run(group)))
    return found


def _not_run(group: Group) -> str:
    if not _any_measured(group):
        return "Nothing of it was run here: the diamonds are the paper's values."
    lacking = [series_label(row) for row in group.rows if not any(entry.value for entry in row.entries.values())]
    return f"Not run: {', '.join(lacking)}." if lacking else ""


def _strip_panels(table: ReportTable, group: Group, styles: Mapping[str, int]) -> tuple[StripPlot, ...]:
    limits = _limits(group, table.benchmarks)
    panels = []
    for benchmark in table.benchmarks:
        kept = [row for row in group.rows if row.entries[benchmark].value or not _any_measured(group)]
        strips = [_strip(row, benchmark, styles) for row in kept if _known(row.entries[benchmark])]
        if strips:
            panels.append(accuracy_plot(benchmark_name(benchmark), [StripGroup("", tuple(strips))], limits))
    return tuple(panels)


def arms_plot(table: ReportTable, styles: Mapping[str, int]) -> StripPlot | None:
    """The AVG of every measured arm of a table with its interval, in the table's groups; None if nothing was measured."""
    kept = []
    for group in groups(table):
        strips = tuple(_strip(row, AVG, styles) for row in group.rows if row.entries[AVG].value)
        kept += [StripGroup(group.label, strips)] if strips else []
    if not kept:
        return None
    return accuracy_plot("AVG of each arm", kept, _limits(Group("", table.rows), (AVG,)))


def _limits(group: Group, benchmarks: Sequence[str]) -> tuple[float, float]:
    entries = [row.entries[benchmark] for row in group.rows for benchmark in benchmarks]
    return shared_limits([entry.value.high if entry.value else None for entry in entries] + [entry.published for entry in entries])


def _strip(row: Row, benchmark: str, styles: Mapping[str, int]) -> Strip:
    entry, label = row.entries[benchmark], series_label(row)
    value, style = entry.value, styles[label]
    told = [f"{100 * value.mean:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]" if value else "not run"]
    told += [] if entry.published is None else [f"published {100 * entry.published:.1f} %"]
    mean, low, high = (value.mean, value.low, value.high) if value else (None, None, None)
    colour = f"var(--series-{colour_of(style)})"
    return Strip(label, f"{label}: {', '.join(told)}", mean, low, high, entry.published, colour=colour, marker=marker_of(style))


def temperature_plots(report: Report) -> list[PlotRow]:
    """Accuracy against the temperature of decoding, by protocol: table 8 with the published values, and its lab twin.

    The paper's is drawn also where nothing of it was run; of the lab's, arms that were not run are left out.
    """
    found = []
    for table in report_tables(report):
        if table.name not in TEMPERATURE_TABLES:
            continue
        protocols = {label: 1 + place for place, label in enumerate(dict.fromkeys(row.label for row in table.rows))}
        panels = []
        for place, benchmark in enumerate((AVG, *(name for name in table.benchmarks if name != AVG))):
            series = [_protocol(report, table, label, benchmark, style) for label, style in protocols.items()]
            series = [one for one in series if one.points or one.published]
            if series:
                panels.append(plots.lines(f"temperature-{_name(table)}-{place}", benchmark_name(benchmark), series, "temperature"))
        note = "Nothing of it was run here: the diamonds are the paper's values." if not has_values(table) else ""
        if panels:
            found.append(PlotRow(table.title, table.scale, tuple(panels), note))
    return found


def _protocol(report: Report, table: ReportTable, label: str, benchmark: str, style: int) -> plots.Series:
    points, published = [], []
    for row in table.rows:
        entry, temperature = row.entries[benchmark], _temperature(report, row.arm)
        if row.label == label and temperature is not None:
            if entry.value is not None:
                points.append(plots.Point(temperature, entry.value.mean, entry.value.low, entry.value.high))
            if entry.published is not None:
                published.append(plots.Point(temperature, entry.published))
    by_x = sorted(points, key=lambda point: point.x), sorted(published, key=lambda point: point.x)
    return plots.Series(label, tuple(by_x[0]), style, tuple(by_x[1]))


def _temperature(report: Report, arm: str | None) -> float | None:
    if arm is None or arm not in report.arms:
        return None
    said = [override.partition("=")[2] for override in report.arms[arm].overrides if override.startswith("temperature=")]
    return float(said[-1]) if said else 0.0


def curve_plots(found: Sequence[CurveGroup], styles: Mapping[str, int]) -> list[PlotRow]:
    """Validation accuracy of checkpoints, and losses: a panel for each group of trainings, a line for each seed."""
    checkpoints, losses = [], []
    for place, group in enumerate(found):
        series = _series([(one.label, one.checkpoints, one.chosen) for one in group.curves], styles)
        if series:
            checkpoints.append(plots.lines(f"selection-{place}", group.title, series, "optimizer step"))
        series = _series([(one.label, one.losses, None) for one in group.curves], styles)
        if series:
            losses.append(plots.lines(f"loss-{place}", group.title, series, "optimizer step", "loss", percent=False))
    note = "Losses of different arms are of different targets: they cannot be compared with each other."
    return [
        PlotRow("Validation accuracy of checkpoints", "", tuple(checkpoints), "A ring is around the checkpoint that was chosen."),
        PlotRow("Training loss", "", tuple(losses), note),
    ]


def _series(
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], int | None]], styles: Mapping[str, int]
) -> list[plots.Series]:
    return [
        plots.Series(label, tuple(plots.Point(x, y) for x, y in curve), styles[label], chosen=chosen)
        for label, curve, chosen in curves
        if curve
    ]


def _any_measured(group: Group) -> bool:
    return any(entry.state == MEASURED for row in group.rows for entry in row.entries.values())


def _known(entry: Entry) -> bool:
    return entry.value is not None or entry.published is not None


def _name(table: ReportTable) -> str:
    return table.name.replace("/", "-")
