"""One cell, from raw questions to a recorded result: the stages in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab import stages
from cft_lab.config import PROJECT_ROOT, Config, fields_of
from cft_lab.data.methods import METHODS
from cft_lab.records import Result, from_row
from cft_lab.store import Stage, Store, read_json
from cft_lab.tracking import Tracker


@dataclass(frozen=True)
class Cell:
    """A cell's last stage, from which all others are reached, and its training (None for a base model)."""

    result: Stage
    trained: Stage | None


def plan(config: Config) -> Cell:
    """The stages of a cell and their keys, from the config alone: nothing is made, read or loaded."""
    base = stages.base_model(config)
    model, trained = base, None
    method = METHODS[config.method.name]
    if method is not None:
        pool = stages.problems(config)
        responded = stages.answers(config, pool) if method.response == "answers" else stages.responses(config, pool, base)
        critiqued = stages.critiques(config, pool, responded) if method.needs_critiques else None
        made = stages.examples(config, method, pool, responded, critiqued)
        trained = stages.candidates(config, made, base, Tracker(config.tracking, output_root(config)))
        model = stages.selected(config, trained)
    generated = {name: stages.generations(config, name, model) for name in config.benchmarks.names}
    scored = {name: stages.scores(config, name, generated[name]) for name in generated}
    return Cell(stages.result(config, scored, trained, describe(config)), trained)


def run(config: Config, say: Callable[[str], None] = print) -> Result:
    """Makes what is missing of a cell and returns its result. The config must have passed `preflight.check`."""
    cell = plan(config)
    store = Store(output_root(config), say)
    folder = store.ensure(cell.result)
    stages.track(config, store, cell.result, cell.trained)
    return from_row(Result, read_json(folder / stages.RESULT))


def output_root(config: Config) -> Path:
    """The store's folder; a relative `output_root` starts at the project's folder, whatever the working directory."""
    return PROJECT_ROOT / config.output_root


def describe(config: Config) -> dict[str, Any]:
    """The cell's whole config as one flat dict, for records and trackers."""
    return {name: value for name, value, _ in fields_of(config) if name != "output_root"}
