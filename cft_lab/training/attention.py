"""Attention over sequences that lie end to end: no mask, no padding, and no token sees another sequence.

transformers hands the lengths through to the attention function registered here as keywords of the model's forward. Without
them the function refuses to run: sequences that see each other change the loss a little and no shape, so nobody would notice.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.varlen import varlen_attn

from cft_lab.training.batches import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "padding_free"  # what transformers knows it by
#: torch's kernel said is_causal before it had windows (2.10), and groups heads unasked before it asks (2.12)
_OPTIONS = inspect.signature(varlen_attn).parameters
CAUSAL: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _OPTIONS else {"is_causal": True}
CAUSAL |= {"enable_gqa": True} if "enable_gqa" in _OPTIONS else {}


def _has_flash_attn() -> bool:
    """Whether flash-attn is installed, not the package of version 4, whose module has its name and other functions."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("flash-attn"))
    return False


HAS_FLASH_ATTN = _has_flash_attn()


@contextlib.contextmanager
def padding_free(model: PreTrainedModel) -> Iterator[None]:
    """While it is open, `model` takes packed sequences only; afterwards it has its former attention back.

    The backward pass belongs inside as well: it computes checkpointed blocks again.
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
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence; query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D]."""
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed sequences came without their lengths and would see each other: call hidden_states(model, packed)")
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError(f"packed sequences want queries [1, H, T, D] and no mask, got queries {list(query.shape)}")
    dtype = product_dtype(value)  # under autocast the rotary embedding leaves queries and keys in float32
    q, k, v = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))  # [T, H, D]
    if query.is_cuda and dtype in (torch.float16, torch.bfloat16):
        return _on_cuda(q, k, v, scaling, cu_seq_lens_q, max_length_q)[None], None
    return _by_sequence(q, k, v, scaling, cu_seq_lens_q)[None], None


def product_dtype(states: torch.Tensor) -> torch.dtype:
    """What matrix products of `states` are made in here: autocast's type, else their own."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _on_cuda(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, starts: torch.Tensor, longest: int) -> Any:
    """flash-attn where it is installed, else the variable-length kernel that comes with torch."""
    if HAS_FLASH_ATTN:
        from flash_attn import flash_attn_varlen_func as attention

        return attention(q, k, v, starts, starts, longest, longest, softmax_scale=scaling, causal=True)
    scale: dict[str, Any] = {"scale": scaling} if "scale" in _OPTIONS else {}  # where it is not, it is that of Qwen2 and Llama
    return varlen_attn(q, k, v, starts, starts, longest, longest, **CAUSAL, **scale)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled anew for every list of lengths
def _by_sequence(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, starts: torch.Tensor) -> torch.Tensor:
    """torch's causal attention over one sequence after another; neighbours of one length go together.

    On a CPU this is quicker than padding sequences of like length into blocks, because each copy costs more than a call.
    """
    grouped = q.shape[1] != k.shape[1]
    runs = [(length, len(list(neighbours))) for length, neighbours in itertools.groupby(starts.diff().tolist())]
    # split and not slices: the gradient of a slice is as large as what it was cut from
    parts = [torch.split(states, [length * count for length, count in runs]) for states in (q, k, v)]
    attended = []
    for (length, count), *run in zip(runs, *parts, strict=True):
        # [count * length, H, D] -> [count, H, length, D]
        q_, k_, v_ = (states.view(count, length, *states.shape[1:]).transpose(1, 2) for states in run)
        out = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, is_causal=True, scale=scaling, enable_gqa=grouped)
        attended.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)
