"""The training loop: one for pretraining and fine-tuning, readable from top to bottom.

Order of an optimizer step: draw the global batch by the seed, cut it into micro-batches, sum the loss of their target
tokens divided by the target tokens of the WHOLE step (so 8x1 equals 2x4), clip, step. The learning rate and the order of
the data are functions of the step, so a resume state (resume.py) is the weights, AdamW's moments and the step. Killed at any
moment and started again, a run on CPU with the same threads ends with the same bits. Several processes (ranks.py) share the
micro-batches of a step, and each computes the same number of them.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cft_lab.config import OptimizationConfig
from cft_lab.runtime import autocast, resolve_precision, set_threads
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import Packed, batch_at, pack, split_step, without_targets
from cft_lab.training.encode import Encoded
from cft_lab.training.faults import explain_no_room, explain_out_of_memory, memory_explained, refuse_unusable, write_nonfinite
from cft_lab.training.fitting import estimate_in_words
from cft_lab.training.levers import apply_levers
from cft_lab.training.loss import SummedLoss
from cft_lab.training.meters import Bar, Meter, StepMetrics, flops_of_model, peak_flops
from cft_lab.training.optimizers import make_optimizer, update
from cft_lab.training.ranks import Ranks, fill, one_rank, shard, whole
from cft_lab.training.resume import load_resume, save_resume
from cft_lab.training.shapes import shape_from
from cft_lab.training.signals import Requeue, StopRequest

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
    precision: str  # of the products: fp32 or bf16
    meter: Meter
    stop: StopRequest

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
) -> int:
    """Trains `model` in place up to its last step, or to `until_step`, and returns the number of optimizer steps done.

    `save(step)` is called after every `save_every_steps` steps and after the last, `report` after each step. The resume
    state lives in `folder` and is picked up from there; the caller discards it once it has saved what it wants
    (`discard_resume`). Each of several `ranks` calls this with the same arguments; a model without memory for its weights is filled
    from the folder `weights`. Raises TrainingError if the sequences cannot be trained
    on, if losses or gradients are no numbers (`max_nonfinite_steps`), or if memory runs out; Requeue, with everything saved, if
    `stop` asks for it: it is looked at between micro-batches, and the step that was begun is dropped.
    """
    refuse_unusable(sequences, config)
    ranks, stop = ranks or one_rank(), stop or StopRequest()

    def room_for(doing: str) -> AbstractContextManager[None]:
        return memory_explained(functools.partial(explain_no_room, config, ranks.world, doing))

    with room_for("the model was put on its device"):
        run = _start(model, sequences, config, seed, folder, ranks, weights, stop)
    with room_for("the resume state was loaded"):
        done = saved = load_resume(folder, model, run.optimizer, ranks, seed, say)
    last = min(run.steps, until_step or run.steps)
    with padding_free(model), Bar(run.steps, done, progress) as bar:
        while not (asked := ranks.any(stop.asked)) and done < last:
            metrics = _optimizer_step(run, done)
            if metrics is None:
                asked = True
                break
            done += 1
            report(metrics)
            bar.show(metrics)
            if done % config.save_every_steps == 0 or done == run.steps:
                with room_for(f"the candidate of step {done} was saved"):
                    save(done)
            if done % config.resume_every_steps == 0 or done == last:
                with room_for(f"the resume state of step {done} was saved"):
                    save_resume(folder, model, run.optimizer, ranks, done)
                saved = done
    if asked:
        if done > saved:
            with room_for(f"the resume state of step {done} was saved"):
                save_resume(folder, model, run.optimizer, ranks, done)
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
    stop: StopRequest,
) -> Training:
    """Puts the model on its devices with its levers set, and makes what trains it."""
    set_threads(config.cpu_threads)
    device = ranks.device
    precision = resolve_precision(config.precision, device.type)
    apply_levers(model, config)
    summed_loss = SummedLoss(model, config.loss_chunk_tokens)
    shard(summed_loss, model, ranks, config, precision)
    if weights is not None:
        fill(model, weights, ranks)
    summed_loss.to(device).train()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    steps = total_steps(len(sequences), config)
    return Training(
        model=model,
        summed_loss=summed_loss,
        optimizer=make_optimizer(model.parameters(), config),
        sequences=sequences,
        config=config,
        seed=seed,
        folder=folder,
        ranks=ranks,
        precision=precision,
        meter=Meter(flops_of_model(model), peak_flops(config, precision, name), ranks.world, steps, device),
        stop=stop,
    )


def _optimizer_step(run: Training, step: int) -> StepMetrics | None:
    """One step from its batch to its metrics; a step whose loss or gradient is no number leaves the weights as they are.

    None, and everything as before it, if the processes were asked to end in its middle.
    """
    started = time.perf_counter()
    indices = batch_at(step, len(run.sequences), run.config, run.seed)
    batch = [run.sequences[index] for index in indices]
    targets = sum(sequence.num_targets for sequence in batch)
    micro_batches = _micro_batches(run, batch)
    lr = learning_rate(step, run.steps, run.config)

    def explain(said: str) -> str:
        return explain_out_of_memory(run.config, micro_batches, said, _estimated(run, micro_batches), run.ranks.world)

    with memory_explained(explain):
        loss = _accumulate_gradient(run, micro_batches, targets)
        if loss is None:
            run.optimizer.zero_grad(set_to_none=True)
            return None
        norm = _clip_gradient(run)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            update(run.optimizer, lr)
    run.optimizer.zero_grad(set_to_none=True)
    if not finite and run.ranks.first:
        write_nonfinite(run.folder, step + 1, loss, norm, indices, batch, run.config.max_nonfinite_steps)
    lengths = [len(sequence.ids) for sequence in batch]
    return run.meter.measure(step + 1, loss, lr, norm, lengths, targets, time.perf_counter() - started)


def _estimated(run: Training, micro_batches: Sequence[Packed]) -> str:
    """What the largest of some micro-batches should have taken on this GPU; nothing for an architecture that is not estimated."""
    shape = shape_from(run.model.config.to_dict())
    if shape is None or run.ranks.device.type != "cuda":
        return ""
    largest = max(micro_batches, key=lambda packed: len(packed.input_ids))
    return estimate_in_words(
        shape,
        run.config,
        device="cuda",
        precision=run.precision,
        ranks=run.ranks.world,
        limit=float(torch.cuda.get_device_properties(run.ranks.device).total_memory),
        lengths=largest.lengths,
        targets=len(largest.targets),
    )


def _micro_batches(run: Training, batch: Sequence[Encoded]) -> list[Packed]:
    """This process's share of an optimizer step; a share without sequences computes one without loss."""
    shares = split_step([len(sequence.ids) for sequence in batch], run.ranks.world, run.config.micro_batch_tokens)
    return [pack([batch[place] for place in places] or [without_targets(batch[0])]) for places in shares[run.ranks.rank]]


def _accumulate_gradient(run: Training, micro_batches: Sequence[Packed], targets: int) -> float | None:
    """Adds the gradient of the loss over all `targets` of the step, and returns that loss; both are of all processes.

    A step may take longer than a scheduler waits after its warning: between micro-batches, of which every process has as many, the
    processes agree whether to end, and give up the step then: None.
    """
    device = run.ranks.device
    loss = torch.zeros((), device=device)
    casts_by_itself = run.ranks.world > 1 or run.config.weights == "bf16"  # FSDP does; bf16 weights make bf16 products
    for place, packed in enumerate(micro_batches):
        if place and run.ranks.any(run.stop.asked):
            return None
        with nullcontext() if casts_by_itself else autocast(run.precision, device.type):
            micro_loss = run.summed_loss(packed.to(device)) / targets
        micro_loss.backward()
        loss += micro_loss.detach()
    return run.ranks.sum([float(loss)])[0]


def _clip_gradient(run: Training) -> float:
    """Clips the gradient and returns the norm that it had before."""
    return float(whole(torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.grad_clip)))
