"""How much memory a training needs on each device, from the model's shape and the settings alone: no weights, no GPU, no torch.

Memory is counted at the three moments of a micro-batch at which it can peak, and the largest is the estimate:

    loss      the forward pass is over and every kept activation is there; logits of one chunk stand beside their gradient
    backward  one block's activations are there (again, if they are recomputed) with the gradients that flow through it
    end       no activation is left; the embedding's gradient stands beside the one that it is added to

Widths below: d hidden_size, f intermediate_size, k all keys of a token, h heads, V vocab_size; T tokens of a micro-batch, s bytes of a
number. The counts of kept activations are what torch's autograd saves of transformers' Qwen2 and Llama blocks in the loop
of this package; a test counts them anew.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from cft_lab.config import OptimizationConfig, ShapeConfig
from cft_lab.training.lengths import Lengths
from cft_lab.training.shapes import count_parameters, kv_size

GIB = 2**30
#: what a process holds on a GPU besides tensors: CUDA context, kernels, cuBLAS workspace
CONTEXT_BYTES = 0.8 * GIB
#: communication buffers of NCCL, where several processes train together
NCCL_BYTES = 1.0 * GIB
#: share by which an allocator holds more than is in use at once, of what comes and goes (activations, logits, gathered blocks)
SLACK = {"cuda": 0.08, "cpu": 0.03}


@dataclass(frozen=True)
class Part:
    """One part of the memory of a device, in bytes, and what the figure rests on."""

    name: str
    num_bytes: float
    basis: str


@dataclass(frozen=True)
class Memory:
    """The estimated peak on each device: its parts at the moment that needs most."""

    moment: str  # loss, backward or end
    parts: tuple[Part, ...]
    micro_batch_tokens: int
    micro_batches: int  # of an optimizer step on each device

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def largest(self) -> Part:
        """The part that needs most."""
        return max(self.parts, key=lambda part: part.num_bytes)


@dataclass(frozen=True)
class Setting:
    """What the memory of a device follows from. `precision` is fp32 or bf16: what the passes compute in."""

    shape: ShapeConfig
    config: OptimizationConfig
    device: str  # cuda or cpu
    precision: str
    ranks: int
    lengths: Lengths

    @property
    def autocast(self) -> bool:
        """Whether fp32 weights are cast to bf16 product by product, in one process; several have FSDP's mixed precision."""
        return self.precision == "bf16" and self.config.weights == "fp32" and self.ranks == 1

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number that matrix products read and write."""
        return 2 if self.precision == "bf16" or self.config.weights == "bf16" else 4

    @property
    def step_tokens(self) -> float:
        """Tokens of an optimizer step on each device."""
        return min(self.config.global_batch_size, self.lengths.sequences) * self.lengths.mean / self.ranks

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step on each device, as `split_step` fills them."""
        return max(1, math.ceil(self.step_tokens / self.config.micro_batch_tokens))

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of the largest micro-batch: the budget, or all there is, or one sequence that is longer."""
        return math.ceil(max(min(self.config.micro_batch_tokens, self.step_tokens), self.lengths.longest))


def estimate_memory(setting: Setting) -> Memory:
    """The peak of a training on each of its devices."""
    found = [
        Memory(moment, tuple(part for part in parts if part.num_bytes), setting.micro_batch_tokens, setting.micro_batches)
        for moment, parts in (
            ("loss", [*_kept(setting, "loss"), *_at_loss(setting)]),
            ("backward", [*_kept(setting, "backward"), *_at_backward(setting)]),
            ("end", [*_kept(setting, "end"), *_at_end(setting)]),
        )
    ]
    peak = max(found, key=lambda memory: memory.total)
    return dataclasses.replace(peak, parts=(*peak.parts, *_surroundings(setting, peak)))


def _weight_bytes(setting: Setting) -> int:
    return 4 if setting.config.weights == "fp32" else 2


def _kept(setting: Setting, moment: str) -> Iterator[Part]:
    """Weights, gradients and the optimizer's state, each process holding its share of the parameters."""
    number = count_parameters(setting.shape).total / setting.ranks
    size = _weight_bytes(setting)
    each = f"{number / 1e9:,.2f} G parameters" + (f" (of {setting.ranks} shares)" if setting.ranks > 1 else "")
    yield Part("weights", number * size, f"{each} x {size} bytes ({setting.config.weights})")
    # of a single micro-batch the gradient comes into being while activations go
    if moment == "end" or setting.micro_batches > 1:
        yield Part("gradients", number * size, f"x {size} bytes")
    yield Part("optimizer", number * optimizer_bytes(setting.config), f"x {optimizer_bytes(setting.config):g} bytes ({setting.config.optimizer})")


def optimizer_bytes(config: OptimizationConfig) -> float:
    """Bytes of optimizer state for each parameter.

    AdamW has two moments: in fp32; in 8 bits with one fp32 scale for each 256 numbers (torchao's AdamW8bit); in bf16.
    """
    return {"adamw": 8.0, "adamw-8bit": 2 * (1 + 4 / 256), "adamw-bf16": 4.0}[config.optimizer]
