"""A W&B report as code: for each table its values, its runs, and the curves that runs log (cft_lab/tracking.py).

Built by W&B's own library (extra `dashboard`), which is imported only here and only when asked for. Building needs no network.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from cft_lab.config import ConfigError
from cft_lab.report.render import benchmark_name, render
from cft_lab.report.tables import AVG, Report, ReportTable

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


def build_dashboard(report: Report, project: str, entity: str = "") -> Any:
    """A `wandb_workspaces.reports.v2.Report` of the tables of a report. Raises ConfigError if W&B's library is not installed."""
    wr = _library()
    blocks = [wr.MarkdownBlock(text=_ABOUT), wr.TableOfContents()]
    for table in report.tables:
        blocks += [
            wr.H1(text=table.title),
            wr.MarkdownBlock(text=render(dataclasses.replace(report, tables=(table,), notes=()), "md")),
        ]
        if isinstance(table, ReportTable):
            blocks += _runs_of(wr, table)
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
    benchmarks = [name for name in table.benchmarks if name != AVG]

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
        return {name for name in (*config["metrics"], config.get("xAxis", "_step")) if not name.startswith("_")}
    return set().union(*(panel_metrics(one) for one in told.values()))
