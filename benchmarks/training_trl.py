"""How fast the training loop is beside TRL's SFTTrainer: real tokens/s, peak memory and losses, on rows with a CFT length mix.

    python benchmarks/training_trl.py [--steps 7] [--models NAME ...] [--settings NAME ...] [--peer-python PYTHON]

Same weights, same rows in each optimizer step, AdamW, float32 (bf16 autocast on a GPU), loss on the completion only. Each
contender is a process of its own with the same threads; they take turns step by step, and speeds are compared within a step.
The first run makes the environment .venv-trl for the peer, whose settings are in training_trl_peer.py: the two that run unless
others are asked for are its defaults and what was fastest of them all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from training_setup import ROWS, SHAPES, THREADS, Child, cft_rows, run_ours, spread, surroundings, table, take_turns, write_model
from training_trl_peer import SETTINGS

from cft_lab.config import OptimizationConfig
from cft_lab.training.batches import batch_at

HERE = Path(__file__).parent
PEER_FOLDER = HERE.parent / ".venv-trl"
DEFAULTS, BEST = "defaults", "sorted, 2 rows a pass"
OURS = "ours"
TOKENS = {OURS: 4096, "ours, small micro-batches": 1024}  # tokens of a micro-batch: 4,096 is the project's default
GLOBAL_BATCH = 16
WARMUP = 1  # steps that are not counted


def optimization(name: str) -> OptimizationConfig:
    """The optimizer of SFTTrainer's defaults, at a constant rate, for one of our contenders."""
    return OptimizationConfig(
        lr=1e-4,
        warmup_ratio=0.0,
        final_lr_ratio=1.0,
        global_batch_size=GLOBAL_BATCH,
        micro_batch_tokens=TOKENS[name],
        beta2=0.999,
        precision="auto",
        save_every_steps=1_000_000,
        resume_every_steps=1_000_000,
        cpu_threads=THREADS,
    )


def peer_python() -> str:
    """The Python of the peer's environment, made from constraints-trl.txt if it is not there."""
    python = PEER_FOLDER / "bin" / "python"
    done = PEER_FOLDER / ".installed"
    if not done.exists():
        print(f"making {PEER_FOLDER} (a minute or more)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", PEER_FOLDER], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", HERE / "constraints-trl.txt", "trl", "torch"], check=True)
        done.touch()
    return str(python)


def write_task(folder: Path, shape_name: str, steps: int) -> None:
    """Random weights, the rows as ours reads them, and the same rows step by step as the peer reads them."""
    shape = SHAPES[shape_name]
    write_model(folder, shape)
    rows = cft_rows(shape, steps * GLOBAL_BATCH)
    by_step = [[rows[i] for i in batch_at(step, len(rows), optimization(OURS), seed=0)] for step in range(steps)]
    (folder / ROWS).write_text(json.dumps(rows))
    (folder / "peer.json").write_text(json.dumps(by_step))


def measure(shape_name: str, settings: list[str], python: str, steps: int) -> dict[str, list[dict[str, Any]]]:
    """What ours and the peer in each of `settings` told of `steps` optimizer steps."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        write_task(folder, shape_name, WARMUP + steps)
        children: dict[str, Child] = {}
        for place, name in enumerate([*TOKENS, *settings]):
            own = [sys.executable, __file__, "--child", str(folder), name]
            peer = [python, str(HERE / "training_trl_peer.py"), str(folder), name, str(GLOBAL_BATCH)]
            children[name] = Child(own if name in TOKENS else peer, folder / f"{place}.log")
            stack.callback(children[name].close)
        return take_turns(children, WARMUP, steps)


def result_rows(told: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """A line for each contender: speed, how many times slower than ours in the same step, memory, losses."""
    speeds = {name: [row["tokens"] / row["seconds"] for row in rows] for name, rows in told.items()}
    lines = []
    for name, rows in told.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds[OURS], speeds[name], strict=True)]
        apart = max(abs(row["loss"] / own["loss"] - 1) for row, own in zip(rows, told[OURS], strict=True))
        lines.append(
            [
                name if name in TOKENS else f"TRL, {name}",
                spread(speeds[name]),
                spread(ratios, 2),
                f"{rows[-1]['peak_mb']:,.0f}",
                f"{rows[0]['loss']:.5f}, {rows[-1]['loss']:.5f}",
                f"{apart:.0e}",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=7, help="measured optimizer steps of each contender")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), help="default: two small ones, or 1.5B on a GPU")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=[DEFAULTS, BEST], help="of the peer")
    parser.add_argument("--peer-python", help="a Python that has trl, instead of making an environment")
    options = parser.parse_args()
    if options.child:
        run_ours(Path(options.child[0]), optimization(options.child[1]))
        return
    python = options.peer_python or peer_python()
    versions = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout.split()
    models = options.models or (["Qwen2.5-1.5B"] if torch.cuda.is_available() else ["22M", "4.5M"])
    header = ["", "real tokens/s", "ours is x", "peak MB", "loss of the first, last step", "apart from ours, largest"]
    print(surroundings())
    print("peer: " + ", ".join(v for v in versions if v.startswith(("trl=", "torch=", "transformers="))))
    print(f"{GLOBAL_BATCH} sequences per optimizer step, {options.steps} steps of each in turn: median [lowest, highest]")
    for name in models:
        lines = result_rows(measure(name, options.settings, python, options.steps))
        print(f"\n{name}\n\n{table(header, lines)}", flush=True)


if __name__ == "__main__":
    main()
