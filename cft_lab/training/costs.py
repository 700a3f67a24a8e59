"""What a training costs in steps, hours and disk, before it starts."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from cft_lab.config import Config, OptimizationConfig, ShapeConfig
from cft_lab.training.devices import Device
from cft_lab.training.estimate import optimizer_bytes
from cft_lab.training.lengths import Lengths
from cft_lab.training.meters import flops_of_shape
from cft_lab.training.shapes import count_parameters

GB = 1e9
#: share of the peak that training reaches, where none was measured, and where the figure is from
ASSUMED_UTILIZATION = 0.35
UTILIZATION_BASIS = "33 to 39 % published by torchtitan for Llama 3.1 8B under FSDP2 on 8 to 128 H100"
PARTIAL = ".partial"  # ends the name of a folder that is being made
_RESUME_STATES = 3  # two are kept while the next is written
_RECOMPUTED = {"none": 0.0, "selective": 0.0, "full": 1 / 3}  # work done twice, as a share; selective repeats no matrix product


@dataclass(frozen=True)
class Steps:
    """A training in optimizer steps."""

    total: int
    warmup: int
    candidates: int

    @property
    def words(self) -> str:
        """For a plan."""
        return f"{self.total:,} optimizer steps, {self.warmup:,} of them warm-up; {self.candidates:,} candidates"


@dataclass(frozen=True)
class Time:
    """How long a training takes; None where nothing is known to compute it from."""

    flops: float  # of the whole training, over all devices
    hours: float | None
    device_hours: float | None
    basis: str


@dataclass(frozen=True)
class Disk:
    """What a training needs on the disk at once, in bytes, against what is free there."""

    candidate: float  # one of them
    held: int  # candidates on the disk at once
    resume: float  # all resume states that are on the disk at once
    free: float
    folder: Path
    begun: float = 0.0  # of what is needed, there already: the training was interrupted

    @property
    def needed(self) -> float:
        """All at once."""
        return self.candidate * self.held + self.resume

    @property
    def shortage(self) -> str | None:
        """What to do if it does not fit; None if it does."""
        if self.needed <= self.free + self.begun:
            return None
        return (
            f"the training needs {_gb(self.needed - self.begun)} GB of disk and {_gb(self.free)} GB are free at {self.folder}: set "
            "train.keep_candidates=2, or train.selection.mode=none (one candidate), or set output_root to a larger disk"
        )


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:,.0f}" if num_bytes >= 10 * GB else f"{num_bytes / GB:.2g}"


def count_steps(config: Config, lengths: Lengths) -> Steps:
    """Steps, warm-up and candidates, as the loop counts them: an epoch's last, smaller batch is a step, and the end a candidate."""
    train = config.train
    total = train.epochs * math.ceil(lengths.sequences / train.global_batch_size)
    candidates = 1 if train.selection.mode == "none" else math.ceil(total / train.save_every_steps)
    return Steps(total, math.ceil(train.warmup_ratio * total), candidates)


def estimate_time(
    config: OptimizationConfig, shape: ShapeConfig, lengths: Lengths, device: Device, measured: tuple[float, str] | None = None
) -> Time:
    """FLOP of the training (see meters.py) over those that the devices do: peak x utilization, less what is computed again.

    `measured` is (tokens per second of one device, where that was measured): it comes before every assumption.
    """
    counts = flops_of_shape(shape)
    tokens = lengths.tokens * config.epochs
    attention = counts.attention_width * lengths.mean_squared * lengths.sequences * config.epochs
    flops = 6 * (counts.block_parameters * tokens + attention + counts.projection_parameters * lengths.targets * config.epochs)
    if measured is not None:
        hours = tokens / measured[0] / device.ranks / 3600
        return Time(flops, hours, hours * device.ranks, f"measured: {measured[0]:,.0f} tokens/s {measured[1]}")
    if device.tflops is None:
        return Time(flops, None, None, f"{device.tflops_basis}: set train.device_tflops")
    utilization = ASSUMED_UTILIZATION / (1 + _RECOMPUTED[config.activation_checkpointing])
    hours = flops / (device.tflops * 1e12 * utilization * device.ranks) / 3600
    basis = (
        f"assumed: {utilization:.0%} of {device.tflops:g} TFLOP/s ({device.tflops_basis}), from {UTILIZATION_BASIS}"
        f"{', less a forward pass done twice' if config.activation_checkpointing == 'full' else ''}"
    )
    return Time(flops, hours, hours * device.ranks, basis)


def estimate_disk(config: Config, shape: ShapeConfig, steps: Steps, precision: str, folder: Path) -> Disk:
    """Candidates, in bf16 if that is what they were computed in (`precision`), and resume states (weights and optimizer state).

    The next resume state is written beside the two that are kept. `folder` is on the disk; if it is that of the
    training itself, what it holds counts as room.
    """
    train = config.train
    number = count_parameters(shape).total
    held = steps.candidates if train.keep_candidates is None else min(steps.candidates, train.keep_candidates)
    states = min(_RESUME_STATES, math.ceil(steps.total / train.resume_every_steps))
    state = number * ((4 if train.weights == "fp32" else 2) + optimizer_bytes(train))
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    candidate = number * (2 if "bf16" in (precision, train.weights) else 4)
    begun = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.name.endswith(PARTIAL) else 0
    return Disk(candidate, held, states * state, shutil.disk_usage(there).free, there, begun)


SHAPE_REMEDY = (
    "add it to conf/model (shape: {architecture, hidden_size, intermediate_size, layers, heads, kv_heads, vocab_size, "
    "tied_embeddings}), or fetch the model"
)
