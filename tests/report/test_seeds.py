"""Seeds in differences: how often intervals err where nothing differs, and the same numbers by scipy and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from made_trainings import Cells, made
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from cft_lab.evaluation.statistics import wilson
from cft_lab.report.seeds import Compared, shared_spread
from cft_lab.report.tables import ITEMS, ITEMS_AND_SEEDS

ROWS, TEMPERATURES, TRAININGS = ("direct", "single", "two"), ("0.1", "0.3", "0.6"), 3


def table8(rng: np.random.Generator, sd: float, items: int = 300) -> Cells:
    """Three ways of answering at three temperatures by the same trainings, which each suit each way a little more or less."""
    hard, level = rng.uniform(-0.3, 0.3, (2, items)), rng.normal(0, 0.05, TRAININGS)
    suits = rng.normal(0, sd, (len(ROWS), TRAININGS))
    return {
        (row, column): {
            f"t{k}": [(rng.random(items) < 0.5 + level[k] + suits[place, k] + h).astype(float) for h in hard]
            for k in range(TRAININGS)
        }
        for place, row in enumerate(ROWS)
        for column in TEMPERATURES
    }


def averaged(cells: Cells) -> Compared:
    """Single-pass minus direct, both in the mean over temperatures, as the claims of table 8 have it."""
    measures, arms, names = made(cells)
    first, second = ([arms[row, column] for column in TEMPERATURES] for row in ("single", "direct"))
    return measures.compare(first, [second], names, list(arms.values()))


@pytest.mark.parametrize("sd", [0.0, 0.02, 0.04])
def test_cells_averaged_on_the_same_trainings_err_in_a_twentieth(sd: float) -> None:
    rng = np.random.default_rng(11)
    found = [averaged(table8(rng, sd)) for _ in range(300)]
    assert {(one.seeds, one.spread.degrees if one.spread else 0) for one in found} == {(TRAININGS, 4)}
    wrong = sum(not one.low <= 0 <= one.high for one in found)
    assert 0.01 <= wrong / 300 <= 0.09  # 0.05 and three standard errors


@pytest.mark.parametrize("sd", [0.0, 0.04])
def test_single_cells_on_the_same_trainings_err_in_a_twentieth(sd: float) -> None:
    rng, wrong = np.random.default_rng(12), 0
    for _ in range(300):
        measures, arms, names = made(table8(rng, sd))
        found = measures.compare([arms["single", "0.3"]], [[arms["direct", "0.3"]]], names, list(arms.values()))
        wrong += not found.low <= 0 <= found.high
    assert 0 < wrong / 300 <= 0.09


def test_the_shared_spread_is_the_interaction_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    cube = rng.random((3, 4, 8)) + rng.normal(0, 0.3, (3, 4, 1))
    long = pd.DataFrame([(g, k, i, cube[g, k, i]) for g, k, i in np.ndindex(*cube.shape)], columns=["g", "k", "i", "y"])
    means = long.groupby(["g", "k"], as_index=False)["y"].mean()
    observed = anova_lm(ols("y ~ C(g) + C(k)", means).fit()).loc["Residual"]
    rest = anova_lm(ols("y ~ C(g)*C(k) + C(g)*C(i) + C(k)*C(i)", long).fit()).loc["Residual", "mean_sq"]
    found = shared_spread([cube])
    assert (found.observed, found.degrees) == (pytest.approx(observed["mean_sq"]), observed["df"])
    assert found.variance == pytest.approx(observed["mean_sq"] - rest / 8)
    twice = shared_spread([cube, cube[:, :, :5] + 0.2])  # two benchmarks of different length
    both = [cube.mean(axis=2), cube[:, :, :5].mean(axis=2)]
    means["y"] = np.mean(both, axis=0).ravel()
    assert twice.observed == pytest.approx(anova_lm(ols("y ~ C(g) + C(k)", means).fit()).loc["Residual", "mean_sq"])


def test_an_average_on_shared_trainings_agrees_with_another_computation() -> None:
    cells = table8(np.random.default_rng(5), 0.05)
    found = averaged(cells)
    # [benchmarks, rows, trainings, items], the mean over temperatures
    scores = np.array(
        [
            [[np.mean([cells[row, c][f"t{k}"][b] for c in TEMPERATURES], axis=0) for k in range(TRAININGS)] for row in ROWS]
            for b in range(2)
        ]
    )
    gaps = scores[:, 1].mean(axis=1) - scores[:, 0].mean(axis=1)  # [benchmarks, items]
    estimate = gaps.mean()
    halves = [np.ptp(stats.t.interval(0.95, len(gap) - 1, gap.mean(), stats.sem(gap))) / 2 for gap in gaps]
    z = stats.norm.ppf(0.975)
    item_se = np.hypot(*halves) / 2 / z
    means = pd.DataFrame(
        [(r, k, scores[:, r, k].mean()) for r in range(len(ROWS)) for k in range(TRAININGS)], columns=["row", "training", "y"]
    )
    table = anova_lm(ols("y ~ C(row) + C(training)", means).fit())
    observed, degrees = table.loc["Residual", "mean_sq"], table.loc["Residual", "df"]
    rests = []
    for cube in scores:
        rest = cube
        for axis in range(3):
            rest = rest - rest.mean(axis=axis, keepdims=True)
        rests.append((rest**2).sum() / (degrees * (cube.shape[2] - 1)) / cube.shape[2])
    seeds = (observed - np.sum(rests) / 4) * 2 / TRAININGS
    assert seeds > 0  # or this test would say nothing
    both = item_se**2 + seeds
    freedom = both**2 / (item_se**4 / (2 * 300 - 1) + (observed * 2 / TRAININGS) ** 2 / degrees)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(both)
    assert found.estimate == pytest.approx(estimate)
    assert (found.low, found.high) == pytest.approx((estimate - half, estimate + half), abs=1e-9)
    assert (found.covers, found.seeds) == (ITEMS_AND_SEEDS, TRAININGS)


def trained(rng: np.random.Generator, shifts: dict[str, list[float]], items: int = 200) -> Cells:
    """Arms with one training for each shift of their accuracy; those named base are not trained."""
    hard = rng.uniform(-0.3, 0.3, items)
    return {
        (row, ""): {
            None if row == "base" else f"{row}{k}": [(rng.random(items) < 0.5 + shift + hard).astype(float)]
            for k, shift in enumerate(own)
        }
        for row, own in shifts.items()
    }


def compared(cells: Cells, first: list[str], second: list[str]) -> Compared:
    measures, arms, names = made(cells)
    return measures.compare([arms[row, ""] for row in first], [[arms[row, ""] for row in second]], names, list(arms.values()))


def test_cells_of_different_trainings_are_averaged_as_independent_ones() -> None:
    shifts = {row: [0.1, -0.1, 0.0] for row in "abcd"} | {"base": [0.0]}
    cells = trained(np.random.default_rng(1), shifts)
    single, double = compared(cells, ["a"], ["b"]), compared(cells, ["a", "b"], ["c", "d"])
    assert single.spread == double.spread
    assert single.spread is not None
    assert single.spread.degrees == 4 * 2
    assert (single.share, double.share) == (pytest.approx(2 / 3), pytest.approx(1 / 3))  # twice as many trainings on either side
    assert compared(cells, ["a", "b"], ["base"]).share == pytest.approx(1 / 6)
    assert double.seeds == 3


def test_arms_on_the_same_trainings_against_a_base_count_as_one() -> None:
    cells = table8(np.random.default_rng(2), 0.0) | {("base", ""): {None: [np.ones(300), np.zeros(300)]}}
    measures, arms, names = made(cells)
    group = [arms["direct", column] for column in TEMPERATURES]
    found = measures.compare(group, [[arms["base", ""]]], names, list(arms.values()))
    assert found.spread is not None
    assert (found.spread.degrees, found.seeds, found.share) == (2, 3, pytest.approx(1 / 3))
    one = measures.compare(group[:1], [[arms["base", ""]]], names, list(arms.values()))
    assert one.spread is not None
    assert one.spread.degrees == 2  # nine arms, but three trainings


@pytest.mark.parametrize(("others", "covers"), [(1, ITEMS), (2, ITEMS_AND_SEEDS)])
def test_seeds_of_other_arms_only_count_with_four_degrees_of_freedom(others: int, covers: str) -> None:
    shifts = {"a": [0.1], "b": [0.0]} | {f"other{place}": [0.2, -0.2, 0.0] for place in range(others)}
    found = compared(trained(np.random.default_rng(4), shifts), ["a"], ["b"])
    assert found.covers == covers
    assert found.blind_to_seeds == (covers == ITEMS)
    if found.spread:
        assert found.spread.borrowed
        assert found.spread.degrees == 4


def test_arms_that_are_not_trained_have_no_seeds() -> None:
    cells = {(row, ""): {None: [np.arange(50.0) % 2]} for row in ("base", "other")}
    measures, arms, names = made(cells)
    found = measures.compare([arms["base", ""]], [[arms["other", ""]]], names, list(arms.values()))
    assert (found.seeds, found.blind_to_seeds) == (0, False)


@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_no_limit_of_wilson_passes_the_estimate(confidence: float) -> None:
    for n in range(1, 400):
        for correct in (0, n):
            low, high = wilson(correct, n, confidence) or (2.0, -1.0)
            assert 0 <= low <= correct / n <= high <= 1
            assert correct / n in (low, high)
