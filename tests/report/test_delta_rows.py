"""Delta rows against scipy and statsmodels, from the grades in the store and by other code than the report's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_results import BENCHMARKS, METHODS, config_of, drawn, study_of, sweeps_folder, write_cell
from scipy import optimize, stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from cft_lab.report.build import build_study
from cft_lab.report.tables import AVG, ITEMS, ITEMS_AND_SEEDS, Delta, ReportTable
from cft_lab.results import open_store

ACCURACY = {"base": 0.35, "sft": 0.5, "sft-verified": 0.52, "cft": 0.7}
SHIFT = (0.0, 0.2, -0.2)  # of the seeds 0, 1 and 2


def deltas(tmp_path: Path, seeds: tuple[int, ...]) -> tuple[dict[tuple[str, str], Delta], pd.DataFrame]:
    """The delta rows of a store with these seeds, by label and benchmark, and its items by way of the results API."""
    store = tmp_path / "store"
    for method in METHODS:
        for seed in seeds if method != "base" else (0,):
            config = config_of(method, seed=seed)
            write_cell(store, config, drawn(f"{method}{seed}", ACCURACY[method] + SHIFT[seed]))
    (table,) = build_study(study_of(store, sweeps_folder(tmp_path)), ["mine"]).tables
    assert isinstance(table, ReportTable)
    results = open_store(store)
    items = results.items().merge(results.cells()[["method", "seed"]], left_on="result", right_index=True)
    return {(delta.label, delta.benchmark): delta for delta in table.deltas}, items


def scores(items: pd.DataFrame, method: str, benchmark: str) -> np.ndarray:
    """Scores [items, seeds]."""
    chosen = items[(items["method"] == method) & (items["benchmark"] == benchmark)]
    return chosen.pivot_table(index="item", columns="seed", values="correct", observed=True).to_numpy()


def tango_by_scipy(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The differences that a score test does not reject; the restricted estimate is found by maximising the likelihood."""
    n, b, c = len(first), int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())

    def statistic(difference: float) -> float:
        def loss(rest: float) -> float:
            gain = rest + difference
            same = 1 - rest - gain
            return -(b * np.log(max(gain, 1e-300)) + c * np.log(max(rest, 1e-300)) + (n - b - c) * np.log(max(same, 1e-300)))

        low, high = max(0.0, -difference), (1 - difference) / 2
        rest = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        return float((b - c - n * difference) / np.sqrt(n * (2 * rest + difference - difference**2)))

    observed = (b - c) / n
    low = optimize.brentq(lambda d: statistic(d) - stats.norm.ppf(0.975), -0.999, observed - 1e-9)
    high = optimize.brentq(lambda d: statistic(d) + stats.norm.ppf(0.975), observed + 1e-9, 0.999)
    return low, high


def test_one_run_against_one_rival_is_a_score_interval(tmp_path: Path) -> None:
    found, items = deltas(tmp_path, (0,))
    first, second = (scores(items, method, "lab-basic")[:, 0] for method in ("sft", "base"))
    delta = found["SFT - Base", "lab-basic"]
    assert delta.estimate == pytest.approx(first.mean() - second.mean())
    assert (delta.low, delta.high) == pytest.approx(tango_by_scipy(first, second), abs=1e-5)
    assert (delta.covers, delta.n_items, delta.seeds) == (ITEMS, 60, 1)


def test_in_avg_the_distances_are_added_in_squares(tmp_path: Path) -> None:
    found, items = deltas(tmp_path, (0,))
    means, limits = [], []
    for benchmark in BENCHMARKS:
        first, second = (scores(items, method, benchmark)[:, 0] for method in ("sft", "base"))
        means.append(first.mean() - second.mean())
        limits.append(tango_by_scipy(first, second))
    estimate = np.mean(means)
    low = estimate - np.hypot(*(mean - limit[0] for mean, limit in zip(means, limits, strict=True))) / 2
    high = estimate + np.hypot(*(limit[1] - mean for mean, limit in zip(means, limits, strict=True))) / 2
    delta = found["SFT - Base", AVG]
    assert delta.estimate == pytest.approx(estimate)
    assert (delta.low, delta.high) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_best_rival_is_chosen_anew_in_each_resample(tmp_path: Path, benchmark: str) -> None:
    found, items = deltas(tmp_path, (0,))
    arms = [scores(items, method, benchmark)[:, 0] for method in ("cft", "sft", "sft-verified")]

    def minus_best(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        means = [column.mean(axis=axis) for column in columns]
        return means[0] - np.maximum(means[1], means[2])

    estimate = minus_best(*arms)
    drawn_again = stats.bootstrap(
        arms, minus_best, paired=True, vectorized=True, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    mirrored = (2 * estimate - drawn_again.high, 2 * estimate - drawn_again.low)
    best = max(arms[1:], key=np.mean)
    paired = tango_by_scipy(arms[0], best)
    delta = found["CFT - best SFT", benchmark]
    assert delta.estimate == pytest.approx(float(estimate))
    # a step of the bootstrap is one item of sixty; its limits differ by chance between two sets of resamples
    assert delta.low == pytest.approx(min(drawn_again.low, mirrored[0], paired[0]), abs=1 / 60 + 1e-6)
    assert delta.high == pytest.approx(max(drawn_again.high, mirrored[1], paired[1]), abs=1 / 60 + 1e-6)


def test_several_seeds_widen_the_interval_by_their_pooled_spread(tmp_path: Path) -> None:
    found, items = deltas(tmp_path, (0, 1, 2))
    benchmark = "lab-basic"
    trained = {method: scores(items, method, benchmark) for method in ("sft", "sft-verified", "cft")}
    first, second = trained["sft"].mean(axis=1), scores(items, "base", benchmark)[:, 0]
    paired = stats.ttest_rel(first, second)
    over_items = paired.confidence_interval(0.95)
    n, estimate = len(first), float(first.mean() - second.mean())
    # one-way analysis of runs' means, and two-way of items x seeds in each arm for what is chance over items in them
    runs = pd.DataFrame([(method, mean) for method, block in trained.items() for mean in block.mean(axis=0)], columns=["arm", "y"])
    observed = anova_lm(ols("y ~ C(arm)", runs).fit()).loc["Residual", "mean_sq"]
    rests = []
    for block in trained.values():
        long = pd.DataFrame([(i, s, block[i, s]) for i in range(n) for s in range(3)], columns=["item", "seed", "y"])
        rests.append(anova_lm(ols("y ~ C(item) + C(seed)", long).fit()).loc["Residual", "mean_sq"] / n)
    variance = max(0.0, observed - np.mean(rests)) / 3
    assert variance > 0  # or this test would say nothing
    z = stats.norm.ppf(0.975)
    item_se = (over_items.high - over_items.low) / 2 / z
    both = item_se**2 + variance
    degrees = both**2 / (item_se**4 / (n - 1) + (observed / 3) ** 2 / 6)
    more = stats.t.ppf(0.975, degrees) ** 2 * both - (z * item_se) ** 2
    delta = found["SFT - Base", benchmark]
    assert delta.estimate == pytest.approx(estimate)
    assert delta.low == pytest.approx(estimate - np.sqrt((estimate - over_items.low) ** 2 + more), abs=1e-9)
    assert delta.high == pytest.approx(estimate + np.sqrt((over_items.high - estimate) ** 2 + more), abs=1e-9)
    assert (delta.covers, delta.seeds) == (ITEMS_AND_SEEDS, 3)


def test_the_same_store_gives_the_same_rows(tmp_path: Path) -> None:
    once, _ = deltas(tmp_path, (0, 1))
    again, _ = deltas(tmp_path, (0, 1))
    assert once == again
