"""The page: a report as one HTML file that needs nothing else, no network and no script.

Templates (templates/page/) are rendered by Jinja2 with autoescape: model output, questions and names from a store are text, never
markup, and a Content-Security-Policy in the page forbids scripts and loads besides. Every measured number is a link to what it
stands on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from cft_lab.report import page_claims, page_data, page_parts, page_plots, page_samples, strips
from cft_lab.report.claims import CONTRADICTED, NOT_RUN, NOT_SEPARABLE, REPLICATED, Verdict
from cft_lab.report.render import WORDS, benchmark_name
from cft_lab.report.tables import AVG, CONFLICT, FAILED, MISSING, ArmTrace, DataSetTable, Delta, Report, ReportTable
from cft_lab.results import Results

FILE = "report.html"
_MINUS = "\N{MINUS SIGN}"
#: verdict -> its shape and CSS class
_BADGES = {
    REPLICATED: ("\N{HEAVY CHECK MARK}", "replicated"),
    CONTRADICTED: ("\N{HEAVY BALLOT X}", "contradicted"),
    NOT_SEPARABLE: ("\N{CIRCLE WITH LEFT HALF BLACK}", "unsettled"),
    NOT_RUN: ("\N{WHITE CIRCLE}", "not-run"),
}


@dataclass(frozen=True)
class Lacking:
    """Places of a table without a value: which, why, and the command that makes them."""

    anchor: str
    state: str
    places: tuple[str, ...]
    reason: str | None
    command: str | None


@dataclass(frozen=True)
class DeltaRow:
    """A row of differences, by benchmark. `anchor` is where the page says what it is made of; `group` the rows it stands with."""

    anchor: str
    label: str
    group: str
    by_benchmark: Mapping[str, Delta]

    @property
    def any(self) -> Delta:
        """One of them; all share label, arms and seeds."""
        return next(iter(self.by_benchmark.values()))


@dataclass(frozen=True)
class TableView:
    """A table with what the page adds: groups of rows, rows of differences, what is lacking."""

    table: ReportTable
    anchor: str
    groups: tuple[page_parts.Group, ...]
    deltas: tuple[DeltaRow, ...]
    lacking: tuple[Lacking, ...]
    items: Mapping[str, str]
    plot: strips.StripPlot | None

    @property
    def words(self) -> Mapping[str, str]:
        """What the states of entries are called."""
        return WORDS

    @property
    def measured(self) -> bool:
        """Whether anything of it was measured."""
        return page_parts.has_values(self.table)

    @property
    def other_benchmarks(self) -> tuple[str, ...]:
        """The benchmarks of printed rows that stand apart, AVG last."""
        return (*dict.fromkeys(name for row in self.table.others for name in row.entries if name != AVG), AVG)

    @property
    def seed_spread(self) -> bool:
        """Whether the spread over seeds is known of any row."""
        values = [row.entries[AVG].value for row in self.table.rows]
        return any(value is not None and value.seed_sd is not None for value in values)

    def lack_of(self, state: str, reason: str | None, command: str | None) -> str | None:
        """The anchor of the line that says how to make a place."""
        return next((one.anchor for one in self.lacking if (one.state, one.reason, one.command) == (state, reason, command)), None)


def write_page(report: Report, verdicts: Sequence[Verdict], results: Results, path: Path) -> Path:
    """Writes the page and returns its path: `path` if that ends in .html, else report.html in that folder."""
    file = path if path.suffix == ".html" else path / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(report, verdicts, results), encoding="utf-8", errors="replace")  # half a surrogate is no text
    return file


def render(report: Report, verdicts: Sequence[Verdict], results: Results) -> str:
    """The page as text."""
    return _environment().get_template("page/page.html").render(_context(report, verdicts, results))


def _context(report: Report, verdicts: Sequence[Verdict], results: Results) -> dict[str, Any]:
    """What the templates see. Problems come last: reading the rest may find more."""
    styles = page_plots.series_styles(report)
    curves = page_parts.curve_groups(report, results)
    views = [table_view(table, styles) for table in page_parts.report_tables(report)]
    arms = [trace for trace in report.arms.values() if trace.runs]
    data, critiques = page_data.data_parts(report, results), page_data.critique_parts(results)
    context = {
        "report": report,
        "claims": page_claims.scale_claims(verdicts),
        "badges": _BADGES,
        "views": sorted(views, key=lambda view: not view.measured),
        "data_sets": [table for table in report.tables if isinstance(table, DataSetTable)],
        "figure1": page_plots.figure1_plots(report, styles),
        "temperature": page_plots.temperature_plots(report),
        "asked_figure1": any(table.name in page_parts.FIGURE1_TABLES for table in report.tables),
        "asked_temperature": any(table.name in page_parts.TEMPERATURE_TABLES for table in report.tables),
        "curves": curves,
        "curve_plots": page_plots.curve_plots(curves, styles),
        "data": data,
        "critiques": critiques,
        "key_lines": page_data.key_lines(results, data, critiques),
        "oracles": page_data.ORACLES,
        "costs": page_parts.cost_parts(report, results),
        "samples": page_samples.sample_items(report, results),
        "arms": arms,
        "runs": len({run.result for trace in arms for run in trace.runs}),
        "first_command": _first_command(verdicts, views),
        "AVG": AVG,
        "words": WORDS,
        "names": _names(report),
        "row_name": page_parts.row_name,
    }
    return context | {"problems": tuple(dict.fromkeys((*report.problems, *map(str, results.problems))))}


def _names(report: Report) -> dict[str, dict[str, str]]:
    """Arm -> name of each table that it stands in -> what it is called there."""
    found: dict[str, dict[str, str]] = {}
    for table in page_parts.report_tables(report):
        for row in table.rows:
            if row.arm is not None:
                found.setdefault(row.arm, {})[table.name] = page_parts.row_name(row)
    return found


def _first_command(verdicts: Sequence[Verdict], views: Sequence[TableView]) -> str | None:
    """What to run first in an empty store: a lab table, which needs nothing but this machine."""
    lab_first = sorted(views, key=lambda view: view.table.scale != "lab")
    commands = [one.command for view in lab_first for one in view.lacking] + [one.command for one in verdicts]
    return next((command for command in commands if command), None)


def table_view(table: ReportTable, styles: Mapping[str, int]) -> TableView:
    """A table as the page shows it."""
    name = anchor(table.name)
    shown = tuple(page_parts.groups(table))
    deltas, plot = tuple(_delta_rows(table, name, shown)), page_plots.arms_plot(table, styles)
    return TableView(table, f"t-{name}", shown, deltas, _lacking(table, name), _items(table), plot)


def _delta_rows(table: ReportTable, name: str, shown: Sequence[page_parts.Group]) -> Iterator[DeltaRow]:
    """Rows of differences, each in the group of its arms if they are all of one."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, Delta]] = {}
    for delta in table.deltas:
        found.setdefault((delta.label, delta.first, delta.rivals), {})[delta.benchmark] = delta
    for place, ((label, first, rivals), by_benchmark) in enumerate(found.items()):
        arms = {first, *rivals}
        group = next((group.label for group in shown if group.label and arms <= {row.arm for row in group.rows}), "")
        yield DeltaRow(f"d-{name}-{place}", label.removeprefix(f"{group}: ").replace(" - ", f" {_MINUS} "), group, by_benchmark)


def _lacking(table: ReportTable, name: str) -> tuple[Lacking, ...]:
    found: dict[tuple[str, str | None, str | None], dict[str, None]] = {}
    for row in table.rows:
        for entry in row.entries.values():
            if entry.state in (MISSING, FAILED, CONFLICT):
                found.setdefault((entry.state, entry.reason, entry.command), {})[page_parts.row_name(row)] = None
    return tuple(
        Lacking(f"m-{name}-{place}", state, tuple(places), reason, command)
        for place, ((state, reason, command), places) in enumerate(found.items())
    )


def _items(table: ReportTable) -> dict[str, str]:
    """Benchmark -> how many items its measured values stand on."""
    found = {}
    for name in table.benchmarks:
        values = [row.entries[name].value for row in table.rows]
        counts = sorted({value.n_items for value in values if value is not None})
        if counts:
            found[name] = "\N{EN DASH}".join(dict.fromkeys((count(counts[0]), count(counts[-1]))))
    return found


def key_names(trace: ArmTrace) -> list[str]:
    """The stages that an arm's runs stand on."""
    return list(dict.fromkeys(name for run in trace.runs for name in run.keys))


def versions(trace: ArmTrace) -> list[str]:
    """The package versions of an arm's runs, each set once."""
    return list(dict.fromkeys(", ".join(f"{name} {version}" for name, version in run.packages.items()) for run in trace.runs))


def anchor(*parts: str) -> str:
    """An id of an element: letters, digits, dots and dashes."""
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts)


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage, without its sign: 0.4961 is 49.6."""
    return _with_minus(f"{100 * value:.{digits}f}")


def points(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    return _with_minus(f"{100 * value:+.1f}")


def count(value: float) -> str:
    """A whole number with commas."""
    return _with_minus(f"{value:,.0f}")


def _with_minus(text: str) -> str:
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def amount(part: page_parts.Amount, name: str) -> str:
    """A sum of costs with its unit, or that it was not measured."""
    if part.value is None:
        return "not measured"
    return _AMOUNTS[name](part.value)


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.1f} h"


_AMOUNTS: dict[str, Callable[[float], str]] = {
    "seconds": _duration,
    "gpu_hours": lambda value: f"{value:,.2f}",
    "usd": lambda value: f"${value:,.2f}",
    "tokens": count,
    "prompt_tokens": count,
    "supervised_tokens": count,
}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cft_lab.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "key_names": key_names,
        "versions": versions,
        "percent": percent,
        "points": points,
        "count": count,
        "amount": amount,
    }
    environment.globals |= {"anchor": anchor, "benchmark_name": benchmark_name, "side": page_claims.side, "shapes": strips.SHAPES}
    return environment
