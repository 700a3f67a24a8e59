import math
import random

import pytest
from scipy import stats

from cft_lab.evaluation.statistics import item_mean, macro_average, paired_difference, seed_sd, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 30), (3, 30), (20, 40), (100, 272), (1319, 1319), (1, 1)])
def test_wilson_agrees_with_scipy(correct: int, n: int) -> None:
    expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
    interval = wilson(correct, n)
    assert interval is not None
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_nothing() -> None:
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="correct=3"):
        wilson(3, 2)


def test_item_mean_agrees_with_scipy() -> None:
    values = [random.Random(1).random() for _ in range(50)]
    estimate = item_mean(values)
    assert estimate.standard_error == pytest.approx(stats.sem(values))
    with pytest.raises(ValueError, match="got 1"):
        item_mean([1.0])


def test_paired_difference_agrees_with_scipy() -> None:
    rng = random.Random(2)
    a = [float(rng.random() < 0.6) for _ in range(200)]
    b = [float(rng.random() < 0.5) for _ in range(200)]
    estimate = paired_difference(a, b)
    assert estimate.mean / estimate.standard_error == pytest.approx(stats.ttest_rel(a, b).statistic)
    with pytest.raises(ValueError, match="200 and 3"):
        paired_difference(a, b[:3])


def test_macro_average_adds_variances() -> None:
    parts = [item_mean([0.0, 1.0, 1.0]), item_mean([0.0, 0.0, 1.0])]
    average = macro_average(parts)
    assert average.mean == pytest.approx(0.5)
    assert average.standard_error == pytest.approx(math.hypot(*(p.standard_error for p in parts)) / 2)


def test_seed_sd_needs_two_seeds() -> None:
    assert seed_sd([0.5]) is None
    assert seed_sd([0.4, 0.6]) == pytest.approx(math.sqrt(0.02))
