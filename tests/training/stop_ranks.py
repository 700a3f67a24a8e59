"""Run by torchrun: the last of several processes alone is asked to end, in the middle of step 3; prints what each said.

`stop_ranks.py MODEL FOLDER`
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny import sequences
from tiny_training import CONFIG, SEED

from cft_lab.training.loop import train
from cft_lab.training.ranks import empty_model, leave, open_ranks
from cft_lab.training.signals import Requeue, StopRequest

base, folder = Path(sys.argv[1]), Path(sys.argv[2])
stop, seen, done = StopRequest(), [], []


def note(*_: object) -> None:
    """Counts the micro-batches of step 3."""
    if len(done) == 2:
        seen.append(1)
        if len(seen) == 2 and not ranks.first:
            stop.ask()


with open_ranks() as ranks:
    model = empty_model(base, torch.float32)
    model.get_input_embeddings().register_forward_pre_hook(note)
    try:
        train(
            model,
            sequences(80),
            replace(CONFIG, micro_batch_tokens=20),
            seed=SEED,
            folder=folder,
            save=lambda step: None,
            report=done.append,
            ranks=ranks,
            weights=base,
            stop=stop,
            progress=False,
        )
    except Requeue as ended:
        sys.stdout.write(f"{ranks.rank} {ended} {len(seen)}\n")  # in one piece; print would let the other in before the line's end
        sys.stdout.flush()
leave(0)
