"""Run by torchrun: loads the resume state in one folder into a model spread over the processes and saves it to another, twice."""

import sys
from pathlib import Path

import torch
from tiny import tiny_model
from tiny_training import CONFIG

from cft_lab.training.loss import SummedLoss
from cft_lab.training.ranks import leave, open_ranks, shard
from cft_lab.training.resume import load_resume, save_resume

source, target = Path(sys.argv[1]), Path(sys.argv[2])
with open_ranks() as ranks:
    model = tiny_model()
    shard(SummedLoss(model, 64), model, ranks, CONFIG, "fp32")
    optimizer = torch.optim.AdamW(model.parameters())
    said: list[str] = []
    step = load_resume(source, model, optimizer, ranks, 7, said.append)
    assert step == 3
    assert len(said) == (1 if ranks.first else 0)
    torch.manual_seed(100 + ranks.rank)
    save_resume(target, model, optimizer, ranks, step + 1)
    drawn = float(torch.randn(1))
    said.clear()
    assert load_resume(target, model, optimizer, ranks, 7, said.append) == step + 1
    assert not said
    assert float(torch.randn(1)) == drawn, "each process gets its own random numbers back"
leave(0)
