"""The seeds and items that a claim is said to need: with them, the report's own interval decides four times in five."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_trainings import made
from scipy import stats

from cft_lab.report.claims import REPLICATED, Claim, Place, decide, effect_to_find
from cft_lab.report.power import chance, needed
from cft_lab.report.seeds import Compared, SeedSpread

GREATER = Claim("greater", "", "lab", "mine", "greater", "AVG", (Place("0"),), ((Place("1"),),), 0.01)
CLOSE = dataclasses.replace(GREATER, kind="close", margin=0.05)
ITEMS = 600
_CHANCE_OVER_ITEMS = 0.25 - 0.16 / 12  # the mean of p(1-p) for p from 0.3 to 0.7


def truth(seeds: int, sd: float, arms: int, *, shared: bool) -> Compared:
    """What a first study of `drawn` would find if it measured every variance exactly."""
    noise = _CHANCE_OVER_ITEMS / ITEMS
    groups = arms - 1 if shared else arms
    spread = SeedSpread(sd**2, sd**2 + noise, groups * (seeds - 1), groups, shared) if sd else None
    return Compared(0.0, 0.0, 0.0, np.sqrt(noise * 2 / seeds), 100.0, ITEMS, seeds, 0, spread, 2 / seeds)


def drawn(rng: np.random.Generator, effect: float, seeds: int, items: int, sd: float, arms: int, *, shared: bool) -> Compared:
    """Arms of which the first is better by `effect`, as the report compares them."""
    hard, level = rng.uniform(-0.2, 0.2, items), rng.normal(0, 0.05, seeds)
    cells = {}
    for arm in range(arms):
        shifts = rng.normal(0, sd, seeds) + (level if shared else 0.0) + (effect if arm == 0 else 0.0)
        names = [f"{k}" if shared else f"{arm}/{k}" for k in range(seeds)]
        cells[str(arm), ""] = {
            name: [(rng.random(items) < 0.5 + shift + hard).astype(float)] for name, shift in zip(names, shifts, strict=True)
        }
    measures, found, names = made(cells)
    return measures.compare([found["0", ""]], [[found["1", ""]]], names, list(found.values()), 0.95)


@pytest.mark.parametrize(
    ("claim", "effect", "seeds", "sd", "arms", "shared", "more"),
    [
        (GREATER, 0.06, 2, 0.03, 2, False, "seeds"),  # two arms: few degrees of freedom
        (GREATER, 0.06, 3, 0.03, 3, True, "seeds"),
        (GREATER, 0.07, 3, 0.02, 3, True, "items"),
        (GREATER, 0.05, 1, 0.0, 2, False, "items"),
        (CLOSE, 0.05, 1, 0.0, 2, False, "items"),
    ],
)
def test_the_number_that_is_told_decides_four_times_in_five(
    claim: Claim, effect: float, seeds: int, sd: float, arms: int, shared: bool, more: str
) -> None:
    one_sided = 0.9 if claim.kind == "close" else 0.8
    told = needed(truth(seeds, sd, arms, shared=shared), effect, 0.95, one_sided)
    count = told.seeds if more == "seeds" else told.items
    assert count is not None
    many_seeds, many_items = (count, ITEMS) if more == "seeds" else (seeds, count)
    rng = np.random.default_rng(21)
    found = [drawn(rng, effect if one_sided == 0.8 else 0.0, many_seeds, many_items, sd, arms, shared=shared) for _ in range(800)]
    power = np.mean([decide(claim, one.low, one.high) == REPLICATED for one in found])
    assert 0.77 <= power <= 0.85, (count, power)


def test_the_chance_is_that_of_a_noncentral_t() -> None:
    compared = truth(3, 0.03, 2, shared=False)
    spread = compared.spread
    assert spread is not None
    error = compared.standard_error
    by_seeds = spread.observed * compared.share
    degrees = error**4 / (compared.item_se**4 / (ITEMS - 1) + by_seeds**2 / 4)
    expected = stats.nct.sf(stats.t.ppf(0.975, degrees), degrees, 0.05 / error)
    assert chance(compared, 0.05, 0.95) == pytest.approx(expected)
    assert chance(dataclasses.replace(compared, spread=None), 0.01, 0.95, items=50) == pytest.approx(
        stats.norm.sf(stats.norm.ppf(0.975) - 0.01 / compared.item_se * np.sqrt(50)), abs=1e-4
    )


def test_where_neither_alone_would_do_both_together_are_told() -> None:
    compared = dataclasses.replace(truth(3, 0.03, 2, shared=False), item_se=0.02)
    told = needed(compared, 0.01, 0.95)
    assert (told.seeds, told.items) == (None, None)
    assert told.both is not None
    seeds, items = told.both
    assert items == pytest.approx(ITEMS * seeds / 3, abs=1)
    assert chance(compared, 0.01, 0.95, seeds=seeds / 3, items=items / ITEMS) >= 0.8
    assert chance(compared, 0.01, 0.95, seeds=(seeds - 1) / 3, items=(seeds - 1) / 3) < 0.8


def test_a_claim_on_direction_only_seeks_the_difference_seen() -> None:
    compared = dataclasses.replace(truth(3, 0.05, 2, shared=False), estimate=-0.071)
    assert effect_to_find(GREATER, compared, 0.95).told == "7.1 points, the difference seen"
    small = dataclasses.replace(compared, estimate=0.004)
    assert effect_to_find(GREATER, small, 0.95).told == "1.0 points, the smallest effect of interest"
    assert effect_to_find(dataclasses.replace(GREATER, scale="paper"), compared, 0.95).effect == 0.01
    assert effect_to_find(CLOSE, compared, 0.95).told == "5.0 points, the margin"
    assert effect_to_find(CLOSE, compared, 0.95).power == pytest.approx(0.9)


def test_near_a_bound_the_distance_to_it_is_what_has_to_be_found() -> None:
    compared = Compared(0.032, 0.024, 0.041, 0.002, 30.0, 1000, 3)
    near = dataclasses.replace(CLOSE, margin=0.03)
    assert effect_to_find(near, compared, 0.99).effect == pytest.approx(0.002)
    told = needed(compared, 0.002, 0.99)
    assert told.items is not None
    assert told.items > 5000
    assert effect_to_find(dataclasses.replace(near, margin=0.005), compared, 0.99).effect == 0.005  # these items cannot find it yet
