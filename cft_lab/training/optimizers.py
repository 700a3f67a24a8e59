"""The optimizers, and which of them go with which weights.

| train.weights | train.optimizer | bytes per parameter with gradient | what is lost |
|---|---|---|---|
| fp32 | adamw | 16 | nothing |
| fp32 | adamw-8bit | 10 | moments keep 8 bits with a scale for every 256 (Dettmers et al., arXiv 2110.02861) |
| bf16 | adamw-8bit | 6 | the same, and weights keep 8 bits of their mantissa |
| bf16 | adamw-bf16 | 8 | weights and moments keep 8 bits of their mantissa |

A bf16 weight cannot take a step smaller than 1/256 of itself: rounded to nearest, it would stay where it is at the learning
rates of fine-tuning. Stochastic rounding takes the step with the probability that is right on average; it draws from torch's
default generator of the weights' device, so that generator is part of the resume state.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cft_lab.config import OptimizationConfig

if TYPE_CHECKING:
    import torch


def missing_optimizer(config: OptimizationConfig) -> str | None:
    """Says which package `config.optimizer` lacks and how to get it; None if there is nothing to say."""
    if config.optimizer == "adamw" or importlib.util.find_spec("torchao") is not None:
        return None
    return f'optimizer={config.optimizer} needs the package torchao: pip install "cft_lab[lowbit]", or choose optimizer=adamw'


def conflicting_levers(config: OptimizationConfig) -> list[str]:
    """One line for each pair of settings that would train badly or not as it says; an empty list if all is well."""
    found = []
    if config.weights == "bf16" and config.optimizer == "adamw":
        found.append(
            "weights=bf16 with optimizer=adamw rounds most updates away: choose optimizer=adamw-8bit or adamw-bf16, which round "
            "stochastically, or weights=fp32"
        )
    if config.weights == "fp32" and config.optimizer == "adamw-bf16":
        found.append("optimizer=adamw-bf16 keeps its moments as the weights are kept: choose weights=bf16, or optimizer=adamw")
    if config.weights == "bf16" and config.precision != "bf16":
        found.append(f"weights=bf16 computes in bf16, not in precision={config.precision}: choose precision=bf16, or weights=fp32")
    return found


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimizationConfig) -> torch.optim.Optimizer:
    """AdamW over `parameters`, torch's own one fused. Step it with `update`."""
    import torch

    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay, fused=True)
    if problem := missing_optimizer(config):
        raise ModuleNotFoundError(problem)
    from torchao.optim import AdamW8bit, _AdamW

    low_bit = AdamW8bit if config.optimizer == "adamw-8bit" else _AdamW
    optimizer: torch.optim.Optimizer = low_bit(
        parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay, bf16_stochastic_round=config.weights == "bf16"
    )
    return optimizer


def update(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One step at the learning rate `lr`, from gradients that are there."""
    import torch

    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)  # torchao compiles its step once for all rates
        else:
            group["lr"] = lr
    with _as_compiled_as_pays(optimizer):
        optimizer.step()


def _as_compiled_as_pays(optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager[object]:
    """torchao compiles its step: needed on a GPU, where it must not make fp32 copies, and a minute of waiting on a CPU."""
    import torch

    on_cpu = optimizer.param_groups[0]["params"][0].device.type == "cpu"
    own = isinstance(optimizer, torch.optim.AdamW)
    return torch.compiler.set_stance("force_eager") if on_cpu and not own else contextlib.nullcontext()
