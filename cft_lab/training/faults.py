"""What goes wrong in a training, said so that the reader knows what to change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import OptimizationConfig
from cft_lab.json_files import write_json
from cft_lab.training.encode import Encoded
from cft_lab.training.ranks import conflict_in_ranks

if TYPE_CHECKING:
    from cft_lab.training.batches import Packed


class TrainingError(RuntimeError):
    """Training cannot go on: unusable sequences, losses or gradients that are no numbers, or too little memory."""


def refuse_unusable(sequences: Sequence[Encoded], config: OptimizationConfig) -> None:
    """Raises TrainingError if there is nothing to train on, or a sequence that no encoding should have let through."""
    if not sequences:
        raise TrainingError("there are no training sequences: every example was dropped (see the counts of the examples stage)")
    for index, sequence in enumerate(sequences):
        name = f"training sequence {index}" + (f" (example {sequence.example_id})" if sequence.example_id else "")
        if len(sequence.ids) > config.max_length:
            raise TrainingError(
                f"{name} has {len(sequence.ids)} tokens, more than max_length={config.max_length}: drop it or raise max_length"
            )
        if sequence.num_targets < 1:
            raise TrainingError(f"{name} has no target tokens, so there is nothing to learn from it: drop it")


def write_nonfinite(
    folder: Path, step: int, loss: float, norm: float, indices: Sequence[int], batch: Sequence[Encoded], allowed: int
) -> None:
    """Saves which sequences made up a skipped step; raises TrainingError when there are `allowed` such steps up to this one."""
    path = folder / f"nonfinite-step-{step:06d}.json"
    rows = [{"sequence": i, "example": row.example_id, "tokens": len(row.ids)} for i, row in zip(indices, batch, strict=True)]
    write_json(path, {"step": step, "loss": str(loss), "grad_norm": str(norm), "sequences": rows})
    skipped = [file for file in folder.glob("nonfinite-step-*.json") if json.loads(file.read_text())["step"] <= step]
    if len(skipped) >= allowed:
        raise TrainingError(
            f"optimizer step {step}: loss {loss}, gradient norm {norm}; {len(skipped)} such steps were met and "
            f"max_nonfinite_steps={allowed}. The sequences of its batch are in {path}: look at them, or lower the learning rate "
            "(train.lr) or train.grad_clip"
        )


def causes_of(error: BaseException) -> list[BaseException]:
    """An error and, of torch's report about a checkpoint and several processes, what each of them met."""
    return [error, *(failure for failure, _ in getattr(error, "failures", {}).values())]


def out_of_memory(error: BaseException) -> BaseException | None:
    """The cause of an error that says that a GPU's or the machine's memory ran out, None if there is none."""
    import torch

    for cause in causes_of(error):
        on_cpu = isinstance(cause, RuntimeError) and "DefaultCPUAllocator" in str(cause)
        if on_cpu or isinstance(cause, (torch.OutOfMemoryError, MemoryError)):
            return cause
    return None


@contextlib.contextmanager
def memory_explained(explain: Callable[[str], str]) -> Iterator[None]:
    """Turns memory that ran out into a TrainingError with what `explain` makes of what was said."""
    try:
        yield
    except TrainingError:
        raise
    except BaseException as error:  # torch's report about a checkpoint is no Exception
        cause = out_of_memory(error)
        if cause is None:
            raise
        raise TrainingError(explain(str(cause))) from error


def explain_no_room(config: OptimizationConfig, ranks: int, doing: str, said: str) -> str:
    """What was done when memory ran out outside of a step, and what can still be changed."""
    levers = "; ".join(_levers_of_weights(config, ranks))
    first = said.splitlines()[0] if said else ""
    return f"out of memory while {doing}\nwhat can still be changed: {levers}\n{first}".rstrip()


def _levers_of_weights(config: OptimizationConfig, ranks: int) -> list[str]:
    """Settings that shrink weights, gradients and moments."""
    levers = []
    if config.optimizer == "adamw":
        low_bit = "adamw-8bit, with 6" if ranks == 1 else "adamw-bf16, with 8"
        levers.append(f"weights=bf16 precision=bf16 optimizer={low_bit} instead of 16 bytes per parameter")
    several = " (with optimizer=adamw-bf16)" if ranks == 1 and conflict_in_ranks(config, 2) else ""
    return [*levers, f"more GPUs{several}, which share weights, gradients and moments"]


def explain_out_of_memory(
    config: OptimizationConfig, micro_batches: Sequence[Packed], said: str, estimate: str = "", ranks: int = 1
) -> str:
    """What was computed when memory ran out, `estimate` of what it should have taken, and what can still be changed."""
    largest = max(micro_batches, key=lambda packed: len(packed.input_ids))
    levers = []
    if config.micro_batch_tokens > max(largest.lengths):
        levers.append(f"micro_batch_tokens={max(largest.lengths, default=1)} or more (now {config.micro_batch_tokens})")
    if config.loss_chunk_tokens > 512:
        levers.append(f"loss_chunk_tokens=512 (now {config.loss_chunk_tokens})")
    if config.activation_checkpointing == "none":
        levers.append("activation_checkpointing=selective, which keeps about half, or full, which keeps a block's input alone")
    if config.activation_checkpointing == "selective":
        levers.append("activation_checkpointing=full")
    levers += _levers_of_weights(config, ranks)
    return "\n".join(
        [
            f"out of memory in an optimizer step whose largest micro-batch has {len(largest.input_ids):,} tokens in "
            f"{len(largest.lengths)} sequences (the longest {max(largest.lengths):,}), {len(largest.targets):,} of them supervised",
            *([estimate] if estimate else []),
            "what can still be changed: " + "; ".join(levers),
            said.splitlines()[0] if said else "",
        ]
    ).rstrip()
