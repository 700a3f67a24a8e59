"""How close the training loop comes to the machine: model FLOP/s over a matmul peak measured in the same run.

    python benchmarks/training_limit.py

Model FLOP are counted as in cft_lab/training/meters.py: blocks, causal attention, and the output projection of supervised tokens
only; the optimizer and whatever is computed twice do not count. The peak is the best rate of square products of several sizes,
tried between optimizer steps in the precision of the run. On a GPU: full fine-tuning at 2,048 tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from training_setup import (
    SHAPES,
    THREADS,
    Child,
    cft_rows,
    clock,
    equal_rows,
    matmul_peak,
    peak_mb,
    resident_mb,
    surroundings,
    synchronize,
    table,
    tell,
)

from cft_lab.config import OptimizationConfig
from cft_lab.training.encode import Encoded
from cft_lab.training.loop import train
from cft_lab.training.meters import flops_of_model

WARMUP = 2  # steps that are not counted


@dataclasses.dataclass(frozen=True)
class Run:
    """A line of the table. `length` is that of all rows, None is the CFT mix; `levers` are fields of OptimizationConfig."""

    shape: str
    length: int | None
    global_batch: int
    levers: dict[str, Any]
    steps: int = 10


FP32 = {"precision": "fp32"}
BF16 = {"precision": "bf16"}
LOW_BIT = {"precision": "bf16", "weights": "bf16", "optimizer": "adamw-bf16"}
CPU_RUNS = (
    Run("22M", 320, 12, FP32),
    Run("22M", None, 12, FP32),
    Run("22M", 320, 12, BF16),
    Run("22M", None, 12, BF16),
    Run("4.5M", 160, 48, FP32),
    Run("4.5M", None, 48, FP32),
)
GPU_RUNS = (
    Run("Qwen2.5-1.5B", 2048, 32, {**BF16, "micro_batch_tokens": 16384}),
    Run("Qwen2.5-1.5B", None, 64, {**BF16, "micro_batch_tokens": 16384}),
    Run("Qwen2.5-7B", 2048, 32, {**LOW_BIT, "micro_batch_tokens": 8192}),
    Run("Qwen2.5-7B", None, 64, {**LOW_BIT, "micro_batch_tokens": 8192}),
    Run("Qwen2.5-7B", 2048, 32, {**LOW_BIT, "micro_batch_tokens": 16384, "activation_checkpointing": "selective"}),
)


def run_child(run: Run) -> None:
    """Trains in this process and tells the rates of the measured steps, the peak and the memory."""
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(THREADS)
    shape = SHAPES[run.shape]
    count = (WARMUP + run.steps) * run.global_batch
    rows = cft_rows(shape, count) if run.length is None else equal_rows(shape, count, run.length)
    sequences = [Encoded(tuple(ids), start) for ids, start in rows]
    config = OptimizationConfig(
        lr=1e-5, global_batch_size=run.global_batch, save_every_steps=1_000_000, resume_every_steps=1_000_000, cpu_threads=THREADS
    )
    config = dataclasses.replace(config, **run.levers)
    arithmetic = torch.bfloat16 if config.precision == "bf16" else torch.float32
    before_mb = resident_mb()
    torch.manual_seed(0)
    with torch.device(device):
        weights = torch.bfloat16 if config.weights == "bf16" else torch.float32
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=weights)
    speeds: list[float] = []
    peaks: list[float] = []
    memory = started = 0.0

    def report(step: Any) -> None:
        nonlocal memory, started
        synchronize(device)
        speeds.append(step.tokens / (clock() - started))
        memory = peak_mb(device, before_mb)
        peaks.append(matmul_peak(device, arithmetic, 0.6))
        started = clock()

    with tempfile.TemporaryDirectory() as folder:
        train(model, sequences, config, seed=0, folder=Path(folder), save=lambda step: None, report=report, progress=False)
    flop = flops_of_model(model).of([len(row.ids) for row in sequences], sum(row.num_targets for row in sequences))
    per_token = flop / sum(len(row.ids) for row in sequences)
    tell(speeds=speeds[WARMUP:], peak=max(peaks), flop_per_token=per_token, peak_mb=memory)


def result_row(run: Run, told: dict[str, Any]) -> list[str]:
    """A line of the table."""
    middle, best = (
        told["flop_per_token"] * speed / told["peak"] for speed in (statistics.median(told["speeds"]), max(told["speeds"]))
    )
    levers = ", ".join(str(value) for value in run.levers.values())
    return [
        f"{run.shape}, {levers}",
        "CFT mix" if run.length is None else f"{run.length} tokens",
        f"{statistics.median(told['speeds']):,.0f}",
        f"{told['peak'] / 1e9:,.0f}",
        f"{middle:.2f} ({best:.2f})",
        f"{told['peak_mb']:,.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    runs = GPU_RUNS if torch.cuda.is_available() else CPU_RUNS
    if options.child is not None:
        run_child(runs[options.child])
        return
    print(surroundings())
    print(f"{runs[0].steps} optimizer steps of each: the median step (the best step)\n")
    print(table(["model", "rows", "tokens/s", "peak GFLOP/s", "of peak", "memory, MB"], []))
    for place, run in enumerate(runs):
        with tempfile.TemporaryDirectory() as folder:
            child = Child([sys.executable, __file__, "--child", str(place)], Path(folder) / "log")
            print(table(result_row(run, child.ready()), []).splitlines()[0], flush=True)
            child.close()


if __name__ == "__main__":
    main()
