"""What a training says about itself: loss, learning rate, speed, the share of the device's peak, memory, time to go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step reports: loss in nats per target token, gradient norm before clipping, speed."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    target_tokens: int
    tokens: int
    tokens_per_s: float
