"""The training loop: one for pretraining and fine-tuning, readable from top to bottom.

Order of an optimizer step: draw the global batch by the seed, cut it into micro-batches, sum the loss of their target
tokens divided by the target tokens of the WHOLE step (so 8x1 equals 2x4), clip, step. The learning rate and the order of
the data are functions of the step, so a resume state is the weights, AdamW's moments and the step. Killed at any moment and
started again, a run on CPU with the same threads ends with the same bits.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.config import OptimizationConfig
from cft_lab.runtime import autocast, make_accelerator, resolve_precision, set_threads
from cft_lab.training.encode import IGNORED, Encoded, collate, micro_batches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RESUME_FILE = "resume.safetensors"


class TrainingError(RuntimeError):
    """Training cannot go on: the loss or the gradient is not a number, or there is nothing to train on."""


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step reports: loss in nats per target token, gradient norm before clipping, speed."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    target_tokens: int
    tokens: int
    tokens_per_s: float


def total_steps(num_sequences: int, config: OptimizationConfig) -> int:
    """Optimizer steps of a run; the last, smaller batch of each epoch counts as a step."""
    return config.epochs * math.ceil(num_sequences / config.global_batch_size)


def learning_rate(step: int, steps: int, config: OptimizationConfig) -> float:
    """Linear warm-up, then a cosine from lr to lr * final_lr_ratio; `step` counts from 0."""
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    floor = config.final_lr_ratio
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def batch_at(step: int, num_sequences: int, config: OptimizationConfig, seed: int) -> list[int]:
    """Indices of the sequences of optimizer step `step`: a permutation per epoch, drawn from (seed, epoch)."""
    import numpy as np

    epoch, place = divmod(step, math.ceil(num_sequences / config.global_batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(num_sequences)
    start = place * config.global_batch_size
    return [int(i) for i in order[start : start + config.global_batch_size]]


def train(
    model: PreTrainedModel,
    sequences: Sequence[Encoded],
    config: OptimizationConfig,
    *,
    seed: int,
    folder: Path,
    pad_id: int,
    save: Callable[[int], None],
    report: Callable[[StepMetrics], None],
    progress: bool = True,
) -> int:
    """Trains `model` in place and returns the number of optimizer steps.

    `save(step)` is called after every `save_every_steps` steps and after the last, `report` after each step. The resume
    state lives in `folder` and is picked up from there; the caller discards it once it has saved what it wants
    (`discard_resume`). Raises TrainingError if a loss or gradient is not finite.
    """
    import torch

    if not sequences:
        raise TrainingError("there are no training sequences: every example was dropped (see the counts of the examples stage)")
    set_threads(config.cpu_threads)
    accelerator = make_accelerator()
    precision = resolve_precision(config.precision, accelerator.device.type)
    model.to(accelerator.device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    steps = total_steps(len(sequences), config)
    done = _load_resume(model, optimizer, folder / RESUME_FILE)
    with _bar(steps, done, progress) as bar:
        for step in range(done, steps):
            started = time.perf_counter()
            batch = [sequences[i] for i in batch_at(step, len(sequences), config, seed)]
            targets = sum(sequence.num_targets for sequence in batch)
            loss = 0.0
            for rows in micro_batches(batch, max(1, config.micro_batch_tokens // 128)):
                input_ids, labels = (t.to(accelerator.device) for t in collate(rows, pad_id))
                with autocast(precision, accelerator.device.type):
                    micro_loss = summed_loss(model, input_ids, labels) / targets
                accelerator.backward(micro_loss)
                loss += float(micro_loss.detach())
            norm = float(accelerator.clip_grad_norm_(model.parameters(), config.grad_clip))
            _require_finite(step, loss, norm)
            lr = learning_rate(step, steps, config)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens = sum(len(sequence.ids) for sequence in batch)
            metrics = StepMetrics(step + 1, loss, lr, norm, targets, tokens, tokens / (time.perf_counter() - started))
            report(metrics)
            bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.1e}", tok_s=f"{metrics.tokens_per_s:,.0f}", refresh=False)
            bar.update()
            if (step + 1) % config.save_every_steps == 0 or step + 1 == steps:
                save(step + 1)
            if (step + 1) % config.resume_every_steps == 0 or step + 1 == steps:
                _save_resume(model, optimizer, step + 1, folder / RESUME_FILE)
    model.eval()
    return steps


def summed_loss(model: PreTrainedModel, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats summed over target tokens; input_ids and labels are [B, T].

    Only positions that predict a target reach the output projection: question and solution are most of a CFT row.
    """
    import torch

    hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]  # [B, T-1, D]
    shifted = labels[:, 1:]
    supervised = shifted != IGNORED
    logits = model.get_output_embeddings()(hidden[supervised])  # [targets, V]
    return torch.nn.functional.cross_entropy(logits.float(), shifted[supervised], reduction="sum")


def _require_finite(step: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(f"optimizer step {step + 1}: loss {loss}, gradient norm {norm}; lower train.lr or train.grad_clip")


def _bar(steps: int, done: int, progress: bool) -> Any:
    import sys

    from tqdm import tqdm

    slow = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm(total=steps, initial=done, desc="train", unit="step", disable=not progress, mininterval=slow, leave=False)


def _save_resume(model: PreTrainedModel, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    """Weights and both moments as one safetensors file, replaced in one move."""
    from safetensors.torch import save_file

    names = [name for name, _ in model.named_parameters()]
    tensors = {f"weight.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{names[index]}"] = state[moment]
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"state": json.dumps({"step": step})},
    )
    os.replace(temporary, path)


def resume_step(folder: Path) -> int:
    """The optimizer step that a run in `folder` would resume after; 0 if it would start from the beginning."""
    from safetensors import safe_open

    if not (folder / RESUME_FILE).exists():
        return 0
    with safe_open(folder / RESUME_FILE, framework="pt") as file:
        return int(json.loads(file.metadata()["state"])["step"])


def discard_resume(folder: Path) -> None:
    """Removes the resume state of a finished training."""
    (folder / RESUME_FILE).unlink(missing_ok=True)


def _load_resume(model: PreTrainedModel, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """Restores what `_save_resume` wrote and returns its step; 0 if there is none."""
    import torch
    from safetensors import safe_open

    step = resume_step(path.parent)
    if step == 0:
        return 0
    state = optimizer.state_dict()
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            parameter.copy_(file.get_tensor(f"weight.{name}"))
            state["state"][index] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"exp_avg.{name}"),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}"),
            }
    optimizer.load_state_dict(state)
    return step
