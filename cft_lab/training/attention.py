"""Attention over sequences that lie end to end: no mask, no padding, and no token sees another sequence.

transformers hands the lengths through to the attention function registered here as keywords of the model's forward. Without
them the function refuses to run: sequences that see each other change the loss a little and no shape, so nobody would notice.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cft_lab.training.batches import Packed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAME = "padding_free"  # what transformers knows it by


@contextlib.contextmanager
def padding_free(model: PreTrainedModel) -> Iterator[None]:
    """While it is open, `model` takes packed sequences only; afterwards it has its former attention back.

    Raises ValueError for a model whose attention is more than causal attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    config = model.config
    window = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if window or config.attention_dropout > 0:
        raise ValueError(
            f"{type(model).__name__} has {'sliding-window attention' if window else 'attention dropout'}, which training without "
            "padding does not do: choose a model with plain causal attention (Qwen2, Llama)"
        )
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    former = config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(former)


def hidden_states(model: PreTrainedModel, packed: Packed) -> torch.Tensor:
    """The last hidden states [T, D] of a packed micro-batch."""
    outputs = model.base_model(
        input_ids=packed.input_ids[None],
        position_ids=packed.position_ids[None],
        use_cache=False,
        lengths=packed.lengths,
        cu_seq_lens_q=packed.cu_seqlens,
        cu_seq_lens_k=packed.cu_seqlens,
        max_length_q=max(packed.lengths),
        max_length_k=max(packed.lengths),
    )
    states: torch.Tensor = outputs.last_hidden_state[0]
    return states


def _no_mask(*_: Any, **__: Any) -> None:
    """Causality and isolation come from the lengths."""


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    lengths: tuple[int, ...] | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence; query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D]."""
    if lengths is None or cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed sequences came without their lengths and would see each other: call hidden_states(model, packed)")
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError(f"packed sequences want queries [1, H, T, D] and no mask, got queries {list(query.shape)}")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # [T, H, D]
    if query.is_cuda and query.dtype in _half_types():
        return _on_cuda(q, k, v, scaling, cu_seq_lens_q, max_length_q)[None], None
    return _by_sequence(q, k, v, scaling, lengths)[None], None


def _half_types() -> tuple[torch.dtype, ...]:
    """What the variable-length kernels of GPUs take."""
    import torch

    return torch.float16, torch.bfloat16


@functools.cache
def _has_flash_attn() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _on_cuda(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, starts: torch.Tensor, longest: int) -> Any:
    """flash-attn where it is installed, else the variable-length kernel that comes with torch."""
    if _has_flash_attn():
        from flash_attn import flash_attn_varlen_func as attention

        return attention(q, k, v, starts, starts, longest, longest, softmax_scale=scaling, causal=True)
    from torch.nn.attention.varlen import varlen_attn

    grouped = q.shape[1] != k.shape[1]
    return varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)


def _by_sequence(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, lengths: tuple[int, ...]
) -> torch.Tensor:
    """torch's causal attention over one sequence after another; neighbours of one length go together.

    On a CPU this is quicker than padding sequences of like length into blocks, because each copy costs more than a call.
    """
    import torch

    grouped = q.shape[1] != k.shape[1]
    attended = []
    start = 0
    for length, neighbours in itertools.groupby(lengths):
        count = len(list(neighbours))
        end = start + count * length
        # [T, H, D] -> [count, H, length, D]
        q_, k_, v_ = (states[start:end].view(count, length, *states.shape[1:]).transpose(1, 2) for states in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, is_causal=True, scale=scaling, enable_gqa=grouped)
        attended.append(out.transpose(1, 2).flatten(0, 1))
        start = end
    return torch.cat(attended)
