"""Intervals for accuracies. All values are fractions in 0..1; intervals are 95 % unless told otherwise.

Sources: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; clustered and paired standard errors as in Miller, arXiv 2411.00640.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

Interval = tuple[float, float]


def z_value(confidence: float = 0.95) -> float:
    """Two-sided normal quantile, 1.96 for 95 %."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Wilson's score interval for a proportion; None if n is 0, because then nothing was measured."""
    if not 0 <= correct <= n:
        raise ValueError(f"correct={correct} must lie between 0 and n={n}")
    if n == 0:
        return None
    z = z_value(confidence)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; `interval` is mean plus or minus 1.96 standard errors."""

    mean: float
    standard_error: float

    @property
    def interval(self) -> Interval:
        """95 % interval by the normal approximation."""
        half = z_value() * self.standard_error
        return self.mean - half, self.mean + half


def item_mean(values: Sequence[float]) -> Estimate:
    """Mean over items with its standard error from item variance; each value is one item's (mean) score.

    With several seeds on the same items, give each item's mean over seeds: that is the cluster-robust estimate, which
    covers the choice of items and not the choice of training seeds (see `seed_sd`). Needs two items or more.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 items, got {n}")
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, math.sqrt(variance / n))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of first - second over the same items in the same order, with the paired standard error."""
    if len(first) != len(second):
        raise ValueError(f"paired values must be of the same items, got {len(first)} and {len(second)}")
    return item_mean([a - b for a, b in zip(first, second, strict=True)])


def macro_average(parts: Sequence[Estimate]) -> Estimate:
    """Plain mean over benchmarks (the paper's AVG); benchmarks are independent samples of items."""
    count = len(parts)
    variance = math.fsum(part.standard_error**2 for part in parts)
    return Estimate(math.fsum(part.mean for part in parts) / count, math.sqrt(variance) / count)


def seed_sd(means: Sequence[float]) -> float | None:
    """Standard deviation of per-seed means (what another training seed would change); None for fewer than two seeds."""
    if len(means) < 2:
        return None
    centre = math.fsum(means) / len(means)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in means) / (len(means) - 1))
