"""The shared bootstrap gives what the bootstrap of one comparison gives."""

import numpy as np
import pytest

from cft_lab.evaluation.comparisons import bootstrap_difference, bootstrap_minus_best
from cft_lab.evaluation.resampling import Resampler, minus_best


def arms(items: int = 300, several: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 0.2, items)
    return [np.mean([rng.random(items) < p + hard for _ in range(3 if several else 1)], axis=0) for p in (0.6, 0.5, 0.52, 0.51)]


@pytest.mark.parametrize("several", [False, True])
def test_it_agrees_with_the_bootstrap_of_one_comparison(several: bool) -> None:
    found = arms(several=several)
    resampler = Resampler(1)
    means = [resampler.means("b", arm) for arm in found]
    estimate = found[0].mean() - max(arm.mean() for arm in found[1:])
    lists = [[arm.tolist()] for arm in found]
    expected = bootstrap_minus_best(lists[0], lists[1:], seed=2)
    assert estimate == pytest.approx(expected.estimate)
    assert minus_best(means[0], means[1:], estimate) == pytest.approx(expected.interval, abs=0.006)
    expected = bootstrap_difference(lists[0], lists[1], seed=2)
    assert minus_best(means[0], means[1:2], estimate) == pytest.approx(expected.interval, abs=0.006)


def test_all_arms_of_a_benchmark_see_the_same_items_and_benchmarks_see_different_ones() -> None:
    resampler = Resampler(1, resamples=500)
    scores = arms()[0]
    assert np.allclose(resampler.means("b", scores), 1 - resampler.means("b", 1 - scores))
    assert abs(np.corrcoef(resampler.means("b", scores), resampler.means("c", scores))[0, 1]) < 0.2
    assert np.array_equal(Resampler(1, 500).means("b", scores), resampler.means("b", scores))
