"""How many seeds and items would settle a claim: the power of Student's t in the larger design, with the degrees of freedom it has.

A report's interval is the estimate plus or minus Student's quantile times the standard error (`seeds.with_seeds`), so that its
chance to exclude a value is that of a noncentral t. Source: Cohen, Statistical Power Analysis (1988), section 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cft_lab.evaluation.comparisons import POWER
from cft_lab.evaluation.statistics import t_value
from cft_lab.report.seeds import Compared, joint_degrees

_MOST = 10**7  # seeds or items that are searched; beyond it they are said to settle nothing
_NORMAL = 10_000  # degrees of freedom from which Student's t is the normal distribution to four digits


@dataclass(frozen=True)
class Needed:
    """Seeds of each trained arm, or items of all benchmarks together, that would each alone do; None where no number would.

    `both`, seeds on items, as many times more of either, where neither alone would do.
    """

    seeds: int | None = None
    items: int | None = None
    both: tuple[int, int] | None = None


def chance(compared: Compared, effect: float, confidence: float, *, seeds: float = 1.0, items: float = 1.0) -> float:
    """The chance that the interval excludes a value which lies `effect` from the truth, on the side that it lies on.

    `seeds` and `items` are how many times as many of them there are, the seeds in every trained arm of the table.
    """
    n_items, item_variance = round(compared.n_items * items), compared.item_se**2 / items
    seed_variance, degrees = 0.0, max(n_items - 1.0, 1.0)
    spread = compared.spread
    if spread is not None and spread.variance > 0:
        by_chance = min(
            compared.item_se**2, (spread.observed - spread.variance) * compared.share
        )  # an item solved under one seed only
        item_variance -= by_chance * (1 - 1 / seeds) / items
        seed_variance = spread.variance * compared.share / seeds
        observed = seed_variance + by_chance / seeds / items
        more = round(spread.groups * (seeds - 1) * compared.seeds)
        degrees = joint_degrees(item_variance, n_items, seed_variance, observed, spread.degrees + more)
    error = math.sqrt(item_variance + seed_variance)
    return 1.0 if error == 0 else _beyond(degrees, effect / error, t_value(degrees, confidence))


def _beyond(degrees: float, centre: float, quantile: float) -> float:
    """The chance that a noncentral t lies above a quantile."""
    from scipy.special import nctdtr, ndtr

    if degrees > _NORMAL or centre > quantile + 30:
        return float(ndtr(centre - quantile))
    return 1.0 - float(nctdtr(degrees, centre, quantile))


def needed(compared: Compared, effect: float, confidence: float, power: float = POWER) -> Needed:
    """What would find `effect` with this power."""
    if effect <= 0:
        return Needed()
    old_seeds, old_items = compared.seeds, compared.n_items

    def with_items(count: int) -> bool:
        return chance(compared, effect, confidence, items=count / old_items) >= power

    def with_more_seeds(count: int) -> bool:
        return chance(compared, effect, confidence, seeds=count / old_seeds) >= power

    def with_both(count: int) -> bool:
        times = count / old_seeds
        return chance(compared, effect, confidence, seeds=times, items=times) >= power

    items = _smallest(old_items + 1, with_items)
    if not compared.seed_se:
        return Needed(items=items)
    seeds = _smallest(old_seeds + 1, with_more_seeds)
    if seeds is not None or items is not None:
        return Needed(seeds, items)
    count = _smallest(old_seeds + 1, with_both)
    return Needed(both=None if count is None else (count, math.ceil(old_items * count / old_seeds)))


def _smallest(start: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `start` that is enough, by bisection; None if none is."""
    low, high = start - 1, start
    while not enough(high):
        if high > _MOST:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
