"""A W&B report as code: claims with their verdicts, for each table its values, its runs, and the curves that runs log
(cft_lab/tracking.py), and what the stages have cost.

Built by W&B's own library (extra `dashboard`), which is imported only here and only when asked for. Building needs no network.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from cft_lab.config import ConfigError
from cft_lab.report.claims import Verdict
from cft_lab.report.page_claims import scale_claims
from cft_lab.report.page_parts import COST_COLUMNS, FIGURE1_TABLES, TEMPERATURE_TABLES, Amount, CostPart, groups, series_label
from cft_lab.report.render import benchmark_name, render
from cft_lab.report.tables import AVG, Report, ReportTable
from cft_lab.tracking import placement_tag

#: metric of a train run -> title of its panel
TRAINING = {
    "train/loss": "training loss",
    "train/lr": "learning rate",
    "train/grad_norm": "gradient norm",
    "train/tokens_per_s": "tokens/s",
}
SELECTION_STEP, SELECTION = "selection/step", "selection/accuracy"
TITLE = "cft_lab: tables, curves and scores"
_ABOUT = (
    "Made by `python -m cft_lab wandb-dashboard`. Texts of tables are of the store that it was made from; panels and lists of runs "
    "are of this project. Runs are grouped by their sweep and found by the tags that sweeps give them."
)


def build_dashboard(
    report: Report, project: str, entity: str = "", verdicts: Sequence[Verdict] = (), costs: Sequence[CostPart] = ()
) -> Any:
    """A `wandb_workspaces.reports.v2.Report` of claims, tables and costs. Raises ConfigError if W&B's library is not installed."""
    wr = _library()
    blocks = [wr.MarkdownBlock(text=_ABOUT), wr.TableOfContents()]
    if verdicts:
        blocks += _claims(wr, report, verdicts)
    for table in report.tables:
        blocks += [
            wr.H1(text=table.title),
            wr.MarkdownBlock(text=render(dataclasses.replace(report, tables=(table,), notes=()), "md")),
        ]
        if isinstance(table, ReportTable):
            blocks += _runs_of(wr, table)
            blocks += _arms_beside(wr, table) if table.name in FIGURE1_TABLES else ()
            blocks += _temperatures(wr, table) if table.name in TEMPERATURE_TABLES else ()
    if costs:
        blocks += [wr.H1(text="Cost"), wr.MarkdownBlock(text=_costs(costs))]
    return wr.Report(project=project, entity=entity, title=TITLE, description=f"Store {report.store}", blocks=blocks, width="fluid")


def _library() -> Any:
    try:
        with warnings.catch_warnings():  # its validators are of pydantic's first version
            warnings.simplefilter("ignore", DeprecationWarning)
            import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        raise ConfigError(f"W&B's library for reports is not installed ({error}): pip install -e '.[dashboard]'") from None
    return library


def _runs_of(wr: Any, table: ReportTable) -> Iterator[Any]:
    """Training and selection curves of a table's runs, the list of its cells, and their scores.

    Lists of runs name no project: they are of the report's own, and W&B's library would look a named one up online.
    """
    benchmarks = _benchmarks(table)

    def runs(kind: str, columns: Sequence[str] = ()) -> Any:
        return wr.Runset(
            name=f"{table.name}, {kind} runs",
            filters=f"Metric('JobType') = '{kind}' and Tags() in ['table:{table.name}']",
            groupby=["group", "name"],
            pinned_columns=list(columns),
            visible_columns=list(columns),
            lock_columns=bool(columns),
        )

    curves = [wr.LinePlot(title=title, x="Step", y=[metric]) for metric, title in TRAINING.items()]
    yield wr.H2(text=f"{table.title}: training")
    yield wr.PanelGrid(runsets=[runs("train", ["run:displayName", "tags:__ALL__"])], panels=curves)
    columns = ["run:displayName", "tags:__ALL__", "config:seed.value", *(f"summary:{name}/accuracy" for name in benchmarks)]
    selection = wr.LinePlot(title="selection accuracy", x=wr.Metric(SELECTION_STEP), y=[SELECTION])
    scores = [
        wr.BarPlot(title=f"{benchmark_name(name)}: accuracy, and its 95 % limits over items", metrics=_limits(name))
        for name in benchmarks
    ]
    yield wr.H2(text=f"{table.title}: cells")
    yield wr.PanelGrid(runsets=[runs("cell", columns)], panels=[selection, *scores])


def _claims(wr: Any, report: Report, verdicts: Sequence[Verdict]) -> Iterator[Any]:
    """What was found on each scale, then every claim with its verdict, as `report claims` prints them."""
    yield wr.H1(text="Claims")
    found = [
        f"**{scale.title}**: {len(scale.judged)} of {len(scale.verdicts)} judged. {scale.finding}"
        for scale in scale_claims(verdicts)
    ]
    yield wr.MarkdownBlock(text="\n\n".join(found))
    yield wr.MarkdownBlock(text=render(dataclasses.replace(report, tables=(), notes=()), "md", verdicts))


def _arms_beside(wr: Any, table: ReportTable) -> Iterator[Any]:
    """Figure 1: for each base model the mean accuracy of each arm over its seeds, a bar for each arm."""
    yield wr.H2(text=f"{table.title}: the arms beside each other")
    for group in groups(table):
        arms = [_cells(wr, table, series_label(row), row=row.label, column=row.column) for row in group.rows]
        bars = [
            wr.BarPlot(
                title=", ".join(filter(None, (group.label, f"{benchmark_name(name)}: accuracy"))), metrics=[f"{name}/accuracy"]
            )
            for name in _benchmarks(table)
        ]
        yield wr.PanelGrid(runsets=arms, panels=bars)


def _temperatures(wr: Any, table: ReportTable) -> Iterator[Any]:
    """Table 8: the accuracy of every cell over the temperature of decoding, a colour for each protocol."""
    yield wr.H2(text=f"{table.title}: temperature by protocol")
    protocols = [_cells(wr, table, label, row=label) for label in dict.fromkeys(row.label for row in table.rows)]
    panels = [
        wr.ScatterPlot(
            title=f"{benchmark_name(name)}: accuracy", x=wr.Config("temperature"), y=wr.SummaryMetric(f"{name}/accuracy")
        )
        for name in _benchmarks(table)
    ]
    yield wr.PanelGrid(runsets=protocols, panels=panels)


def _cells(wr: Any, table: ReportTable, name: str, row: str, column: str = "") -> Any:
    """The cell runs at a place of a table, as one set."""
    tags = [placement_tag("table", table.name), placement_tag("row", row), *([placement_tag("column", column)] if column else [])]
    return wr.Runset(
        name=name,
        filters=" and ".join(["Metric('JobType') = 'cell'", *(f"Tags() in [{tag!r}]" for tag in tags)]),
        groupby=["group"] if table.name in FIGURE1_TABLES else [],
    )


def _benchmarks(table: ReportTable) -> list[str]:
    return [name for name in table.benchmarks if name != AVG]


def _costs(costs: Sequence[CostPart]) -> str:
    """Costs by stage as Markdown; sums over a part of the stages say so."""
    lines = ["| stage | stages | " + " | ".join(name.replace("_", " ") for name in COST_COLUMNS) + " |"]
    lines.append("|---|" + "---:|" * (1 + len(COST_COLUMNS)))
    for part in costs:
        amounts = [_amount(part.amounts[name]) for name in COST_COLUMNS]
        lines.append(f"| {' | '.join([part.stage.replace('_', ' ') or 'all', f'{len(part.keys):,}', *amounts])} |")
    return "\n".join([*lines, "", 'Of the stages that the tables stand on, each once; "-" was not measured.'])


def _amount(amount: Amount) -> str:
    if amount.value is None:
        return "-"
    part = f" ({amount.measured} of {amount.stages})" if amount.measured < amount.stages else ""
    return f"{amount.value:,.2f}".removesuffix(".00") + part


def _limits(benchmark: str) -> list[str]:
    return [f"{benchmark}/{name}" for name in ("accuracy", "low", "high")]


def spec(dashboard: Any) -> dict[str, Any]:
    """What would be sent to W&B, as plain data."""
    written = dashboard._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    return {"title": dashboard.title, "project": dashboard.project, "entity": dashboard.entity, "spec": json.loads(written)}


def panel_metrics(told: Any) -> set[str]:
    """The metrics that the panels of a spec show, and what they show them over if that is a metric too."""
    if isinstance(told, list):
        return set().union(*(panel_metrics(one) for one in told))
    if not isinstance(told, dict):
        return set()
    if "viewType" in told:
        config = told["config"]
        shown = (*config.get("metrics", ()), config.get("yAxis", "_"), config.get("xAxis", "_step"))
        return {name.removeprefix("summary:") for name in shown if not name.startswith(("_", "config:"))}
    return set().union(*(panel_metrics(one) for one in told.values()))
