"""The plan of a sweep: its cells, the distinct ones, and the distinct stages that they stand on, upstream first.

A plan is made from configs and local data files alone: no GPU, network or weights. Its records hold no functions, so that they are
frozen into a run folder and read back; `stages_of` gives the live stages again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cft_lab import pipeline
from cft_lab.config import SCORED_MODES, Config
from cft_lab.store import DONE, Stage

KINDS = ("data", "teacher", "train", "evaluation", "record")  # what a stage asks of a machine; see `kind_of`


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a table. Cells with the same `result` key are one distinct cell, and share `config` (an index)."""

    sweep: str  # name of the sweep file; empty for a plain grid
    row: str
    column: str
    label: str  # how the cell is called in messages and in the printed table
    overrides: tuple[str, ...]
    config: int
    result: str
    published: Mapping[str, str] = field(default_factory=dict)  # the printed row that it answers to; see published/


@dataclass(frozen=True)
class PlannedStage:
    """One distinct stage. `cell` is the index of a config that has it, `upstream` the keys of the stages it reads."""

    key: str
    name: str
    kind: str
    label: str
    upstream: tuple[str, ...]
    cell: int


@dataclass(frozen=True)
class Plan:
    """Cells in table order, the configs of the distinct ones, and their distinct stages in an order in which they can be made."""

    cells: tuple[PlannedCell, ...]
    stages: tuple[PlannedStage, ...]
    configs: tuple[Config, ...]


def make_plan(cells: Sequence[tuple[PlannedCell, Config]]) -> Plan:
    """Plans cells whose configs have been checked; `config` and `result` of the given records are filled in here.

    Raises DataError if a data file that keys are made of is not there.
    """
    distinct: dict[str, int] = {}
    stages: dict[str, PlannedStage] = {}
    configs: list[Config] = []
    planned = []
    for cell, config in cells:
        result = pipeline.plan(config).result
        if result.key not in distinct:
            distinct[result.key] = len(configs)
            configs.append(config)
            for stage in result.walk():
                stages.setdefault(stage.key, _planned(stage, config, distinct[result.key]))
        planned.append(
            PlannedCell(
                cell.sweep, cell.row, cell.column, cell.label, cell.overrides, distinct[result.key], result.key, cell.published
            )
        )
    return Plan(tuple(planned), tuple(stages.values()), tuple(configs))


def _planned(stage: Stage, config: Config, cell: int) -> PlannedStage:
    upstream = tuple(dict.fromkeys(above.key for above in stage.upstream.values()))
    return PlannedStage(stage.key, stage.name, kind_of(stage.name, config), stage.label, upstream, cell)


def kind_of(name: str, config: Config) -> str:
    """What a stage asks of a machine: data (CPU), teacher (CPU, perhaps an API), train (all GPUs of its nodes), evaluation (a GPU),
    record (moments on a CPU)."""
    writers = {"responses": config.responses.kind, "critiques": config.teacher.kind, "answers": config.teacher.kind}
    if name == "critiques" and config.data.critiques == "released":
        return "data"
    if name in writers:
        return {"reference": "data", "self": "evaluation", "local": "evaluation"}.get(writers[name], "teacher")
    if name == "base_model":
        return "train" if config.model.lab else "data"
    if name == "selected":
        return "evaluation" if config.train.selection.mode in SCORED_MODES else "record"
    if name == "generations":
        return "teacher" if config.engine.kind == "openai" else "evaluation"
    return {"candidates": "train", "scores": "record", "result": "record"}.get(name, "data")


def to_make(plan: Plan, root: Path) -> list[PlannedStage]:
    """The stages that have to be made in the store at `root`, in order: what tables read (results and scores) and is not there, and
    what that stands on as far as it is not there either. What a finished stage stood on is not needed again."""
    by_key = {stage.key: stage for stage in plan.stages}
    wanted: set[str] = set()

    def want(stage: PlannedStage) -> None:
        if stage.key not in wanted and not is_made(stage, root):
            wanted.add(stage.key)
            for key in stage.upstream:
                want(by_key[key])

    for stage in plan.stages:
        if stage.name in ("scores", "result"):
            want(stage)
    return [stage for stage in plan.stages if stage.key in wanted]


def is_made(stage: PlannedStage, root: Path) -> bool:
    """Whether a stage is finished in the store at `root`."""
    return (root / stage.name / stage.key / DONE).exists()


def stages_of(plan: Plan) -> dict[str, Stage]:
    """The live stages of a plan by key."""
    found: dict[str, Stage] = {}
    for config in plan.configs:
        for stage in pipeline.plan(config).result.walk():
            found.setdefault(stage.key, stage)
    return found
