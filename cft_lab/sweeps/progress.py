"""How far a stage is that is being made, from what it has written so far."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.json_files import read_json
from cft_lab.stages.common import JOURNAL
from cft_lab.store import MANIFEST
from cft_lab.sweeps.plan import PlannedStage
from cft_lab.tracking import read_metrics

_RECENT = 20  # optimizer steps that the time to go is judged by


@dataclass(frozen=True)
class Progress:
    """`done` of `of` units, where the whole is known; `eta_s` in seconds, where it can be told."""

    done: int
    of: int | None
    unit: str  # steps | tokens | rows | candidates
    eta_s: float | None = None

    def __str__(self) -> str:
        told = f"{self.done}/{self.of} {self.unit}" if self.of is not None else f"{self.done} {self.unit}"
        return told if self.eta_s is None else f"{told}, {duration(self.eta_s)} to go"


def progress_of(stage: PlannedStage, upstream: list[PlannedStage], root: Path) -> Progress | None:
    """The progress of a stage by its partial folder; None if it tells nothing."""
    partial = root / stage.name / f"{stage.key}.partial"
    try:
        owner: dict[str, Any] = read_json(partial / "owner.json")
        config: dict[str, Any] = owner["config"]
    except (OSError, ValueError):  # it has not begun, or has just ended
        return None
    counts = _counts(upstream, root)
    already: dict[str, int] = owner.get("already", {})
    if rows := [row for row in read_metrics(partial) if "loss" in row]:
        return _training(rows, config, counts)
    if stage.name == "selected":  # the newest journal is of the candidate that is being scored
        of = len(list((root / "candidates" / upstream[0].key).glob("step-*")))
        done, before = (max(len(files) - 1, 0) for files in (list(partial.glob("step-*.jsonl")), already))
        return Progress(done, of, "candidates", _eta_s(done - before, of - done, owner))
    if (partial / JOURNAL).exists():
        done = (partial / JOURNAL).read_bytes().count(b"\n")
        whole = _prompts(stage, config) if stage.name == "generations" else counts.get("problems")
        eta_s = None if whole is None else _eta_s(done - already.get(JOURNAL, 0), whole - done, owner)
        return Progress(done, whole, "rows", eta_s)
    return None


def _eta_s(made: int, left: int, owner: dict[str, Any]) -> float | None:
    """Seconds that what is left takes at the pace of this start, which has made `made` since it began; None before the first."""
    if made <= 0 or "since" not in owner:
        return None
    passed_s = time.time() - datetime.strptime(owner["since"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    return max(left, 0) * max(passed_s, 0.0) / made


def _training(rows: list[dict[str, Any]], config: dict[str, Any], counts: dict[str, Any]) -> Progress:
    recent = rows[-_RECENT:]
    recent_s = sum(row["tokens"] / row["tokens_per_s"] for row in recent)
    pretraining = "model.lab.pretrain."
    if (tokens := config.get(f"{pretraining}tokens")) is not None:  # whole documents: a few tokens more or less
        whole = int(tokens) * int(config[f"{pretraining}optimization.epochs"])
        seen = sum(int(row["tokens"]) for row in rows)
        each_s = recent_s / max(sum(row["tokens"] for row in recent), 1)
        return Progress(seen, max(whole, seen), "tokens", max(whole - seen, 0) * each_s)
    done = int(rows[-1]["step"])
    batch, epochs = config.get("train.global_batch_size"), config.get("train.epochs")
    if not (batch and epochs and "examples" in counts):
        return Progress(done, None, "steps")
    of = int(epochs) * math.ceil(int(counts["examples"]) / int(batch))
    each_s = recent_s / len(recent)
    return Progress(done, max(of, done), "steps", max(of - done, 0) * each_s)


def _prompts(stage: PlannedStage, config: dict[str, Any]) -> int | None:
    """Prompts of a benchmark; None for a protocol whose number of rounds shows only as it goes."""
    two_stage = config["inference"]["protocol"] == "two-stage"
    if two_stage and config["sampling"]["temperature"] > 0 and config["inference"]["max_rounds"] > 1:
        return None
    benchmark = BENCHMARKS.get(stage.label.partition(",")[0])
    items = [number for number in (config["limit"], benchmark.size if benchmark else None) if number is not None]
    prompts = min(items) * int(config["inference"]["samples"]) if items else None
    return 2 * prompts if prompts and two_stage else prompts  # a solution and its critique


def _counts(upstream: list[PlannedStage], root: Path) -> dict[str, Any]:
    """The counts of the finished upstream stages, together."""
    found: dict[str, Any] = {}
    for above in upstream:
        manifest = root / above.name / above.key / MANIFEST
        found |= read_json(manifest)["counts"] if manifest.exists() else {}
    return found


def duration(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
