"""Run folders: a sweep as it was submitted, frozen, in `<store>/sweeps/<time>-<name>/`.

    plan.json            cells (where each stands in a table), distinct stages in order, name, command, time, code commit, directory
    cells/NNN.json       the config of a distinct cell, and its places in tables
    failures/KEY.json    why a stage failed; gone once it is made
    logs/KEY.log         what a stage said, where it ran in a process of its own
    submitted.json       written by an executor that hands stages to another system

Editing conf/ or sweeps/ later changes nothing here. Stages themselves lie in the store, under their keys.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config, ConfigError, DataConfig
from cft_lab.json_files import read_json, write_json
from cft_lab.provenance import provenance
from cft_lab.sweeps.plan import Plan, PlannedCell, PlannedStage

SWEEPS, PLAN = "sweeps", "plan.json"
FORMAT = 1  # raise it when older run folders can no longer be read


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A frozen sweep. `about` has name, command, created, commit and directory."""

    path: Path
    plan: Plan
    about: dict[str, Any]

    @property
    def store_root(self) -> Path:
        """The store that the sweep's stages lie in."""
        return pipeline.output_root(self.plan.configs[0])

    def failure(self, key: str) -> Path:
        """Where it stands why a stage failed."""
        return self.path / "failures" / f"{key}.json"

    def log(self, key: str) -> Path:
        """Where a process of its own writes what a stage says."""
        return self.path / "logs" / f"{key}.log"


def freeze(plan: Plan, name: str, command: Sequence[str]) -> RunFolder:
    """Writes a plan into a new run folder of its store. `command` is what was typed."""
    plan = dataclasses.replace(plan, configs=tuple(settled(config) for config in plan.configs))
    path = _new_folder(pipeline.output_root(plan.configs[0]) / SWEEPS, name)
    for part in ("cells", "failures", "logs"):
        (path / part).mkdir()
    for index, config in enumerate(plan.configs):
        places = [{"sweep": cell.sweep, "row": cell.row, "column": cell.column} for cell in plan.cells if cell.config == index]
        write_json(_cell_file(path, index), {"config": dataclasses.asdict(config), "places": places, "run": path.name})
    about = {
        "format": FORMAT,
        "name": name,
        "command": list(command),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": provenance()["commit"],
        "directory": os.getcwd(),
    }
    cells = [dataclasses.asdict(cell) for cell in plan.cells]
    stages = [dataclasses.asdict(stage) for stage in plan.stages]
    write_json(path / PLAN, {**about, "configs": len(plan.configs), "cells": cells, "stages": stages})
    return RunFolder(path, plan, about)


def load(path: Path) -> RunFolder:
    """Reads a run folder. Raises ConfigError if it is none."""
    try:
        written = read_json(path / PLAN)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not the run folder of a sweep: {error}") from None
    if written["format"] != FORMAT:
        raise ConfigError(f"{path} was written by another version of cft_lab (format {written['format']}, not {FORMAT})")
    cells, stages, count = (written.pop(name) for name in ("cells", "stages", "configs"))
    plan = Plan(
        tuple(PlannedCell(**{**row, "overrides": tuple(row["overrides"])}) for row in cells),
        tuple(PlannedStage(**{**row, "upstream": tuple(row["upstream"])}) for row in stages),
        tuple(config_from(read_json(_cell_file(path, index))["config"]) for index in range(count)),
    )
    return RunFolder(path, plan, written)


def find(root: Path, name: str | None = None) -> RunFolder:
    """The run folder that `name` is the path or the name of; else the newest of a sweep that is called so, as lab/table6 is.

    Failing these, the newest whose name holds `name`, or of all if there is none. Raises ConfigError if nothing is found.
    """
    if name is not None and (Path(name) / PLAN).exists():
        return load(Path(name))
    every = sorted(path.parent for path in (root / SWEEPS).glob(f"*/{PLAN}"))
    asked = _as_file_name(name or "")
    fits: list[Callable[[str], bool]] = [
        lambda folder: folder == name,
        lambda folder: _sweep_of(folder) == asked,
        lambda folder: asked in folder,
    ]
    for fit in fits if name else ():
        if found := [path for path in every if fit(path.name)]:
            return load(found[-1])
    if name or not every:
        like = f" whose name holds {name!r}" if name else ""
        raise ConfigError(f"no sweep{like} in {root / SWEEPS}: start one with `python run.py -m sweeps=...`")
    return load(every[-1])


def _as_file_name(name: str) -> str:
    """A sweep's name as it stands in the name of its run folder."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name)[:60].strip("-")


def _sweep_of(folder: str) -> str:
    """The sweep's name within that of its run folder: without the time, and the number of one of several in a second."""
    return re.sub(r"^\d{8}-\d{6}-|\.\d{1,3}$", "", folder)


def settled(config: Config) -> Config:
    """The config with the paths that start at the project's or the current folder made absolute; its keys stay what they are."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    def data(part: DataConfig) -> DataConfig:
        return dataclasses.replace(part, path=absolute(part.path))

    paths = {name: str(PROJECT_ROOT / Path(path).expanduser()) for name, path in config.benchmarks.paths.items()}
    return dataclasses.replace(
        config,
        data=data(config.data),
        mix_data=data(config.mix_data),
        benchmarks=dataclasses.replace(config.benchmarks, paths=paths),
        output_root=str(pipeline.output_root(config)),
    )


def config_from(written: dict[str, Any]) -> Config:
    """The config that `dataclasses.asdict` and JSON have made plain. Raises ConfigError on missing or unknown fields."""
    config: Config = _typed(Config, written)
    return config


def _typed(kind: Any, value: Any) -> Any:
    """A plain value as what a field's type says: nested dataclasses, and mappings with keys that are no strings."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (choice for choice in typing.get_args(kind) if choice is not types.NoneType)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        if set(value) != set(hints):
            raise ConfigError(f"written by another version of cft_lab: {sorted(set(value) ^ set(hints))} in {kind.__name__}")
        return kind(**{name: _typed(hints[name], item) for name, item in value.items()})
    if typing.get_origin(kind) is dict:
        key_type = typing.get_args(kind)[0]
        return {key_type(name): item for name, item in value.items()}
    return value


@functools.lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _cell_file(path: Path, index: int) -> Path:
    return path / "cells" / f"{index:03d}.json"


def _new_folder(parent: Path, name: str) -> Path:
    """A folder that nobody else has: two sweeps that start in the same second get names of their own."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{_as_file_name(name)}"
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):
        path = parent / (stem if attempt == 0 else f"{stem}.{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{parent / stem}: too many sweeps of this name in one second")
