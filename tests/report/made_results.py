"""Stores of results with outcomes that a test chooses, under the keys and in the files that real cells would have."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cft_lab import pipeline
from cft_lab.config import Config
from cft_lab.grade_columns import columns_of, write_columns
from cft_lab.hydra_config import compose
from cft_lab.json_files import read_json, write_json, write_records
from cft_lab.records import Grade, Outcome, Result, Score, to_row
from cft_lab.report.claims import Claim, Place
from cft_lab.report.study import Study
from cft_lab.results import open_store
from cft_lab.stages.evaluation import _score
from cft_lab.store import DONE, Stage

Outcomes = Mapping[str, Sequence[bool]]  # benchmark -> whether each item is solved
BENCHMARKS = ("lab-basic", "lab-applied")
METHODS = ("base", "sft", "sft-verified", "cft")
SWEEP = """
caption: Arms of a test
benchmarks: lab-table8
common: {model: lab-debug}
grids:
  - method: [base, sft, sft-verified, cft]
labels:
  - {where: {method: base}, row: Base}
  - {where: {method: sft}, row: SFT}
  - {where: {method: sft-verified}, row: SFT-verified}
  - {where: {method: cft}, row: CFT}
deltas:
  - {label: CFT - best SFT, first: {method: cft}, rivals: {method: [sft, sft-verified]}}
  - {label: SFT - Base, first: {method: sft}, rivals: {method: base}}
"""


FAMILY_OF_ONE = (Claim("one", "SFT is better", "lab", "mine", "greater", "AVG", (Place("SFT"),), ((Place("Base"),),), 0.01),)


def config_of(method: str, *overrides: str, seed: int = 0) -> Config:
    return dataclasses.replace(_composed("model=lab-debug", "benchmarks=lab-table8", f"method={method}", *overrides), seed=seed)


@functools.lru_cache(maxsize=32)
def _composed(*overrides: str) -> Config:
    return compose(*overrides)


def drawn(name: str, accuracy: float, items: int = 60) -> Outcomes:
    """Outcomes that depend on the name only; items differ in difficulty, so that arms are alike on them."""
    return drawn_for(BENCHMARKS, name, accuracy, items)


def drawn_for(benchmarks: Sequence[str], name: str, accuracy: float, items: int = 60) -> Outcomes:
    """The same for other benchmarks."""
    found = {}
    for benchmark in benchmarks:
        hard, rng = random.Random(benchmark), random.Random(f"{name}/{benchmark}")
        found[benchmark] = [rng.random() < accuracy + hard.uniform(-0.3, 0.3) for _ in range(items)]
    return found


def write_cell(root: Path, config: Config, outcomes: Outcomes, *, graders: int | None = None, errors: Sequence[int] = ()) -> str:
    """Writes a cell's result and scores as the stages do; returns the result's key. `graders` is another version of these."""
    plan = pipeline.plan(config).result
    keys = {stage.name: stage.key for stage in plan.walk() if stage.name not in ("scores", "generations", "result")}
    scores: list[Score] = []
    for benchmark in config.benchmarks.names:
        stage = plan.upstream[benchmark]
        if graders is not None:
            stage = dataclasses.replace(stage, config={"graders": graders})
        _finish(root, stage.upstream["generations"])
        folder = _finish(root, stage)
        rows = [
            Grade(f"{benchmark}/{place}", outcome, paper=outcome)
            for place, solved in enumerate(outcomes[benchmark])
            for outcome in [Outcome.ERROR if place in errors else Outcome.CORRECT if solved else Outcome.WRONG]
        ]
        write_records(folder / "grades.jsonl", rows)
        write_columns(folder, columns_of(rows))
        scores.append(_score(config, benchmark, rows))
        write_json(folder / "score.json", to_row(scores[-1]))
        keys |= {f"scores/{benchmark}": stage.key, f"generations/{benchmark}": stage.upstream["generations"].key}
    upstream = {name: keys[f"scores/{name}"] for name in config.benchmarks.names}
    folder = _finish(root, dataclasses.replace(plan, config={"of": upstream} if graders is not None else plan.config))
    tokens = None if config.method.name == "base" else 1000
    write_json(folder / "result.json", to_row(Result(pipeline.describe(config), keys, tuple(scores), tokens, 10)))
    return folder.name


def _finish(root: Path, stage: Stage) -> Path:
    folder = root / stage.name / stage.key
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "stage": stage.name,
        "key": stage.key,
        "label": stage.label,
        "created": "2026-01-02T03:04:05+0000",
        "seconds": 1.0,
    }
    upstream = {role: above.key for role, above in stage.upstream.items()}
    write_json(
        folder / "manifest.json", {**told, "counts": {}, "config": dict(stage.config), "upstream": upstream, "commit": "abc"}
    )
    (folder / DONE).touch()
    return folder


def sweeps_folder(tmp_path: Path, text: str = SWEEP) -> Path:
    folder = tmp_path / "sweeps"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(text)
    return folder


def study_of(root: Path, folder: Path) -> Study:
    return Study(open_store(root), folder=folder)


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Rewrites a JSON file with what `change` returns for its contents."""
    write_json(file, change(read_json(file)))
