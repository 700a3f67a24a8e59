"""The plain training loop that training_levers.py measures against: padded micro-batches, as this project had before.

With `padded`, rows are sorted by length, cut into micro-batches of a fixed number of rows and padded on the right; without, they
lie end to end as in the project's loop. With `all_logits`, every position goes through the output projection at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from cft_lab.config import OptimizationConfig
from cft_lab.training.attention import hidden_states, padding_free
from cft_lab.training.batches import batch_at, pack, split_step
from cft_lab.training.encode import Encoded

IGNORED = -100  # the label that carries no loss
PADDED_ROWS = 32  # rows of a padded micro-batch: what 4,096 tokens came to


@dataclass(frozen=True)
class Reference:
    """Which of the loop's habits are left out."""

    padded: bool = True
    all_logits: bool = False
    fused: bool = True


def reference_train(
    model: Any, rows: Sequence[Encoded], config: OptimizationConfig, kind: Reference, report: Callable[[Any], None]
) -> None:
    """Trains in float32 on the CPU or GPU that is here, at a constant learning rate."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(config.cpu_threads)
    model.to(device).train()
    choice = {"fused": True} if kind.fused else {"foreach": False}
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=0.0, **choice)
    with contextlib.nullcontext() if kind.padded else padding_free(model):
        for step in range(len(rows) // config.global_batch_size):
            batch = [rows[i] for i in batch_at(step, len(rows), config, seed=0)]
            targets = sum(row.num_targets for row in batch)
            loss = 0.0
            for micro_loss in _losses(model, batch, config, kind, device):
                (micro_loss / targets).backward()
                loss += float(micro_loss.detach()) / targets
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            report(SimpleNamespace(loss=loss, grad_norm=norm, tokens=sum(len(row.ids) for row in batch)))


def _losses(model: Any, batch: Sequence[Encoded], config: OptimizationConfig, kind: Reference, device: torch.device) -> Any:
    """The summed loss of each micro-batch."""
    if kind.padded:
        ordered = sorted(batch, key=lambda row: len(row.ids))
        for start in range(0, len(ordered), PADDED_ROWS):
            input_ids, labels = (tensor.to(device) for tensor in _collate(ordered[start : start + PADDED_ROWS]))
            hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]
            yield _cross_entropy(model, hidden, labels[:, 1:], kind.all_logits)
        return
    (micro_batches,) = split_step([len(row.ids) for row in batch], 1, config.micro_batch_tokens)
    for places in micro_batches:
        packed = pack([batch[i] for i in places]).to(device)
        labels = torch.full_like(packed.input_ids, IGNORED)
        labels[packed.predicting] = packed.targets
        yield _cross_entropy(model, hidden_states(model, packed), labels, kind.all_logits)


def _cross_entropy(model: Any, hidden: torch.Tensor, labels: torch.Tensor, all_logits: bool) -> torch.Tensor:
    """Summed over targets; hidden is [..., D] and labels [...], the token that each position predicts."""
    supervised = labels != IGNORED
    if not all_logits:
        hidden, labels = hidden[supervised], labels[supervised]
    logits = model.get_output_embeddings()(hidden).float().flatten(0, -2)
    return torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum", ignore_index=IGNORED)


def _collate(rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids [B, T] padded on the right (causal attention never looks there), and labels [B, T]."""
    width = max(len(row.ids) for row in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for place, row in enumerate(rows):
        ids = torch.tensor(row.ids, dtype=torch.long)
        input_ids[place, : len(ids)] = ids
        first = max(row.start, 1)
        labels[place, first : len(ids)] = ids[first:]
    return input_ids, labels
