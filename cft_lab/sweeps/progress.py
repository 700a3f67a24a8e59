"""How far a stage is that is being made, from what it has written so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    unit: str  # steps | rows | candidates
    eta_s: float | None = None

    def __str__(self) -> str:
        told = f"{self.done}/{self.of} {self.unit}" if self.of is not None else f"{self.done} {self.unit}"
        return told if self.eta_s is None else f"{told}, {duration(self.eta_s)} to go"


def progress_of(stage: PlannedStage, upstream: list[PlannedStage], root: Path) -> Progress | None:
    """The progress of a stage by its partial folder; None if it tells nothing."""
    partial = root / stage.name / f"{stage.key}.partial"
    try:
        config: dict[str, Any] = read_json(partial / "owner.json")["config"]
    except (OSError, ValueError):  # it has not begun, or has just ended
        return None
    counts = _counts(upstream, root)
    if rows := [row for row in read_metrics(partial) if "loss" in row]:
        return _training(rows, config, counts)
    if stage.name == "selected":
        of = len(list((root / "candidates" / upstream[0].key).glob("step-*")))
        return Progress(len(list(partial.glob("step-*.jsonl"))), of, "candidates")
    if (partial / JOURNAL).exists():
        done = (partial / JOURNAL).read_bytes().count(b"\n")
        return Progress(done, _prompts(stage, config) if stage.name == "generations" else counts.get("problems"), "rows")
    return None


def _training(rows: list[dict[str, Any]], config: dict[str, Any], counts: dict[str, Any]) -> Progress:
    done = int(rows[-1]["step"])
    batch, epochs = config.get("train.global_batch_size"), config.get("train.epochs")
    if not (batch and epochs and "examples" in counts):  # pretraining: how long it is shows only in the data that it draws
        return Progress(done, None, "steps")
    of = int(epochs) * math.ceil(int(counts["examples"]) / int(batch))
    recent = rows[-_RECENT:]
    each_s = sum(row["tokens"] / row["tokens_per_s"] for row in recent) / len(recent)
    return Progress(done, max(of, done), "steps", max(of - done, 0) * each_s)


def _prompts(stage: PlannedStage, config: dict[str, Any]) -> int | None:
    """Prompts of a benchmark; None for a protocol whose number of turns shows only as it goes."""
    if config["inference"]["protocol"] == "two-stage":
        return None
    benchmark = BENCHMARKS.get(stage.label.partition(",")[0])
    items = [number for number in (config["limit"], benchmark.size if benchmark else None) if number is not None]
    return min(items) * int(config["inference"]["samples"]) if items else None


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
