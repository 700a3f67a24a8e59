"""Every formula against a value that was worked out another way: scipy, a published example, or an enumeration."""

import itertools
import math
import random
import re

import numpy as np
import pytest
from scipy import optimize, stats

from cft_lab.config import PROJECT_ROOT
from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.evaluation.comparisons import (
    bootstrap_difference,
    bootstrap_minus_best,
    compare,
    describe,
    detectable_difference,
    detectable_paired,
    detectable_unpaired,
    holm,
    items_needed_paired,
    items_needed_unpaired,
    mcnemar,
)
from cft_lab.evaluation.sample_scores import majority_score, pass_at_k, sample_scores
from cft_lab.evaluation.statistics import (
    Estimate,
    agresti_coull,
    combine,
    effective_items,
    item_interval,
    item_mean,
    macro_difference_interval,
    macro_interval,
    paired_difference,
    paired_interval,
    seed_sd,
    tango,
    variance_components,
    wilson,
    z_value,
)
from cft_lab.records import Grade, Outcome


def scores(correct: int, n: int) -> list[float]:
    return [1.0] * correct + [0.0] * (n - correct)


def draws(seed: int, n: int, p: float) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < p) for _ in range(n)]


# --- one cell


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


@pytest.mark.parametrize(("correct", "n"), [(0, 30), (3, 30), (20, 40), (272, 272)])
def test_agresti_coull_is_centred_on_wilson_and_holds_it(correct: int, n: int) -> None:
    """Both are known properties of the interval; scipy gives Wilson's."""
    inner = stats.binomtest(correct, n).proportion_ci(method="wilson")
    low, high = agresti_coull(correct, n)
    assert (low + high) / 2 == pytest.approx((inner.low + inner.high) / 2)
    assert low <= inner.low + 1e-12
    assert high >= inner.high - 1e-12


def test_item_mean_agrees_with_scipy() -> None:
    values = [random.Random(1).random() for _ in range(50)]
    estimate = item_mean(values)
    assert estimate.standard_error == pytest.approx(stats.sem(values))
    with pytest.raises(ValueError, match="got 1"):
        item_mean([1.0])


def test_item_interval_of_single_samples_is_wilsons() -> None:
    assert item_interval(scores(3, 30)) == wilson(3, 30)
    assert item_interval(scores(30, 30)) == wilson(30, 30)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_single_item_tells_little_and_stops_nothing(value: float) -> None:
    """Requests of all other items may have been refused."""
    assert item_interval([value]) == wilson(value, 1)
    low, high = macro_interval([[value], scores(10, 20)])
    assert low < (value + 0.5) / 2 < high
    found = compare([[value]], [[0.0]])
    assert (found.items, found.difference) == (1, value)
    assert found.interval[1] - found.interval[0] > 0.9
    assert not found.separated


def test_copies_of_a_sample_tell_nothing_new_and_independent_ones_do() -> None:
    """Eight identical samples of an item are worth one; eight independent ones of equally hard items are worth about eight."""
    single = draws(3, 200, 0.4)
    assert effective_items(single) == 200
    rng = random.Random(4)
    independent = [sum(rng.random() < 0.4 for _ in range(8)) / 8 for _ in range(200)]
    assert effective_items(independent) == pytest.approx(1600, rel=0.25)
    low, high = item_interval(independent)
    wide = item_interval(single)
    assert (high - low) < 0.5 * (wide[1] - wide[0])
    assert low < sum(independent) / 200 < high


# --- differences


def test_paired_difference_agrees_with_scipy() -> None:
    a, b = draws(2, 200, 0.6), draws(5, 200, 0.5)
    estimate = paired_difference(a, b)
    assert estimate.mean / estimate.standard_error == pytest.approx(stats.ttest_rel(a, b).statistic)
    with pytest.raises(ValueError, match="200 and 3"):
        paired_difference(a, b[:3])


def test_tango_gives_the_published_interval() -> None:
    """Airways before and after transplantation, 1 and 7 of 21: Fagerland et al., BMC Med. Res. Meth. 14 (2014) 119."""
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("b", "c", "n"), [(5, 2, 30), (0, 4, 30), (12, 12, 40), (40, 22, 272)])
def test_tango_limits_are_where_the_score_test_turns(b: int, c: int, n: int) -> None:
    """The restricted likelihood is maximised numerically here, and by its closed form in the library."""
    for limit, sign in zip(tango(b, c, n), (1, -1), strict=True):

        def loss(second_only: float, difference: float = limit) -> float:
            cells = np.array([second_only + difference, second_only, 1 - 2 * second_only - difference])
            counts = np.array([b, c, n - b - c])
            return -float(np.sum(counts * np.log(np.maximum(cells, 1e-300))))

        best = optimize.minimize_scalar(
            loss, bounds=(max(0, -limit), (1 - limit) / 2), method="bounded", options={"xatol": 1e-12}
        ).x
        statistic = (b - c - n * limit) / math.sqrt(n * (2 * best + limit - limit**2))
        assert statistic == pytest.approx(sign * stats.norm.ppf(0.975), abs=2e-3)


def test_tango_at_its_edges() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    assert tango(0, 0, 30) == pytest.approx((-z2 / (30 + z2), z2 / (30 + z2)))
    assert tango(30, 0, 30)[1] == 1.0
    assert tango(0, 30, 30)[0] == -1.0
    assert tango(7, 2, 40) == pytest.approx(tuple(-limit for limit in reversed(tango(2, 7, 40))), abs=1e-9)
    with pytest.raises(ValueError, match="first_only=20"):
        tango(20, 20, 30)


def test_paired_interval_uses_the_scores_form() -> None:
    a, b = draws(6, 40, 0.6), draws(7, 40, 0.5)
    pairs = list(zip(a, b, strict=True))
    assert paired_interval(a, b) == tango(pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0)), 40)
    rng = random.Random(8)
    c = [rng.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(40)]
    d = [rng.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(40)]
    expected = stats.ttest_rel(c, d).confidence_interval()
    assert paired_interval(c, d) == pytest.approx((expected.low, expected.high))
    half = paired_interval([0.5] * 30, [0.25] * 30)
    assert half[0] < 0.25 < half[1], "no variance is no certainty"


def test_bonett_price_where_all_differences_are_the_same() -> None:
    """On 21 items of which none differs: one item added for and one against, then the normal interval."""
    low, high = paired_interval([0.5] * 21, [0.5] * 21)
    expected = stats.norm.ppf(0.975) * math.sqrt((2 / 23) / 23)
    assert (low, high) == pytest.approx((-expected, expected))


# --- averages


def test_combine_gives_newcombes_published_interval() -> None:
    """56/70 - 48/80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10). The mean of p1 and 1-p2 is (p1 - p2 + 1) / 2."""
    first, second = wilson(56, 70), wilson(32, 80)
    assert first is not None
    assert second is not None
    low, high = combine([56 / 70, 32 / 80], [first, second])
    assert (2 * low - 1, 2 * high - 1) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_combine_of_one_is_itself_and_of_symmetric_ones_is_the_normal_rule() -> None:
    assert combine([0.2], [(0.1, 0.5)]) == pytest.approx((0.1, 0.5))
    estimates = [Estimate(0.4, 0.05), Estimate(0.6, 0.02), Estimate(0.1, 0.01)]
    half = z_value() * math.hypot(*(e.standard_error for e in estimates)) / 3
    expected = (1.1 / 3 - half, 1.1 / 3 + half)
    assert combine([e.mean for e in estimates], [e.interval for e in estimates]) == pytest.approx(expected)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.97])
def test_macro_interval_of_aime_and_amc_covers_the_truth(p: float) -> None:
    """Exact: every outcome of 30 and 40 items with its probability."""
    covered = 0.0
    aime, amc = (stats.binom(n, p).pmf(range(n + 1)) for n in (30, 40))
    for i, j in itertools.product(range(31), range(41)):
        weight = aime[i] * amc[j]
        if weight > 1e-9:
            low, high = macro_interval([scores(i, 30), scores(j, 40)])
            covered += weight * (low <= p <= high)
    assert 0.94 <= covered <= 0.99


def test_macro_interval_stays_within_bounds() -> None:
    assert macro_interval([scores(0, 30), scores(0, 40)])[0] == 0.0
    assert macro_interval([scores(30, 30), scores(40, 40)])[1] == 1.0


def test_macro_difference_of_one_benchmark_is_its_paired_interval() -> None:
    a, b = draws(6, 40, 0.6), draws(7, 40, 0.5)
    assert macro_difference_interval([a], [b]) == pytest.approx(paired_interval(a, b))
    two = macro_difference_interval([a, a], [b, b])
    assert two[1] - two[0] == pytest.approx((paired_interval(a, b)[1] - paired_interval(a, b)[0]) / math.sqrt(2))
    with pytest.raises(ValueError, match="got 1 and 2"):
        macro_difference_interval([a], [b, b])


# --- seeds


def test_seed_sd_needs_two_seeds() -> None:
    assert seed_sd([0.5]) is None
    assert seed_sd([0.4, 0.6]) == pytest.approx(math.sqrt(0.02))


def test_variance_components_agree_with_least_squares() -> None:
    """Sums of squares from nested linear models, fitted by numpy."""
    rng = np.random.default_rng(9)
    table = (rng.random((3, 40)) < 0.2 + 0.6 * rng.random(40)).astype(float)
    seeds, items = table.shape
    one = np.ones((table.size, 1))
    of_seed = np.kron(np.eye(seeds), np.ones((items, 1)))
    of_item = np.kron(np.ones((seeds, 1)), np.eye(items))

    def residual(*columns: np.ndarray) -> float:
        design = np.hstack([one, *columns])
        fitted = design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
        return float(((table.ravel() - fitted) ** 2).sum())

    rest = residual(of_seed, of_item) / ((seeds - 1) * (items - 1))
    seed = (residual() - residual(of_seed)) / (seeds - 1)
    item = (residual() - residual(of_item)) / (items - 1)
    found = variance_components(table.tolist())
    assert found.rest_sd**2 == pytest.approx(rest)
    assert found.seed_sd**2 == pytest.approx(max(0, (seed - rest) / items))
    assert found.item_sd**2 == pytest.approx(max(0, (item - rest) / seeds))
    assert found.item_se == pytest.approx(stats.sem(table.mean(axis=0)))
    assert found.seed_se == pytest.approx(stats.sem(table.mean(axis=1)))
    assert found.both_se >= max(found.item_se, found.seed_se)
    with pytest.raises(ValueError, match="2 seeds"):
        variance_components([[1.0, 0.0]])


def test_variance_components_find_what_was_put_in() -> None:
    """Scores made of an item part (sd 3), a seed part (sd 0.5) and noise (sd 1)."""
    rng = np.random.default_rng(10)
    table = 3 * rng.normal(size=(1, 400)) + 0.5 * rng.normal(size=(200, 1)) + rng.normal(size=(200, 400))
    found = variance_components(table.tolist())
    assert (found.item_sd, found.seed_sd, found.rest_sd) == pytest.approx((3, 0.5, 1), rel=0.15)


# --- tests and bootstrap


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 3), (1, 7), (10, 2), (400, 300)])
def test_mcnemar_agrees_with_scipy(b: int, c: int) -> None:
    first, second = scores(b, b + c) + [1.0] * 5, [1.0 - value for value in scores(b, b + c)] + [1.0] * 5
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    with pytest.raises(ValueError, match="0 and 1"):
        mcnemar([0.5], [1.0])


def test_holm_is_closed_bonferroni_testing() -> None:
    """A hypothesis falls if every intersection that holds it falls: all subsets are tried here."""
    rng = random.Random(11)
    for _ in range(20):
        p = {name: rng.random() ** 3 for name in "abcde"}
        adjusted = holm(p)
        for name in p:
            subsets = [s for size in range(1, 6) for s in itertools.combinations(p, size) if name in s]
            assert adjusted[name] == pytest.approx(max(min(1.0, len(s) * min(p[other] for other in s)) for s in subsets))
        assert list(adjusted) == list(p)


def test_bootstrap_difference_agrees_with_scipy() -> None:
    a, b = draws(12, 150, 0.6), draws(13, 150, 0.5)
    ours = bootstrap_difference([a], [b], seed=0, resamples=20_000)
    theirs = stats.bootstrap(
        ([x - y for x, y in zip(a, b, strict=True)],),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.estimate == pytest.approx(np.mean(a) - np.mean(b))
    assert ours.interval == pytest.approx((theirs.low, theirs.high), abs=0.008)
    assert bootstrap_difference([a], [b], seed=0, resamples=20_000) == ours, "same input, same interval"
    assert bootstrap_difference([a], [b], seed=1, resamples=20_000).interval != ours.interval


def test_bootstrap_draws_whole_items_within_each_benchmark() -> None:
    """Exact: all 4^4 x 3^3 resamples of two small benchmarks, with the best rival chosen anew in each."""
    first = [[1.0, 0.0, 0.5, 1.0], [0.0, 1.0, 0.0]]
    rivals = [[[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.5]]]
    differences = []
    for left in itertools.product(range(4), repeat=4):
        for right in itertools.product(range(3), repeat=3):
            means = [(sum(arm[0][i] for i in left) / 4 + sum(arm[1][i] for i in right) / 3) / 2 for arm in (first, *rivals)]
            differences.append(means[0] - max(means[1:]))
    found = bootstrap_minus_best(first, rivals, seed=3, resamples=100_000)
    assert found.estimate == pytest.approx((2.5 / 4 + 1 / 3) / 2 - max((1.5 / 4 + 1 / 3) / 2, (1 / 4 + 1.5 / 3) / 2))
    low, high = np.quantile(differences, [0.025, 0.975])
    outer = min(low, 2 * found.estimate - high), max(high, 2 * found.estimate - low)
    assert found.interval == pytest.approx(outer, abs=0.03)
    alone = bootstrap_difference(first, rivals[0], seed=3, resamples=100_000)
    assert alone.estimate == pytest.approx((2.5 / 4 + 1 / 3) / 2 - (1.5 / 4 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="same items"):
        bootstrap_minus_best(first, [[[0.0], [1.0]]], seed=0)


def test_minus_best_claims_less_than_minus_any_one_rival() -> None:
    """Two rivals as good as the first: the best of two lucky draws is better than either."""
    first, *rivals = ([draws(seed, 60, 0.5)] for seed in (20, 21, 22))
    both = bootstrap_minus_best(first, rivals, seed=0)
    for rival in rivals:
        single = bootstrap_difference(first, rival, seed=0)
        assert both.estimate <= single.estimate
        assert both.interval[0] <= single.interval[0] + 1e-9


# --- power


def test_unpaired_sample_size_is_that_of_rs_power_prop_test() -> None:
    """power.prop.test(p1 = .50, p2 = .75, power = .90) gives n = 76.7, and n = 50 gives power 0.740 (R's own examples)."""
    assert items_needed_unpaired(0.25, 0.5, power=0.90) == 77
    assert items_needed_unpaired(0.25, 0.5, power=0.740) == 50
    assert detectable_unpaired(77, 0.5, power=0.90) == pytest.approx(0.25, abs=0.001)
    assert detectable_unpaired(77, 0.6, power=0.9) == detectable_unpaired(77, 0.4, power=0.9), "towards one half, either way"
    assert detectable_unpaired(3, 0.5) is None
    with pytest.raises(ValueError, match="difference=0.6"):
        items_needed_unpaired(0.6, 0.5)


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (400, 0.2), (1319, 0.1)])
def test_detectable_paired_difference_is_found_four_times_in_five(n: int, discordant: float) -> None:
    """Power of McNemar's test at that difference, summed over every possible outcome."""
    difference = detectable_paired(n, discordant)
    assert difference is not None
    share = (discordant + difference) / (2 * discordant)
    power = 0.0
    for total in range(n + 1):
        weight = stats.binom(n, discordant).pmf(total)
        if weight > 1e-12 and total:
            wins = np.arange(total + 1)
            rejected = np.abs(2 * wins - total) / math.sqrt(total) > stats.norm.ppf(0.975)
            power += weight * stats.binom(total, share).pmf(wins)[rejected].sum()
    assert power == pytest.approx(0.80, abs=0.02)
    assert items_needed_paired(difference, discordant) in (n, n + 1)


def test_small_benchmarks_detect_little() -> None:
    assert detectable_paired(30, 0.05) is None, "not even if every disagreement went one way"
    found = detectable_paired(30, 0.3)
    assert found is not None
    assert found > 0.2
    with pytest.raises(ValueError, match="discordant=0.1"):
        items_needed_paired(0.2, 0.1)


def test_the_documented_differences_are_those_of_the_functions() -> None:
    rows = re.findall(
        r"^\| ([a-z0-9-]+) \| (\d+) \| ([\d.]+) \((\d+) %\) \| ([\d.]+) \|$",
        (PROJECT_ROOT / "docs/statistics.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 6
    for name, n, paired, discordant, unpaired in rows:
        assert BENCHMARKS[name].size == int(n)
        assert f"{100 * (detectable_paired(int(n), int(discordant) / 100) or 0):.1f}" == paired
        assert f"{100 * (detectable_unpaired(int(n), 0.4) or 0):.1f}" == unpaired
    assert items_needed_paired(0.05, 0.3) == 940


def test_detectable_difference_is_2_8_standard_errors() -> None:
    assert detectable_difference(1.0) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))


def test_wording_follows_from_the_interval() -> None:
    a, b = scores(12, 30), scores(10, 30)
    small = compare([a], [b])
    assert not small.separated
    told = describe(small, "cft", "sft")
    assert told.startswith("30 items cannot separate cft and sft: the difference is +6.7 points")
    assert f"a true difference under {100 * small.detectable:.1f} points would be missed" in told
    many = compare([scores(800, 1319)], [scores(700, 1319)])
    assert many.separated
    assert describe(many, "cft", "sft").startswith("cft is 7.6 points above sft [")
    assert describe(compare([scores(700, 1319)], [scores(800, 1319)]), "cft", "sft").startswith("cft is 7.6 points below sft [")
    both = compare([a, scores(800, 1319)], [b, scores(700, 1319)])
    assert "1,349 items of 2 benchmarks" in describe(both, "cft", "sft")
    assert both.difference == pytest.approx((2 / 30 + 100 / 1319) / 2)


# --- several samples of an item


def grade(outcome: Outcome, extracted: str | None = None) -> Grade:
    return Grade("p", outcome, extracted)


@pytest.mark.parametrize(("n", "correct", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (4, 1, 4)])
def test_pass_at_k_counts_subsets(n: int, correct: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="k=6"):
        pass_at_k(5, 2, 6)


@pytest.mark.parametrize(
    ("samples", "score"),
    [
        ([grade(Outcome.CORRECT, "1/2"), grade(Outcome.CORRECT, "0.5"), grade(Outcome.WRONG, "3"), grade(Outcome.WRONG, "4")], 1.0),
        ([grade(Outcome.CORRECT, "1"), grade(Outcome.WRONG, "3"), grade(Outcome.WRONG, "3")], 0.0),
        ([grade(Outcome.CORRECT, "1"), grade(Outcome.WRONG, "3"), grade(Outcome.WRONG, "4")], 1 / 3),
        ([grade(Outcome.CORRECT, "1"), grade(Outcome.UNPARSED), grade(Outcome.TRUNCATED)], 1.0),
        ([grade(Outcome.UNPARSED), grade(Outcome.TRUNCATED)], 0.0),
    ],
)
def test_majority_score(samples: list[Grade], score: float) -> None:
    assert majority_score(samples) == pytest.approx(score)


def test_sample_scores_leave_out_what_was_not_measured() -> None:
    right, wrong, error = grade(Outcome.CORRECT, "1"), grade(Outcome.WRONG, "2"), grade(Outcome.ERROR)
    found = sample_scores({"a": [right, wrong, wrong, right], "b": [right, error, right, right], "c": [wrong] * 4}, k=2)
    assert found.items == ("a", "c")
    assert found.unmeasured == ("b",)
    assert found.average == (0.5, 0.0)
    assert found.majority == (0.5, 0.0)
    assert found.passed == pytest.approx((1 - 1 / 6, 0.0))
    with pytest.raises(ValueError, match="k=5 needs 5 samples"):
        sample_scores({"a": [right] * 4}, k=5)
    with pytest.raises(ValueError, match="not measured"):
        majority_score([error])


@pytest.mark.parametrize("share", [0.2, 1 / 3, 0.7])
def test_equal_shares_do_not_make_an_interval_without_width(share: float) -> None:
    for n in range(2, 60):
        low, high = item_interval([share] * n)
        assert high - low > 0.1, n
        low, high = paired_interval([share] * n, [share / 2] * n)
        assert high - low > 0.01, n
