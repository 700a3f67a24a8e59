"""One cell, from raw questions to a recorded result: the stages in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab import preflight, stages
from cft_lab.config import PROJECT_ROOT, Config, ConfigError, DataError, fields_of
from cft_lab.data.methods import METHODS, parts
from cft_lab.json_files import read_json
from cft_lab.records import Result, from_row
from cft_lab.store import Stage, Store
from cft_lab.tracking import Tracker


@dataclass(frozen=True)
class Cell:
    """A cell's last stage, from which all others are reached, and its training (None for a base model)."""

    result: Stage
    trained: Stage | None


def plan(config: Config) -> Cell:
    """The stages of a cell and their keys, from the config and local data files alone: nothing is made or loaded."""
    base = stages.base_model(config)
    model, trained = base, None
    made = {source: _examples(part, base) for source, part in parts(config).items()}
    if made:
        examples = made["data"] if len(made) == 1 else stages.mixed_examples(config, made)
        trained = stages.candidates(config, examples, base, Tracker(config.tracking, output_root(config)))
        model = stages.selected(config, trained)
    generated = {name: stages.generations(config, name, model) for name in config.benchmarks.names}
    scored = {name: stages.scores(config, name, generated[name]) for name in generated}
    return Cell(stages.result(config, scored, trained, describe(config)), trained)


def _examples(config: Config, base: Stage) -> Stage:
    """The examples of a single arm."""
    method = METHODS[config.method.name]
    assert method is not None
    pool = stages.problems(config)
    responded = stages.answers(config, pool) if method.response == "answers" else stages.responses(config, pool, base)
    critiqued = stages.critiques(config, pool, responded) if method.needs_critiques else None
    return stages.examples(config, pool, responded, critiqued, base)


def check(config: Config, *, computes: bool = True) -> None:
    """Raises ConfigError, with all that this machine lacks for the stages that are yet to be made.

    `computes`: whether this is the machine that trains and evaluates, or one that hands this to others.
    """
    lacking = list(preflight.lacking(config, computes=computes))
    store = Store(output_root(config))
    try:
        result = plan(config).result
        for stage in [*store.unmade(result), *_with_lost_rows(config, store, result)]:
            lacking += stage.lacks()
    except DataError as error:  # a data file that the keys are made of is not there
        lacking.append(str(error))
    if lacking:
        raise ConfigError(*dict.fromkeys(lacking))


def run(config: Config, say: Callable[[str], None] = print) -> Result:
    """Makes what is missing of a cell and returns its result. The config must have passed `preflight.check` and `check`."""
    cell = plan(config)
    store = Store(output_root(config), say)
    reopen_failed(config, store, cell.result)
    folder = store.ensure(cell.result)
    stages.track(config, store, cell.result, cell.trained)
    return from_row(Result, read_json(folder / stages.RESULT))


_tried: set[Path] = set()  # stages of cells that retried lost rows: none is opened again for the next cell that shares it


def reopen_failed(config: Config, store: Store, result: Stage) -> None:
    """Opens finished stages again that lost rows, if the config wants these to be tried again."""
    if not (config.teacher.retry_failed or config.responses.retry_failed):
        return
    for stage in _with_lost_rows(config, store, result):
        stages.forget_refused(store.reopen(stage))
    _tried.update(store.folder(stage) for stage in result.walk())


def _with_lost_rows(config: Config, store: Store, result: Stage) -> list[Stage]:
    """Finished stages with failed or refused rows that the config wants to be tried again."""
    asked = {group for group in ("teacher", "responses") if getattr(config, group).retry_failed}
    groups = {"critiques": "teacher", "answers": "teacher", "responses": "responses"}
    found = []
    for stage in result.walk() if asked else ():
        if groups.get(stage.name) in asked and store.is_done(stage) and store.folder(stage) not in _tried:
            counts = store.manifest(stage)["counts"]
            if counts.get("failed") or counts.get("refused"):
                found.append(stage)
    return found


def output_root(config: Config) -> Path:
    """The store's folder; a relative `output_root` starts at the project's folder, whatever the working directory."""
    return PROJECT_ROOT / config.output_root


def describe(config: Config) -> dict[str, Any]:
    """The cell's config as one flat dict, for records and trackers: all but where its stages are made and lie.

    Shell lines and options of a cluster may hold secrets, and records are passed on.
    """
    return {name: value for name, value, _ in fields_of(config) if name != "output_root" and not name.startswith("cluster.")}
