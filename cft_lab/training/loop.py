"""The training loop: one for pretraining and fine-tuning, readable from top to bottom.

Order of an optimizer step: draw the global batch by the seed, cut it into micro-batches, sum the loss of their target
tokens divided by the target tokens of the WHOLE step (so 8x1 equals 2x4), clip, step. The learning rate and the order of
the data are functions of the step, so a resume state (resume.py) is the weights, AdamW's moments and the step. Killed at any
moment and started again, a run on CPU with the same threads ends with the same bits. Several processes (ranks.py) share the
micro-batches of a step, and each computes the same number of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cft_lab.config import OptimizationConfig
from cft_lab.runtime import autocast, resolve_precision, set_threads
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import Packed, batch_at, pack, split_step, without_targets
from cft_lab.training.encode import Encoded
from cft_lab.training.errors import Requeue, TrainingError
from cft_lab.training.loss import SummedLoss
from cft_lab.training.meters import StepMetrics
from cft_lab.training.ranks import Ranks, fill, one_rank, shard, whole
from cft_lab.training.resume import load_resume, save_resume
from cft_lab.training.signals import StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Training:
    """What stays the same through all steps of a training."""

    model: PreTrainedModel
    summed_loss: SummedLoss
    optimizer: torch.optim.Optimizer
    sequences: Sequence[Encoded]
    config: OptimizationConfig
    seed: int
    folder: Path
    ranks: Ranks
    precision: str

    @property
    def steps(self) -> int:
        """Optimizer steps from the first to the last."""
        return total_steps(len(self.sequences), self.config)


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


def train(
    model: PreTrainedModel,
    sequences: Sequence[Encoded],
    config: OptimizationConfig,
    *,
    seed: int,
    folder: Path,
    save: Callable[[int], None],
    report: Callable[[StepMetrics], None],
    ranks: Ranks | None = None,
    weights: Path | None = None,
    stop: StopRequest | None = None,
    until_step: int | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
    pad_id: int | None = None,
) -> int:
    """Trains `model` in place up to its last step, or to `until_step`, and returns the number of optimizer steps done.

    `save(step)` is called after every `save_every_steps` steps and after the last, `report` after each step. The resume
    state lives in `folder` and is picked up from there; the caller discards it once it has saved what it wants
    (`discard_resume`). Each of several `ranks` calls this with the same arguments; a model without memory for its weights is filled
    from the folder `weights`. Raises TrainingError if a loss or gradient is not finite, and Requeue, with everything saved, as soon
    as `stop` asks for it. Nothing is padded, so `pad_id` is not read.
    """
    run = _start(model, sequences, config, seed, folder, ranks or one_rank(), weights)
    done, _ = load_resume(folder, model, run.optimizer, run.ranks, seed, say)
    saved, last = done, min(run.steps, until_step or run.steps)
    with padding_free(model), _bar(run.steps, done, progress) as bar:
        while not (asked := _is_asked_to_end(run, stop)) and done < last:
            metrics = _optimizer_step(run, done)
            done += 1
            report(metrics)
            bar.set_postfix(loss=f"{metrics.loss:.3f}", lr=f"{metrics.lr:.1e}", tok_s=f"{metrics.tokens_per_s:,.0f}", refresh=False)
            bar.update()
            if done % config.save_every_steps == 0 or done == run.steps:
                save(done)
            if done % config.resume_every_steps == 0 or done == last:
                save_resume(folder, model, run.optimizer, run.ranks, done)
                saved = done
    if asked:
        if done > saved:
            save_resume(folder, model, run.optimizer, run.ranks, done)
        raise Requeue(f"Stopped as asked: the training is saved at step {done} of {run.steps}.")
    model.eval()
    return done


def _start(
    model: PreTrainedModel,
    sequences: Sequence[Encoded],
    config: OptimizationConfig,
    seed: int,
    folder: Path,
    ranks: Ranks,
    weights: Path | None,
) -> Training:
    if not sequences:
        raise TrainingError("there are no training sequences: every example was dropped (see the counts of the examples stage)")
    set_threads(config.cpu_threads)
    precision = resolve_precision(config.precision, ranks.device.type)
    summed_loss = SummedLoss(model, config.loss_chunk_tokens)
    shard(summed_loss, model, ranks, config, precision)
    if weights is not None:
        fill(model, weights, ranks)
    summed_loss.to(ranks.device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    return Training(model, summed_loss, optimizer, sequences, config, seed, folder, ranks, precision)


def _is_asked_to_end(run: Training, stop: StopRequest | None) -> bool:
    return run.ranks.any(stop is not None and stop.asked)


def _optimizer_step(run: Training, step: int) -> StepMetrics:
    started = time.perf_counter()
    batch = [run.sequences[i] for i in batch_at(step, len(run.sequences), run.config, run.seed)]
    targets = sum(sequence.num_targets for sequence in batch)
    loss = _accumulate_gradient(run, _micro_batches(run, batch), targets)
    norm = _clip_gradient(run)
    _require_finite(step, loss, norm)
    lr = _update_weights(run, step)
    tokens = sum(len(sequence.ids) for sequence in batch)
    return StepMetrics(step + 1, loss, lr, norm, targets, tokens, tokens / (time.perf_counter() - started))


def _micro_batches(run: Training, batch: Sequence[Encoded]) -> list[Packed]:
    """This process's share of an optimizer step; a share without sequences computes one without loss."""
    shares = split_step([len(sequence.ids) for sequence in batch], run.ranks.world, run.config.micro_batch_tokens)
    return [pack([batch[i] for i in places] or [without_targets(batch[0])]) for places in shares[run.ranks.rank]]


def _accumulate_gradient(run: Training, micro_batches: Sequence[Packed], targets: int) -> float:
    """Adds the gradient of the loss over all `targets` of the step, and returns that loss; both are of all processes."""
    device = run.ranks.device
    loss = torch.zeros((), device=device)
    for packed in micro_batches:
        with autocast(run.precision, device.type) if run.ranks.world == 1 else nullcontext():  # a sharded model casts by itself
            micro_loss = run.summed_loss(packed.to(device)) / targets
        micro_loss.backward()
        loss += micro_loss.detach()
    return run.ranks.sum([float(loss)])[0]


def _clip_gradient(run: Training) -> float:
    """The norm of the whole gradient before it is clipped."""
    return float(whole(torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.grad_clip)))


def _update_weights(run: Training, step: int) -> float:
    """The optimizer's step at this step's learning rate, which is returned."""
    lr = learning_rate(step, run.steps, run.config)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return lr


def _require_finite(step: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(f"optimizer step {step + 1}: loss {loss}, gradient norm {norm}; lower train.lr or train.grad_clip")


def _bar(steps: int, done: int, progress: bool) -> Any:
    import sys

    from tqdm import tqdm

    slow = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm(total=steps, initial=done, desc="train", unit="step", disable=not progress, mininterval=slow, leave=False)
