"""What a training says about itself: loss, learning rate, speed, the share of the device's peak, memory, time to go.

FLOPs of the model, as in the appendix of PaLM (arXiv 2204.02311), a product of a matrix with a vector being 2 per element and the
backward pass twice the forward pass:

    6 x parameters of the blocks' matrices x tokens
    + 6 x layers x heads x head size x sum of squared lengths     (half of full attention: it is causal)
    + 6 x width x vocabulary x supervised tokens                  (nothing else reaches the output projection)

What activation checkpointing computes again is work of the machine, not of the model, and is not counted. MFU is these FLOPs over
time x peak x devices.
"""

from __future__ import annotations

import collections
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cft_lab.config import OptimizationConfig, ShapeConfig, TrainConfig
from cft_lab.training.levers import blocks_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: dense bf16 TFLOP/s by a part of the name that the driver reports, the most special first. From NVIDIA's data sheets of each
#: (B200, H200, H100, A100, L40S, L40, L4), which print twice as much "with sparsity" where that is all they print.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200 NVL": 835.5,
    "H200": 989.5,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H100": 989.5,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}
SPEED_WINDOW = 50  # steps that the remaining time is judged by


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step reports. Loss in nats per target token and gradient norm before clipping are of the
    whole batch; one that was no number is None, and the step was skipped. Speeds leave out what saving takes."""

    step: int
    loss: float | None
    lr: float
    grad_norm: float | None
    sequences: int
    target_tokens: int
    tokens: int
    seconds: float
    tokens_per_s: float
    target_tokens_per_s: float
    sequences_per_s: float
    mfu: float | None  # 0..1; None where the device's peak is not known
    peak_memory_bytes: int  # of the busiest moment so far: of the GPU's tensors, or of this process on a CPU
    eta_s: float  # until the last step, saving included


@dataclass(frozen=True)
class ModelFlops:
    """What a decoder's FLOPs are counted from."""

    block_parameters: int  # elements of the matrices of all blocks
    attention_width: int  # heads x head size, summed over the layers
    projection_parameters: int  # width x vocabulary

    def of(self, lengths: Iterable[int], targets: int) -> int:
        """FLOPs of forward and backward over sequences of these lengths, `targets` of whose tokens carry loss."""
        lengths = list(lengths)
        attention = self.attention_width * sum(length * length for length in lengths)
        return 6 * (self.block_parameters * sum(lengths) + attention + self.projection_parameters * targets)


def flops_of_shape(shape: ShapeConfig) -> ModelFlops:
    """From the shape alone; its vocabulary must be that of the output projection."""
    head = shape.hidden_size // shape.heads
    attention = 2 * shape.hidden_size * head * (shape.heads + shape.kv_heads)
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    return ModelFlops(
        block_parameters=shape.layers * (attention + mlp),
        attention_width=shape.layers * shape.heads * head,
        projection_parameters=shape.hidden_size * shape.vocab_size,
    )


def flops_of_model(model: PreTrainedModel) -> ModelFlops:
    """From the modules of a causal model."""
    blocks = blocks_of(model)
    matrices = [parameter for block in blocks for parameter in block.parameters() if parameter.ndim == 2]
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelFlops(
        block_parameters=sum(matrix.numel() for matrix in matrices),
        attention_width=len(blocks) * config.num_attention_heads * head,
        projection_parameters=model.get_output_embeddings().weight.numel(),
    )


def peak_flops(config: OptimizationConfig, precision: str, device_name: str) -> float | None:
    """FLOP/s that one device could do at most: `train.device_tflops`, else what its maker says of bf16; None if not known."""
    if isinstance(config, TrainConfig) and config.device_tflops is not None:
        return config.device_tflops * 1e12
    if precision != "bf16":
        return None
    if "MIG" in device_name:  # a slice of one
        return None
    return next((tflops * 1e12 for name, tflops in PEAK_TFLOPS.items() if name in device_name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """The most bytes so far: of tensors on a GPU, of this whole process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux KiB


class Meter:
    """Turns what a step did and how long it took into `StepMetrics`."""

    def __init__(self, flops: ModelFlops, peak: float | None, devices: int, steps: int, device: torch.device) -> None:
        self._flops = flops
        self._peak = peak
        self._devices = devices
        self._steps = steps
        self._device = device
        self._ends: collections.deque[float] = collections.deque([time.perf_counter()], maxlen=SPEED_WINDOW + 1)

    def measure(
        self, step: int, loss: float, lr: float, grad_norm: float, lengths: Sequence[int], targets: int, seconds: float
    ) -> StepMetrics:
        """What step `step` (from 1) reports: `lengths` and `targets` are those of its whole batch."""
        self._ends.append(time.perf_counter())
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        rate = self._flops.of(lengths, targets) / seconds
        return StepMetrics(
            step=step,
            loss=loss if math.isfinite(loss) else None,
            lr=lr,
            grad_norm=grad_norm if math.isfinite(grad_norm) else None,
            sequences=len(lengths),
            target_tokens=targets,
            tokens=sum(lengths),
            seconds=seconds,
            tokens_per_s=sum(lengths) / seconds,
            target_tokens_per_s=targets / seconds,
            sequences_per_s=len(lengths) / seconds,
            mfu=None if self._peak is None else rate / (self._peak * self._devices),
            peak_memory_bytes=peak_memory_bytes(self._device),
            eta_s=pace * (self._steps - step),
        )


class Bar:
    """The progress bar of a training: tqdm shows the time to go, we add loss, rate, speed and MFU."""

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        from tqdm import tqdm

        slow = 0.2 if sys.stderr.isatty() else 20.0
        self._bar: Any = tqdm(
            total=steps, initial=done, desc="train", unit="step", disable=not shown, mininterval=slow, leave=False
        )

    def show(self, metrics: StepMetrics) -> None:
        """Moves on by a step."""
        loss = "nan" if metrics.loss is None else f"{metrics.loss:.3f}"
        loss += " (skipped)" if metrics.loss is None or metrics.grad_norm is None else ""
        shown = {"loss": loss, "lr": f"{metrics.lr:.1e}", "tok_s": f"{metrics.tokens_per_s:,.0f}"}
        shown |= {} if metrics.mfu is None else {"mfu": f"{metrics.mfu:.0%}"}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
