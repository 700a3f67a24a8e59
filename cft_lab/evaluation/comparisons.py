"""Comparing cells on the same items: tests, bootstrap intervals, power, and sentences that follow from power instead of stars.

Scores are fractions; a benchmark is the list of its items' scores, in the same order for every cell that is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from cft_lab.evaluation.statistics import Interval, macro_difference_interval, paired_mean, z_value

if TYPE_CHECKING:
    import numpy as np

Benchmarks = Sequence[Sequence[float]]

POWER = 0.8  # the chance of finding a difference of the size that is asked about
RESAMPLES = 10_000
_CHUNK = 4_000_000  # counts drawn at once, which bounds the memory


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided exact p-value for "both solve equally many": among items solved by one only, each is as likely to be either's.

    For scores of 0 and 1. Source: McNemar, Psychometrika 12 (1947) 153, with the binomial in place of its chi-squared.
    """
    if any(value not in (0, 1) for value in (*first, *second)):
        raise ValueError("McNemar's test needs scores of 0 and 1; compare means of several samples by `bootstrap_difference`")
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values over a family of tests: one at or below 0.05 is significant with the chance of any false one at most 5 %.

    Source: Holm, Scandinavian J. Statistics 6 (1979) 65.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True)
class Bootstrap:
    """An observed value and its bootstrap interval."""

    estimate: float
    interval: Interval


def bootstrap_difference(
    first: Benchmarks, second: Benchmarks, *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Bootstrap:
    """First minus second in the plain mean over benchmarks, items resampled in pairs within each benchmark; percentile interval.

    An item with several samples is resampled whole. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.
    """
    observed = _observed_means([first, second])
    means = resampled_means([first, second], seed, resamples)
    return Bootstrap(observed[0] - observed[1], _percentiles(means[:, 0] - means[:, 1], confidence))


def bootstrap_minus_best(
    first: Benchmarks, rivals: Sequence[Benchmarks], *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Bootstrap:
    """First minus the best of its rivals in the plain mean over benchmarks, the best chosen anew in every resample.

    Choosing the best once would treat a rival that was lucky on these items as truly the best. The best of several is biased
    upward, and a percentile interval doubles that bias; so each limit is the outer one of the percentile interval and of its
    reflection at the estimate (the basic bootstrap: Davison and Hinkley, Bootstrap Methods and their Application (1997), 5.2).
    """
    observed = _observed_means([first, *rivals])
    means = resampled_means([first, *rivals], seed, resamples)
    estimate = observed[0] - max(observed[1:])
    low, high = _percentiles(means[:, 0] - means[:, 1:].max(axis=1), confidence)
    return Bootstrap(estimate, (min(low, 2 * estimate - high), max(high, 2 * estimate - low)))


def _percentiles(values: np.ndarray, confidence: float) -> Interval:
    import numpy as np

    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _observed_means(arms: Sequence[Benchmarks]) -> list[float]:
    return [math.fsum(math.fsum(items) / len(items) for items in arm) / len(arm) for arm in arms]


def resampled_means(arms: Sequence[Benchmarks], seed: int, resamples: int) -> np.ndarray:
    """Means over benchmarks [resamples, arms]. Items with the same scores in all arms are drawn together, by their count."""
    import numpy as np

    rng = np.random.default_rng(seed)
    total = np.zeros((resamples, len(arms)))
    for scores in zip(*arms, strict=True):
        if len({len(items) for items in scores}) > 1:
            raise ValueError(f"compared cells must have the same items, got {[len(items) for items in scores]}")
        patterns, counts = np.unique(np.array(scores, dtype=float).T, axis=0, return_counts=True)
        n = int(counts.sum())
        step = max(1, _CHUNK // len(counts))
        for start in range(0, resamples, step):
            drawn = rng.multinomial(n, counts / n, size=min(step, resamples - start))
            total[start : start + step] += drawn @ patterns / n
    return total / len(arms[0])


def detectable_difference(standard_error: float, power: float = POWER, confidence: float = 0.95) -> float:
    """The smallest true difference that is found with the given power, from the standard error of the difference.

    Source: Miller, arXiv 2411.00640, section 5.
    """
    return (z_value(confidence) + _power_quantile(power)) * standard_error


def detectable_paired(n: int, discordant: float, power: float = POWER, confidence: float = 0.95) -> float | None:
    """The smallest true difference that n paired items find, if cells disagree on a share `discordant` of items.

    None if not even all disagreements in one direction would do. Source: the sample size of Connor, Biometrics 43 (1987) 207,
    solved for the difference.
    """
    a, b = z_value(confidence), _power_quantile(power)
    root = a * a * n - (n + b * b) * (a * a - b * b)
    if root < 0:
        return None
    difference = math.sqrt(discordant) * (a * math.sqrt(n) + math.sqrt(root)) / (n + b * b)
    return difference if difference <= discordant else None


def detectable_unpaired(n: int, accuracy: float, power: float = POWER, confidence: float = 0.95) -> float | None:
    """The smallest true difference from `accuracy`, towards one half, that two cells on n different items each would show.

    None if no accuracy is far enough away. Source: as `items_needed_unpaired`, solved by bisection.
    """
    start = min(accuracy, 1 - accuracy)
    low, high = 0.0, 1 - start
    if items_needed_unpaired(high, start, power, confidence) > n:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _items_unpaired(middle, start, power, confidence) <= n else (middle, high)
    return high


def items_needed_paired(difference: float, discordant: float, power: float = POWER, confidence: float = 0.95) -> int:
    """Paired items that find a true difference, if cells disagree on a share `discordant` of items. Source: as above, Connor."""
    if not 0 < difference <= discordant <= 1:
        raise ValueError(f"difference={difference} must be above 0 and at most discordant={discordant}, which is at most 1")
    a, b = z_value(confidence), _power_quantile(power)
    return math.ceil((a * math.sqrt(discordant) + b * math.sqrt(discordant - difference**2)) ** 2 / difference**2)


def items_needed_unpaired(difference: float, accuracy: float, power: float = POWER, confidence: float = 0.95) -> int:
    """Items in each of two different samples that find `accuracy` + `difference` to differ from `accuracy`.

    Source: Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions (2003), section 4.2, no continuity correction.
    """
    if not (difference > 0 and accuracy >= 0 and accuracy + difference <= 1):
        raise ValueError(f"difference={difference} must be above 0 and accuracy={accuracy} plus it at most 1")
    return math.ceil(_items_unpaired(difference, accuracy, power, confidence))


def _items_unpaired(difference: float, accuracy: float, power: float, confidence: float) -> float:
    other = accuracy + difference
    pooled = (accuracy + other) / 2
    spread = z_value(confidence) * math.sqrt(2 * pooled * (1 - pooled))
    spread += _power_quantile(power) * math.sqrt(accuracy * (1 - accuracy) + other * (1 - other))
    return (spread / difference) ** 2 if difference > 0 else math.inf


def _power_quantile(power: float) -> float:
    return NormalDist().inv_cdf(power)


@dataclass(frozen=True)
class Comparison:
    """First minus second on the same items of the same benchmarks; `detectable` is the difference found with 80 % power."""

    items: int
    benchmarks: int
    difference: float
    interval: Interval
    detectable: float

    @property
    def separated(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


def compare(first: Benchmarks, second: Benchmarks) -> Comparison:
    """Two cells in the plain mean over benchmarks, paired by item. The standard error behind `detectable` is the interval's."""
    interval = macro_difference_interval(first, second)
    return Comparison(
        items=sum(len(items) for items in first),
        benchmarks=len(first),
        difference=math.fsum(paired_mean(a, b) for a, b in zip(first, second, strict=True)) / len(first),
        interval=interval,
        detectable=detectable_difference((interval[1] - interval[0]) / (2 * z_value())),
    )


def describe(comparison: Comparison, first: str, second: str) -> str:
    """One sentence, in points: which is better and by how much, or what the items cannot show."""
    low, high = (100 * limit for limit in comparison.interval)
    points = 100 * comparison.difference
    items = f"{comparison.items:,} items" + (f" of {comparison.benchmarks} benchmarks" if comparison.benchmarks > 1 else "")
    if comparison.separated:
        way = "above" if points > 0 else "below"
        return (
            f"{first} is {abs(points):.1f} points {way} {second} [{low:+.1f}, {high:+.1f}] on {items}, "
            "more than the choice of items explains."
        )
    return (
        f"{items} cannot separate {first} and {second}: the difference is {points:+.1f} points [{low:+.1f}, {high:+.1f}], "
        f"and a true difference under {100 * comparison.detectable:.1f} points would be missed more often than one time in five."
    )
