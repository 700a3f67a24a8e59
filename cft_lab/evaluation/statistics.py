"""Intervals for accuracies. All values are fractions in 0..1; intervals are 95 % unless told otherwise.

An item's score is 0 or 1, or a mean over several samples or seeds of that item: items are the independent units, so several
answers to one problem are one value here (the clustered estimate of Miller, arXiv 2411.00640). docs/statistics.md says when to use
which function and how often each interval covers the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

Interval = tuple[float, float]


_NO_SPREAD = 1e-12  # standard errors below this are rounding: equal scores such as 1/3 leave 1e-17


def z_value(confidence: float = 0.95) -> float:
    """Two-sided normal quantile, 1.96 for 95 %."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def t_value(degrees: float, confidence: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def wilson(correct: float, n: float, confidence: float = 0.95) -> Interval | None:
    """Wilson's score interval for a proportion; None if n is 0, because then nothing was measured.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct={correct} must lie between 0 and n={n}")
    if n == 0:
        return None
    z = z_value(confidence)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # at 0 and 1 rounding must not pass the estimate


def agresti_coull(correct: float, n: float, confidence: float = 0.95) -> Interval:
    """The normal interval around Wilson's centre: never inside Wilson's interval, and not cut off at 0 and 1.

    Source: Agresti and Coull, American Statistician 52 (1998) 119.
    """
    z = z_value(confidence)
    total = n + z * z
    centre = (correct + z * z / 2) / total
    half = z * math.sqrt(centre * (1 - centre) / total)
    return centre - half, centre + half


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; `interval` is mean plus or minus 1.96 standard errors."""

    mean: float
    standard_error: float

    @property
    def interval(self) -> Interval:
        """95 % interval by the normal approximation; too short for few items and for means near 0 or 1."""
        half = z_value() * self.standard_error
        return self.mean - half, self.mean + half


def item_mean(values: Sequence[float]) -> Estimate:
    """Mean over items with its standard error from item variance; each value is one item's (mean) score.

    With several seeds on the same items, give each item's mean over seeds: that is the cluster-robust estimate, which
    covers the choice of items and not the choice of training seeds (see `variance_components`). Needs two items or more.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 items, got {n}")
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, math.sqrt(variance / n))


def item_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval for the mean of item scores: Wilson's, with the effective number of items."""
    n = effective_items(values, confidence)
    interval = wilson(math.fsum(values) / len(values) * n, n, confidence)
    assert interval is not None
    return interval


def effective_items(values: Sequence[float], confidence: float = 0.95) -> float:
    """How many items scored 0 or 1 would tell as much: their number if the scores are 0 or 1, more if each is a mean of samples.

    p(1-p) over the variance of the mean, shrunk by the squared ratio of the normal to the t quantile because that variance is an
    estimate. Source: Korn and Graubard, Survey Methodology 24 (1998) 193; in Wilson's interval: Franco et al., J. Survey Stat.
    Methodology 7 (2019) 334. A single item, whose variance is unknown, counts as one.
    """
    if len(values) == 1:
        return 1.0
    estimate = item_mean(values)
    n, p = len(values), estimate.mean
    if estimate.standard_error < _NO_SPREAD or all(value in (0, 1) for value in values):
        return n
    shrink = (z_value(confidence) / t_value(n - 1, confidence)) ** 2
    return p * (1 - p) / estimate.standard_error**2 * shrink


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of first - second over the same items in the same order, with the paired standard error. Needs two items or more."""
    return item_mean(_differences(first, second))


def paired_mean(first: Sequence[float], second: Sequence[float]) -> float:
    """Mean of first - second over the same items in the same order, of which one is enough."""
    return math.fsum(_differences(first, second)) / len(first)


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    if len(first) != len(second):
        raise ValueError(f"paired values must be of the same items, got {len(first)} and {len(second)}")
    return [a - b for a, b in zip(first, second, strict=True)]


def paired_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval for the mean of first - second over the same items in the same order.

    Tango's score interval if every score is 0 or 1; Student's if items have means of several samples, and where all differences
    are the same, as that of a single item is, Bonett and Price's, which adds one item for and one against (J. Educ. Behav. Stat.
    37 (2012) 479).
    """
    mean, n = paired_mean(first, second), len(first)
    if all(value in (0, 1) for value in (*first, *second)):
        pairs = list(zip(first, second, strict=True))
        return tango(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs), n, confidence)
    standard_error = paired_difference(first, second).standard_error if n > 1 else 0.0
    if standard_error >= _NO_SPREAD:
        half = t_value(n - 1, confidence) * standard_error
        centre = mean
    else:
        centre = mean * n / (n + 2)
        spread = (n * mean**2 + 2) / (n + 2) - centre**2
        half = z_value(confidence) * math.sqrt(spread / (n + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


def tango(first_only: int, second_only: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval for the difference of two paired proportions: n items, some solved by the first only or the second only.

    The differences that a score test does not reject. Source: Tango, Statistics in Medicine 17 (1998) 891.
    """
    if n < 1 or first_only < 0 or second_only < 0 or first_only + second_only > n:
        raise ValueError(f"first_only={first_only} and second_only={second_only} must be counts of different items of n={n}")
    z = z_value(confidence)
    observed = (first_only - second_only) / n

    def score(difference: float) -> float:
        """The test statistic, which falls as `difference` rises; the variance is the restricted maximum-likelihood estimate."""
        gap = first_only - second_only - n * difference
        b = (2 * n - first_only + second_only) * difference - first_only - second_only
        c = -second_only * difference * (1 - difference)
        rest = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # share that only the second solves
        variance = n * (2 * rest + difference * (1 - difference))
        if variance <= 0:
            return math.copysign(math.inf, gap) if gap else 0.0
        return gap / math.sqrt(variance)

    low = _crossing(lambda difference: score(difference) <= z, -1.0, observed)
    high = -_crossing(lambda negative: score(-negative) >= -z, -1.0, -observed)
    return low, high


def macro_interval(benchmarks: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval:
    """Interval for the plain mean over benchmarks, each given by its items' scores.

    Agresti-Coull limits joined by `combine`: with Wilson's limits it covers too seldom where every p is near 0 or 1, with the
    normal approximation far too seldom (docs/statistics.md).
    """
    limits = []
    for values in benchmarks:
        n = effective_items(values, confidence)
        limits.append(agresti_coull(math.fsum(values) / len(values) * n, n, confidence))
    low, high = combine([math.fsum(values) / len(values) for values in benchmarks], limits)
    return max(low, 0.0), min(high, 1.0)


def macro_difference_interval(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], confidence: float = 0.95
) -> Interval:
    """Interval for the difference of two plain means over the same benchmarks, paired by item: `paired_interval`s, combined."""
    if len(first) != len(second):
        raise ValueError(f"both must have the same benchmarks, got {len(first)} and {len(second)}")
    means = [paired_mean(a, b) for a, b in zip(first, second, strict=True)]
    return combine(means, [paired_interval(a, b, confidence) for a, b in zip(first, second, strict=True)])


def combine(estimates: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Interval for the plain mean of independent estimates from their own intervals, which may lie unevenly around them.

    The method of variance estimates recovery: lower and upper distances are added in squares, each side by itself. Source:
    Newcombe, Statistics in Medicine 17 (1998) 873, for two proportions; Zou, Huang and Zhang, Comp. Stat. Data Analysis 53
    (2009) 1080, for any number.
    """
    count = len(estimates)
    mean = math.fsum(estimates) / count
    below = math.hypot(*(estimate - low for estimate, (low, _) in zip(estimates, intervals, strict=True))) / count
    above = math.hypot(*(high - estimate for estimate, (_, high) in zip(estimates, intervals, strict=True))) / count
    return mean - below, mean + above


def seed_sd(means: Sequence[float]) -> float | None:
    """Standard deviation of per-seed means (what another training seed would change); None for fewer than two seeds."""
    if len(means) < 2:
        return None
    centre = math.fsum(means) / len(means)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in means) / (len(means) - 1))


@dataclass(frozen=True)
class VarianceComponents:
    """Where the uncertainty of a mean over seeds and items comes from; standard deviations, and standard errors of the mean.

    `item_se` covers other items under these seeds, `seed_se` other seeds on these items, `both_se` other items and other seeds.
    """

    mean: float
    item_sd: float  # between items, beyond what seeds do to each
    seed_sd: float  # between seeds, beyond what chance over items explains
    rest_sd: float  # an item solved under one seed and not under another
    item_se: float
    seed_se: float
    both_se: float


def variance_components(scores: Sequence[Sequence[float]]) -> VarianceComponents:
    """Splits the variance of scores[seed][item] into items, seeds and the rest. Needs two seeds and two items or more.

    Two-way random effects without replication, by analysis of variance; a negative component counts as 0. Source: Searle, Casella
    and McCulloch, Variance Components (1992), chapter 4.
    """
    seeds, items = len(scores), len(scores[0]) if scores else 0
    if seeds < 2 or items < 2 or any(len(row) != items for row in scores):
        raise ValueError(
            f"variance components need 2 seeds or more on the same 2 items or more, got {[len(row) for row in scores]}"
        )
    by_seed = [math.fsum(row) / items for row in scores]
    by_item = [math.fsum(column) / seeds for column in zip(*scores, strict=True)]
    mean = math.fsum(by_seed) / seeds
    ms_seed = items * math.fsum((value - mean) ** 2 for value in by_seed) / (seeds - 1)
    ms_item = seeds * math.fsum((value - mean) ** 2 for value in by_item) / (items - 1)
    rest = math.fsum((value - by_seed[s] - by_item[i] + mean) ** 2 for s, row in enumerate(scores) for i, value in enumerate(row))
    ms_rest = rest / ((seeds - 1) * (items - 1))
    total = seeds * items
    return VarianceComponents(
        mean=mean,
        item_sd=math.sqrt(max(ms_item - ms_rest, 0.0) / seeds),
        seed_sd=math.sqrt(max(ms_seed - ms_rest, 0.0) / items),
        rest_sd=math.sqrt(ms_rest),
        item_se=math.sqrt(ms_item / total),
        seed_se=math.sqrt(ms_seed / total),
        both_se=math.sqrt(max(ms_item + ms_seed - ms_rest, ms_item, ms_seed) / total),
    )


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where `holds` turns from False to True between `low` and `high`, by bisection to the last bit; `low` if it holds there."""
    if holds(low):
        return low
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        low, high = (low, middle) if holds(middle) else (middle, high)
