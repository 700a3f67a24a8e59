"""Run by torchrun: trains the tiny model with each lever in several processes, each half-way resumed, and prints the losses.

`lever_ranks.py MODEL FOLDER NAME...`; see LEVERS.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny import sequences
from tiny_training import CONFIG, SEED

from cft_lab.training.loop import train
from cft_lab.training.ranks import Ranks, empty_model, leave, open_ranks

LEVERS = {
    "plain": {},
    "selective": {"activation_checkpointing": "selective"},
    "full": {"activation_checkpointing": "full"},
    "bf16": {"precision": "bf16"},
    "bf16-full": {"precision": "bf16", "activation_checkpointing": "full"},
    "8bit": {"optimizer": "adamw-8bit"},
    "bf16-weights": {"weights": "bf16", "precision": "bf16", "optimizer": "adamw-bf16"},
}
STEPS = 10


def losses_with(name: str, base: Path, folder: Path, ranks: Ranks, stops: tuple[int, ...] = (STEPS // 2,)) -> list[float]:
    """Trains to each stop, and from there with a fresh model and optimizer on to the end."""
    config = replace(CONFIG, epochs=STEPS // 2, lr=1e-2, **LEVERS[name])
    losses: list[float] = []
    for until in (*stops, None):
        model = empty_model(base, torch.bfloat16 if config.weights == "bf16" else torch.float32)
        train(
            model,
            sequences(16),
            config,
            seed=SEED,
            folder=folder,
            save=lambda step: None,
            report=lambda row: losses.append(float(row.loss or 0.0)),
            ranks=ranks,
            weights=base,
            until_step=until,
            progress=False,
            say=lambda line: None,
        )
    return losses


if __name__ == "__main__":
    with open_ranks() as ranks:
        found = {name: losses_with(name, Path(sys.argv[1]), Path(sys.argv[2]) / name, ranks) for name in sys.argv[3:]}
        if ranks.first:
            print("LOSSES", json.dumps(found))
    leave(0)
