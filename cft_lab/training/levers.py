"""What trades memory for time or the other way round, set on a model before it is trained (and before it is sharded)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from cft_lab.config import OptimizationConfig

if TYPE_CHECKING:
    from torch.utils.checkpoint import CheckpointPolicy
    from transformers import PreTrainedModel


def apply_levers(model: PreTrainedModel, config: OptimizationConfig) -> None:
    """Sets the weights' type, activation checkpointing and compilation."""
    keep_weights_in(model, config.weights)
    set_checkpointing(model, config.activation_checkpointing)
    if config.compile:
        compile_blocks(model)


def keep_weights_in(model: PreTrainedModel, weights: str) -> None:
    """Casts the parameters to fp32 or bf16. Buffers stay as they are: rotary frequencies must not lose digits."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[weights]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def set_checkpointing(model: PreTrainedModel, kind: str) -> None:
    """Chooses what a block keeps for the backward pass: everything (none), its input alone (full), or products (selective).

    `selective` keeps the results of matrix products and of attention and computes the rest (norms, rotary embedding,
    activation) again, which is a few per cent of the arithmetic and about half of the memory.
    """
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in a block draws random numbers
    if kind == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks_of(model):  # transformers' blocks checkpoint themselves, inside the hooks of whoever shards them
        block.gradient_checkpointing = kind != "none"
        block._gradient_checkpointing_func = functools.partial(checkpoint, **options)


def _policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    from torch.utils.checkpoint import CheckpointPolicy

    name = str(operation.name() if hasattr(operation, "name") else operation)
    kept = name in _PRODUCTS or "attention" in name or "attn" in name
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear")


def compile_blocks(model: PreTrainedModel) -> None:
    """torch.compile of every transformer block: one program for all, and for micro-batches of any number of tokens."""
    for block in blocks_of(model):
        block.compile(dynamic=True)


def blocks_of(model: PreTrainedModel) -> list[Any]:
    """The transformer blocks of a causal model, from the first to the last."""
    return list(cast("Any", model.base_model).layers)
