"""The plan of a sweep: its cells, the distinct ones, and the distinct stages that they stand on, upstream first.

A plan is made from configs and local data files alone: no GPU, network or weights. Its records hold no functions, so that they are
frozen into a run folder and read back; `stages_of` gives the live stages again.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cft_lab import pipeline
from cft_lab.config import Config, DataError
from cft_lab.data.methods import parts
from cft_lab.data.sources import missing_source
from cft_lab.store import DONE, MANIFEST, Stage
from cft_lab.sweeps.expand import AskedCell, Problems

KINDS = ("data", "teacher", "train", "evaluation", "record")  # what a stage asks of a machine; see `kind_of`
COMPUTING = ("train", "evaluation")  # the kinds that a paper-scale model needs a GPU for


@dataclass(frozen=True, kw_only=True)
class PlannedCell(AskedCell):
    """A cell in a plan. Cells with the same `result` key are one distinct cell, and share `config` (an index)."""

    config: int
    result: str


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


def make_plan(cells: Sequence[tuple[AskedCell, Config]]) -> tuple[Plan, Problems]:
    """Plans cells whose configs have been checked; also tells which could not be, because data files of theirs are not there."""
    distinct: dict[str, int] = {}
    stages: dict[str, PlannedStage] = {}
    configs: list[Config] = []
    planned = []
    problems = Problems()
    for cell, config in cells:
        gone = list(_gone_files(config))
        try:
            result = pipeline.plan(config).result
        except DataError as error:
            gone.append(str(error))
        if gone:
            problems.add(cell, *gone)
            continue
        if result.key not in distinct:
            distinct[result.key] = len(configs)
            configs.append(config)
            for stage in result.walk():
                stages.setdefault(stage.key, _planned(stage, config, distinct[result.key]))
        asked = {item.name: getattr(cell, item.name) for item in dataclasses.fields(AskedCell)}
        planned.append(PlannedCell(**asked, config=distinct[result.key], result=result.key))
    return Plan(tuple(planned), tuple(stages.values()), tuple(configs)), problems


def _gone_files(config: Config) -> Iterator[str]:
    """Files of your own that are not there: what they hold is in the keys."""
    for source, part in parts(config).items():
        if part.data.source == "local":
            yield from (re.sub(r"\bdata([.=])", rf"{source}\1", line) for line in missing_source(part.data))


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
        return "evaluation" if config.train.selection.scored_on else "record"
    if name == "generations":
        return "teacher" if config.engine.kind == "openai" else "evaluation"
    return {"candidates": "train", "scores": "record", "result": "record"}.get(name, "data")


def to_make(plan: Plan, root: Path) -> list[PlannedStage]:
    """The stages that have to be made in the store at `root`, in order.

    These are scores and results that are not there, whatever left no trace at all (its folder was deleted, or never made), and what
    those stand on as far as it is not there. A stage that left its manifest, pruned or imported, is made for what needs it only.
    """
    by_key = {stage.key: stage for stage in plan.stages}
    wanted: set[str] = set()

    def want(stage: PlannedStage) -> None:
        if stage.key not in wanted and not is_made(stage, root):
            wanted.add(stage.key)
            for key in stage.upstream:
                want(by_key[key])

    for stage in plan.stages:
        if stage.name in ("scores", "result") or not (root / stage.name / stage.key / MANIFEST).exists():
            want(stage)
    return [stage for stage in plan.stages if stage.key in wanted]


def lost(plan: Plan, root: Path) -> list[PlannedStage]:
    """The stages of `to_make` that something finished was built on: their folders were deleted."""
    missing = to_make(plan, root)
    built_on = {key for stage in plan.stages if is_made(stage, root) for key in stage.upstream}
    return [stage for stage in missing if stage.key in built_on]


def is_made(stage: PlannedStage, root: Path) -> bool:
    """Whether a stage is finished in the store at `root`."""
    return (root / stage.name / stage.key / DONE).exists()


def look_afresh(stage: PlannedStage, root: Path) -> None:
    """Lists the stage's folder, which makes a network file system ask its server again for what another machine has written."""
    for folder in (root / stage.name, root / stage.name / stage.key):
        if folder.is_dir():
            os.listdir(folder)


def result_stages(plan: Plan) -> list[PlannedStage]:
    """The last stage of each distinct cell, in the order of `configs`."""
    by_key = {stage.key: stage for stage in plan.stages}
    keys = {cell.config: cell.result for cell in plan.cells}
    return [by_key[keys[index]] for index in range(len(plan.configs))]


def stages_of(plan: Plan) -> dict[str, Stage]:
    """The live stages of a plan by key."""
    found: dict[str, Stage] = {}
    for config in plan.configs:
        for stage in pipeline.plan(config).result.walk():
            found.setdefault(stage.key, stage)
    return found
