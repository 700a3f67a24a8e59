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
from typing import TYPE_CHECKING

import torch

from cft_lab.config import OptimizationConfig
from cft_lab.runtime import autocast, make_accelerator, resolve_precision, set_threads
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import Packed, batch_at, pack, split_step, without_targets
from cft_lab.training.encode import Encoded
from cft_lab.training.faults import TrainingError, explain_out_of_memory, refuse_unusable, write_nonfinite
from cft_lab.training.levers import apply_levers
from cft_lab.training.loss import SummedLoss
from cft_lab.training.meters import Bar, Meter, StepMetrics, flops_of_model, peak_flops
from cft_lab.training.optimizers import make_optimizer, update

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RESUME_FILE = "resume.safetensors"


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
    device: torch.device
    precision: str  # of the products: fp32 or bf16
    meter: Meter

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
    progress: bool = True,
    pad_id: int | None = None,
) -> int:
    """Trains `model` in place and returns the number of optimizer steps.

    `save(step)` is called after every `save_every_steps` steps and after the last, `report` after each step. The resume
    state lives in `folder` and is picked up from there; the caller discards it once it has saved what it wants
    (`discard_resume`). Nothing is padded, so `pad_id` is not read. Raises TrainingError if the sequences cannot be trained on, if
    losses or gradients are no numbers (`max_nonfinite_steps`), or if memory runs out.
    """
    refuse_unusable(sequences, config)
    run = _start(model, sequences, config, seed, folder)
    done = _load_resume(model, run.optimizer, folder / RESUME_FILE)
    with padding_free(model), Bar(run.steps, done, progress) as bar:
        for step in range(done, run.steps):
            metrics = _optimizer_step(run, step)
            report(metrics)
            bar.show(metrics)
            _save_what_is_due(run, step + 1, save)
    model.eval()
    return run.steps


def _start(model: PreTrainedModel, sequences: Sequence[Encoded], config: OptimizationConfig, seed: int, folder: Path) -> Training:
    """Puts the model on its device with its levers set, and makes what trains it."""
    set_threads(config.cpu_threads)
    device = make_accelerator().device
    precision = resolve_precision(config.precision, device.type)
    apply_levers(model, config)
    model.to(device).train()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    steps = total_steps(len(sequences), config)
    return Training(
        model=model,
        summed_loss=SummedLoss(model, config.loss_chunk_tokens),
        optimizer=make_optimizer(model.parameters(), config),
        sequences=sequences,
        config=config,
        seed=seed,
        folder=folder,
        device=device,
        precision=precision,
        meter=Meter(flops_of_model(model), peak_flops(config, precision, name), 1, steps, device),
    )


def _optimizer_step(run: Training, step: int) -> StepMetrics:
    """One step from its batch to its metrics; a step whose loss or gradient is no number leaves the weights as they are."""
    started = time.perf_counter()
    indices = batch_at(step, len(run.sequences), run.config, run.seed)
    batch = [run.sequences[index] for index in indices]
    targets = sum(sequence.num_targets for sequence in batch)
    micro_batches = _micro_batches(run, batch)
    lr = learning_rate(step, run.steps, run.config)
    try:
        loss = _accumulate_gradient(run, micro_batches, targets)
        norm = _clip_gradient(run)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            update(run.optimizer, lr)
    except torch.OutOfMemoryError as error:
        raise TrainingError(explain_out_of_memory(run.config, micro_batches, str(error))) from error
    run.optimizer.zero_grad(set_to_none=True)
    if not finite:
        write_nonfinite(run.folder, step + 1, loss, norm, indices, batch, run.config.max_nonfinite_steps)
    lengths = [len(sequence.ids) for sequence in batch]
    return run.meter.measure(step + 1, loss, lr, norm, lengths, targets, time.perf_counter() - started)


def _micro_batches(run: Training, batch: Sequence[Encoded]) -> list[Packed]:
    """This process's share of an optimizer step; a share without sequences computes one without loss."""
    (mine,) = split_step([len(sequence.ids) for sequence in batch], 1, run.config.micro_batch_tokens)
    return [pack([batch[place] for place in places] or [without_targets(batch[0])]) for places in mine]


def _accumulate_gradient(run: Training, micro_batches: Sequence[Packed], targets: int) -> float:
    """Adds the gradient of the loss over all `targets` of the step, and returns that loss."""
    loss = torch.zeros((), device=run.device)
    products = run.precision if run.config.weights == "fp32" else "fp32"  # bf16 weights make bf16 products by themselves
    for packed in micro_batches:
        with autocast(products, run.device.type):
            micro_loss = run.summed_loss(packed.to(run.device)) / targets
        micro_loss.backward()
        loss += micro_loss.detach()
    return float(loss)


def _clip_gradient(run: Training) -> float:
    """Clips the gradient and returns the norm that it had before."""
    return float(torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.grad_clip))


def _save_what_is_due(run: Training, done: int, save: Callable[[int], None]) -> None:
    """A candidate and a resume state, each at its own pace and after the last step."""
    if done % run.config.save_every_steps == 0 or done == run.steps:
        save(done)
    if done % run.config.resume_every_steps == 0 or done == run.steps:
        _save_resume(run.model, run.optimizer, done, run.folder / RESUME_FILE)


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
        metadata={"state": json.dumps({"step": step, "updates": _updates(optimizer)})},
    )
    os.replace(temporary, path)


def _updates(optimizer: torch.optim.Optimizer) -> int:
    """Steps that changed the weights: fewer than steps where some were skipped."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


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
    from safetensors import safe_open

    step = resume_step(path.parent)
    if step == 0:
        return 0
    state = optimizer.state_dict()
    with safe_open(path, framework="pt") as file, torch.no_grad():
        updates = json.loads(file.metadata()["state"])["updates"]
        for index, (name, parameter) in enumerate(model.named_parameters()):
            parameter.copy_(file.get_tensor(f"weight.{name}"))
            if updates:
                state["state"][index] = {
                    "step": torch.tensor(float(updates)),
                    "exp_avg": file.get_tensor(f"exp_avg.{name}"),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}"),
                }
    optimizer.load_state_dict(state)
    return step
