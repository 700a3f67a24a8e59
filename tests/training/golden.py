"""Run by torchrun: trains the tiny model of a folder in several processes and adds each loss to losses.jsonl.

`golden.py MODEL FOLDER [KILL_AFTER]`: after step KILL_AFTER the last process kills itself.
"""

import json
import os
import signal
import sys
from pathlib import Path

from tiny import sequences
from tiny_training import CONFIG, SEED

from cft_lab.training.loop import train
from cft_lab.training.meters import StepMetrics
from cft_lab.training.ranks import empty_model, leave, open_ranks

base, folder = Path(sys.argv[1]), Path(sys.argv[2])
kill_after = int(sys.argv[3]) if len(sys.argv) > 3 else None


def report(row: StepMetrics) -> None:
    if ranks.first:
        with (folder / "losses.jsonl").open("a") as file:
            file.write(json.dumps([row.step, row.loss, row.grad_norm]) + "\n")
    elif row.step == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)


with open_ranks() as ranks:
    import torch

    train(
        empty_model(base, torch.float32),
        sequences(80),
        CONFIG,
        seed=SEED,
        folder=folder,
        save=lambda step: None,
        report=report,
        ranks=ranks,
        weights=base,
        progress=False,
    )
leave(0)
