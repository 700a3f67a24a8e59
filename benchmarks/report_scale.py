"""A report of a large store: 2,000 cells of 5,000 items each, made up, without texts. Limits: 60 s and 2 GB.

    python benchmarks/report_scale.py [--cells 2000] [--items 5000] [--store DIR]

The cells are those of the report's own tables, under as many seeds as it takes, with the keys that they would have. Outcomes are
drawn at random, with an accuracy for each arm and a shift for each seed. What is measured is `python -m cft_lab report all` in a
process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config
from cft_lab.evaluation.statistics import wilson
from cft_lab.grade_columns import GradeColumns, write_columns
from cft_lab.hydra_config import Composer, initialized
from cft_lab.json_files import write_json
from cft_lab.records import Result, Sampling, Score, to_row
from cft_lab.report.build import ALL
from cft_lab.results.grades import CORRECT
from cft_lab.store import DONE, Stage
from cft_lab.sweeps.expand import compose_all, expand

LIMIT_S, LIMIT_GB = 60.0, 2.0
_WRONG = CORRECT + 1
_BENCHMARKS = 4  # of most lab cells; the paper's have two to seven, each with as many items, because tables share them
_written: dict[str, Score] = {}  # scores stages that several cells stand on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--store", type=Path, help="where to make the store, or where it is (default: made, and deleted again)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = options.store or Path(temporary) / "store"
        if not store.exists():
            started = time.monotonic()
            cells = make_store(store, options.cells, options.items)
            print(f"made {cells:,} cells of {options.items:,} items in {time.monotonic() - started:.0f} s", flush=True)
        return measure(store, Path(temporary) / "report")


def measure(store: Path, out: Path) -> int:
    started = time.monotonic()
    words = ["report", "all", "--store", str(store), "--out", str(out), "--format", "md,csv,html"]
    command = [sys.executable, "-m", "cft_lab", *words]
    subprocess.run(command, check=True, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    measured = sum(",measured," in line for file in out.glob("*.csv") for line in file.read_text().splitlines())
    if strange := [file.name for file in out.glob("*.md") if "cannot be used" in file.read_text()]:
        print(f"the store is not what it should be: {', '.join(strange)}", file=sys.stderr)
        return 1
    print(f"report all: {seconds:.1f} s (limit {LIMIT_S:.0f}), {gigabytes:.2f} GB (limit {LIMIT_GB:.0f}), {measured:,} numbers")
    return int(seconds > LIMIT_S or gigabytes > LIMIT_GB or not measured)


def make_store(store: Path, cells: int, items: int) -> int:
    """Writes at least `cells` results, whole rounds of seeds over all cells of the report; returns how many."""
    store.mkdir(parents=True)
    with initialized():
        asked = expand([f"sweeps={','.join(name for name in ALL if name != 'table1')}"])
        configs = [config for _, config in compose_all(asked.cells, Composer())]
    made: set[str] = set()
    seed = 0
    while len(made) < cells:
        for config in configs:
            result = pipeline.plan(seeded := dataclasses.replace(config, seed=seed)).result
            if result.key not in made:
                write_cell(store, seeded, result, items)
                made.add(result.key)
        seed += 1
    return len(made)


def write_cell(store: Path, config: Config, result: Stage, items: int) -> None:
    scored = {name: stage for name, stage in result.upstream.items() if stage.name == "scores"}
    arm = zlib.crc32(json.dumps({**pipeline.describe(config), "seed": 0}, sort_keys=True, default=str).encode())
    shift = np.random.default_rng([arm, config.seed]).normal(0, 0.01)
    accuracy = np.random.default_rng(arm).uniform(0.3, 0.7) + shift
    scores = tuple(write_scores(store, name, stage, accuracy, items // _BENCHMARKS) for name, stage in scored.items())
    keys = {stage.name: stage.key for stage in result.walk() if stage.name not in ("scores", "generations", "result")}
    for name, stage in scored.items():
        keys |= {f"scores/{name}": stage.key, f"generations/{name}": stage.upstream["generations"].key}
    record = Result(pipeline.describe(config), keys, scores, supervised_tokens=10_000_000, examples=50_000)
    folder = finished(store, result)
    write_json(folder / "result.json", to_row(record))


def write_scores(store: Path, benchmark: str, stage: Stage, accuracy: float, items: int) -> Score:
    if stage.key in _written:
        return _written[stage.key]
    folder = finished(store, stage)
    rng = np.random.default_rng(int(stage.key, 16))
    difficulty = np.random.default_rng(zlib.crc32(benchmark.encode())).normal(0, 0.2, items)  # shared: scores are paired
    correct = rng.random(items) < accuracy + difficulty
    outcome = np.where(correct, CORRECT, _WRONG).astype(np.int8)
    names = tuple(f"{benchmark}/{place}" for place in range(items))
    write_columns(folder, GradeColumns(names, np.zeros(items, np.int32), outcome, outcome))
    hits = int(correct.sum())
    share, interval = hits / items, wilson(hits, items)
    _written[stage.key] = Score(benchmark, "direct", Sampling(2048), items, hits, 0, 0, 0, share, interval, paper_accuracy=share)
    return _written[stage.key]


def finished(store: Path, stage: Stage) -> Path:
    """The folder of a stage as the store leaves it."""
    folder = store / stage.name / stage.key
    folder.mkdir(parents=True, exist_ok=True)
    told = {"stage": stage.name, "key": stage.key, "label": stage.label, "created": "2026-01-01T00:00:00+0000", "seconds": 1.0}
    upstream = {role: above.key for role, above in stage.upstream.items()}
    write_json(folder / "manifest.json", {**told, "counts": {}, "config": dict(stage.config), "upstream": upstream, "commit": None})
    (folder / DONE).touch()
    return folder


if __name__ == "__main__":
    sys.exit(main())
