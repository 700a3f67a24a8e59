"""How often the 95 % intervals of cft_lab.evaluation cover the truth: exact sums where possible, else simulation with a fixed seed.

python benchmarks/coverage.py      (about two minutes on one core; exit code 1 if a row with a bound breaks it)

Each row is a grid of truths; its mean must lie within 1.5 points of 95 %, and its minimum says how bad the worst truth is. Rows
with "-" have no bound: other methods, to compare with, and truths at which no interval from so few items comes close.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cft_lab.evaluation.comparisons import bootstrap_difference, bootstrap_minus_best, resampled_means
from cft_lab.evaluation.statistics import (
    Estimate,
    Interval,
    agresti_coull,
    combine,
    item_interval,
    item_mean,
    paired_interval,
    tango,
    wilson,
    z_value,
)
from cft_lab.published import published_values
from cft_lab.report.seeds import Compared, independent_spread, shared_spread, with_seeds

Cell = Sequence[Sequence[float]]

SEED = 0
BOUND = 0.015
GRID = [round(0.01 * step, 2) for step in range(1, 100)]
BELOW_GRID = [round(0.0001 * step, 4) for step in range(1, 100)]
TENTHS = [round(0.1 * step, 1) for step in range(1, 10)]
MATH6 = {"math": 5000, "minerva-math": 272, "gsm8k": 1319, "olympiadbench": 675, "aime24": 30, "amc23": 40}


@dataclass(frozen=True)
class Row:
    """One line of the table: coverage by truth."""

    what: str
    method: str
    how: str
    coverage: dict[str, float]
    bound: bool = True

    @property
    def mean(self) -> float:
        """Mean coverage over the truths."""
        return float(np.mean(list(self.coverage.values())))

    def text(self) -> str:
        """The row in Markdown."""
        worst = min(self.coverage, key=lambda truth: self.coverage[truth])
        kept = "-" if not self.bound else "yes" if abs(self.mean - 0.95) <= BOUND else "NO"
        return (
            f"| {self.what} | {self.method} | {self.how} | {len(self.coverage)} | {100 * self.mean:.2f} | "
            f"{100 * self.coverage[worst]:.1f} at {worst} | {kept} |"
        )


def single(n: int) -> Iterable[Row]:
    """One benchmark: exact over all outcomes."""
    counts = np.arange(n + 1)
    limits = np.array([wilson(int(x), n) for x in counts])
    means = [item_mean([1.0] * int(x) + [0.0] * int(n - x)) for x in counts]
    normal = np.array([estimate.interval for estimate in means])
    for what, grid, name, bounds in (
        ("accuracy", GRID, "Wilson", limits),
        ("accuracy", GRID, "normal", normal),
        ("accuracy under 1 %", BELOW_GRID, "Wilson", limits),
    ):
        weights = {p: stats.binom(n, p).pmf(counts) for p in grid}
        covered = {f"p={p}": float(w[(bounds[:, 0] <= p) & (p <= bounds[:, 1])].sum()) for p, w in weights.items()}
        yield Row(f"{what}, n={n}", name, "exact", covered, bound=what == "accuracy" and name == "Wilson")


@functools.cache
def tango_limits(b: int, c: int, n: int) -> Interval:
    """`tango`, using its symmetry to halve the work."""
    if b < c:
        low, high = tango_limits(c, b, n)
        return -high, -low
    return tango(b, c, n)


def pairs_of(accuracies: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Name -> shares of items that only the first and only the second solves, for accuracies and correlations of 0, 0.3, 0.6."""
    found = {}
    for p, q, phi in itertools.product(accuracies, accuracies, (0.0, 0.3, 0.6)):
        both = p * q + phi * np.sqrt(p * (1 - p) * q * (1 - q))
        if max(0.0, p + q - 1) <= both <= min(p, q):
            found[f"p={p}, {q}, phi={phi}"] = (p - both, q - both)
    return found


RARE = {f"only one solves {b:.0%}, {c:.0%}": (b, c) for b, c in ((0.0, 0.01), (0.01, 0.01), (0.02, 0.01), (0.02, 0.02))}


def paired_exact(n: int) -> Iterable[Row]:
    """Two cells on the same items: exact over all numbers of items that only one solves."""
    b, c = (axis.ravel() for axis in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    inside = b + c <= n
    b, c = b[inside], c[inside]
    limits = np.array([tango_limits(int(i), int(j), n) for i, j in zip(b, c, strict=True)])
    for what, truths in (("difference", pairs_of([round(0.05 * s, 2) for s in range(1, 20)])), ("difference, rare", RARE)):
        covered = {}
        for name, (p, q) in truths.items():
            weights = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [p, q, 1 - p - q])
            covered[name] = float(weights[(limits[:, 0] <= p - q + 1e-9) & (p - q - 1e-9 <= limits[:, 1])].sum())
        yield Row(f"{what}, n={n}", "Tango", "exact", covered, bound=what == "difference")


def simulated(draws: int, truth: float, interval: Callable[[], Interval]) -> float:
    """Share of simulated intervals that cover the truth."""
    found = [interval() for _ in range(draws)]
    return sum(low <= truth + 1e-9 and truth - 1e-9 <= high for low, high in found) / draws


def paired_simulated(n: int, draws: int) -> Iterable[Row]:
    """As `paired_exact`, for more items than can be summed over."""
    rng = np.random.default_rng(SEED)

    def one(p: float, q: float) -> Interval:
        b, c, _ = rng.multinomial(n, [p, q, 1 - p - q])
        return tango_limits(int(b), int(c), n)

    truths = pairs_of([0.1, 0.3, 0.5, 0.7, 0.9])
    covered = {name: simulated(draws, p - q, lambda p=p, q=q: one(p, q)) for name, (p, q) in truths.items()}
    yield Row(f"difference, n={n}", "Tango", f"{draws:,} draws", covered)


def macro(what: str, sizes: Sequence[int], truths: dict[str, Sequence[float]], draws: int, bound: bool = True) -> Iterable[Row]:
    """The plain mean over benchmarks, by three methods on the same draws. The first is what `macro_interval` does."""
    rng = np.random.default_rng(SEED)
    covered: dict[str, dict[str, float]] = {"Agresti-Coull, combined": {}, "Wilson, combined": {}, "normal": {}}
    for name, accuracies in truths.items():
        truth = float(np.mean(accuracies))
        hits = dict.fromkeys(covered, 0)
        for counts in rng.binomial(sizes, accuracies, size=(draws, len(sizes))):
            shares = [x / n for x, n in zip(counts, sizes, strict=True)]
            outcomes = list(zip(map(int, counts), sizes, strict=True))
            found = {
                "Agresti-Coull, combined": combine(shares, [agresti_coull(x, n) for x, n in outcomes]),
                "Wilson, combined": combine(shares, [wilson(x, n) or (0.0, 1.0) for x, n in outcomes]),
                "normal": normal_interval([binary_mean(x, n) for x, n in outcomes]),
            }
            for method, (low, high) in found.items():
                hits[method] += low <= truth <= high
        for method, count in hits.items():
            covered[method][name] = count / draws
    for method, values in covered.items():
        yield Row(what, method, f"{draws:,} draws", values, bound=bound and method.startswith("Agresti"))


def normal_interval(parts: Sequence[Estimate]) -> Interval:
    """The interval of the plain mean by the normal approximation: variances add up."""
    error = math.hypot(*(part.standard_error for part in parts)) / len(parts)
    return Estimate(float(np.mean([part.mean for part in parts])), error).interval


@functools.cache
def binary_mean(correct: int, n: int):  # type: ignore[no-untyped-def]
    """`item_mean` of scores of 0 and 1."""
    return item_mean([1.0] * correct + [0.0] * (n - correct))


def macro_difference(what: str, sizes: Sequence[int], draws: int) -> Iterable[Row]:
    """The paired difference of two plain means: what `macro_difference_interval` does, all benchmarks with the same truth."""
    rng = np.random.default_rng(SEED)

    def one(p: float, q: float) -> Interval:
        counts = [rng.multinomial(n, [p, q, 1 - p - q]) for n in sizes]
        shares = [(b - c) / n for (b, c, _), n in zip(counts, sizes, strict=True)]
        return combine(shares, [tango_limits(int(b), int(c), n) for (b, c, _), n in zip(counts, sizes, strict=True)])

    for label, truths in ((what, pairs_of([0.1, 0.3, 0.5, 0.7, 0.9])), (f"{what}, rare", RARE)):
        covered = {name: simulated(draws, p - q, lambda p=p, q=q: one(p, q)) for name, (p, q) in truths.items()}
        yield Row(label, "Tango, combined", f"{draws:,} draws", covered, bound=label == what)


def several_samples(n: int, k: int, draws: int) -> Iterable[Row]:
    """k samples an item, items of differing difficulty (beta distributed, a quarter to nearly all solvable): items are the unit."""
    rng = np.random.default_rng(SEED)
    shapes = {f"beta({a}, {b})": (a, b) for a, b in ((0.5, 4.5), (0.5, 1.5), (1, 1), (0.5, 0.5), (3, 1), (5, 5))}

    def scores(a: float, b: float, gain: float = 0.0) -> tuple[list[float], list[float]]:
        hard = rng.beta(a, b, size=n)
        first, second = rng.binomial(k, hard) / k, rng.binomial(k, hard + gain * (1 - hard)) / k
        return list(first), list(second)

    covered = {
        name: simulated(draws, a / (a + b), lambda a=a, b=b: item_interval(scores(a, b)[0])) for name, (a, b) in shapes.items()
    }
    yield Row(f"accuracy, n={n}, k={k}", "Wilson, effective n", f"{draws:,} draws", covered)
    naive = {}
    for name, (a, b) in shapes.items():
        naive[name] = simulated(draws, a / (a + b), lambda a=a, b=b: wilson(round(k * sum(scores(a, b)[0])), n * k) or (0.0, 1.0))
    yield Row(f"accuracy, n={n}, k={k}", "Wilson, samples as items", f"{draws:,} draws", naive, bound=False)
    covered = {}
    for (name, (a, b)), gain in itertools.product(shapes.items(), (0.0, 0.2)):
        truth = -gain * b / (a + b)
        covered[f"{name}, gain {gain}"] = simulated(draws, truth, lambda a=a, b=b, g=gain: paired_interval(*scores(a, b, g)))
    yield Row(f"difference, n={n}, k={k}", "Student on items", f"{draws:,} draws", covered)


BEST_OF = (
    (0.5, 0.5, 0.5, 0.5),
    (0.6, 0.5, 0.5, 0.5),
    (0.6, 0.6, 0.4, 0.4),
    (0.5, 0.6, 0.5, 0.4),
    (0.7, 0.5, 0.4, 0.3),
    (0.7, 0.55, 0.5, 0.5),
)


def bootstraps(n: int, draws: int) -> Iterable[Row]:
    """Percentile bootstrap of a difference, and of one cell minus the best of three that are as good or worse."""
    rng = np.random.default_rng(SEED)

    def cells(*accuracies: float) -> list[Cell]:
        hard = rng.random(n)
        return [[list((rng.random(n) < np.clip(p + 0.6 * (hard - 0.5), 0, 1)).astype(float))] for p in accuracies]

    covered = {}
    for p, q in ((0.5, 0.5), (0.6, 0.5), (0.7, 0.4), (0.4, 0.6)):
        covered[f"p={p}, {q}"] = simulated(
            draws, p - q, lambda p=p, q=q: bootstrap_difference(*cells(p, q), seed=SEED, resamples=600).interval
        )
    yield Row(f"difference, n={n}", "bootstrap", f"{draws:,} draws", covered)

    def outer(first: Cell, others: Sequence[Cell]) -> Interval:
        return bootstrap_minus_best(first, others, seed=SEED, resamples=600).interval

    def percentile(first: Cell, others: Sequence[Cell]) -> Interval:
        means = resampled_means([first, *others], SEED, 600)
        low, high = np.quantile(means[:, 0] - means[:, 1:].max(axis=1), [0.025, 0.975])
        return float(low), float(high)

    def once(first: Cell, others: Sequence[Cell]) -> Interval:
        return bootstrap_difference(first, max(others, key=lambda cell: sum(cell[0])), seed=SEED, resamples=600).interval

    for name, method in (("outer limits", outer), ("percentile", percentile), ("best chosen once", once)):
        covered = {}
        for p, *rivals in BEST_OF:

            def one(p: float = p, rivals: Sequence[float] = rivals, method: Callable[..., Interval] = method) -> Interval:
                first, *others = cells(p, *rivals)
                return method(first, others)

            covered[f"p={p} against {rivals}"] = simulated(draws, p - max(rivals), one)
        yield Row(f"minus the best of three, n={n}", f"bootstrap, {name}", f"{draws:,} draws", covered, bound=method is outer)


def several_seeds(n: int, draws: int) -> Iterable[Row]:
    """Three seeds: four arms trained apart, and three ways of answering on the same trainings, as a report compares two of them."""
    rng = np.random.default_rng(SEED)

    def scores(arms: int, sd: float, gap: float, level: float) -> np.ndarray:
        """[arms, seeds, items]; the first arm is better by `gap`, trainings vary by `sd` and, in all arms alike, by `level`."""
        shifts = rng.normal(0, sd, (arms, 3)) + rng.normal(0, level, 3) + gap * (np.arange(arms) == 0)[:, None]
        return (rng.random((arms, 3, n)) < 0.45 + shifts[:, :, None] + rng.uniform(-0.25, 0.25, n)).astype(float)

    def over_items(cube: np.ndarray) -> Compared:
        first, second = cube[0].mean(axis=0), cube[1].mean(axis=0)
        low, high = paired_interval(first.tolist(), second.tolist())
        return Compared(float((first - second).mean()), low, high, (high - low) / (2 * z_value()), n - 1, n, 3)

    for what, arms, level in (("four arms trained apart", 4, 0.0), ("three groups on the same trainings", 3, 0.05)):
        covered: dict[str, dict[str, float]] = {"items and seeds": {}, "items only": {}}
        for sd, gap in itertools.product((0.0, 0.01, 0.02, 0.04), (0.0, 0.1)):
            hits = dict.fromkeys(covered, 0)
            for _ in range(draws):
                cube = scores(arms, sd, gap, level)
                plain = over_items(cube)
                spread = shared_spread([cube]) if level else independent_spread([[[arm]] for arm in cube], borrowed=False)
                for name, found in (("items only", plain), ("items and seeds", with_seeds(plain, spread, 2 / 3, 0.95))):
                    hits[name] += found.low <= gap <= found.high
            for name, count in hits.items():
                covered[name][f"sd of seeds {100 * sd:.0f}, difference {100 * gap:.0f} points"] = count / draws
        for name, values in covered.items():
            yield Row(f"difference, n={n}, 3 seeds, {what}", name, f"{draws:,} draws", values, bound=name != "items only")


def published_accuracies() -> list[list[float]]:
    """What the paper's table 2 prints for Qwen2.5-Math-7B, in the order of MATH6: as released, and each arm on WebInstruct."""
    arms: dict[str, dict[str, float]] = {}
    for value in published_values(2):
        if value.model == "Qwen2.5-Math-7B" and value.data in ("", "WebInstruct"):
            arms.setdefault(value.method, {})[value.benchmark.lower()] = value.value / 100
    return [[round(arm[name], 3) for name in MATH6] for arm in arms.values() if set(MATH6) <= set(arm)]


def main() -> int:
    """Prints the table and says whether every bound is kept."""
    rng = np.random.default_rng(SEED)
    six = list(MATH6.values())
    equal = {f"all p={p}": [p] * 6 for p in (0.01, 0.02, 0.05, *TENTHS, 0.95, 0.98, 0.99)}
    uneven = {f"p={np.round(values, 2).tolist()}": values for values in rng.uniform(0.02, 0.98, size=(20, 6))}
    paper = {f"p={values}": values for values in published_accuracies()}
    small = {name: values[:2] for name, values in equal.items()}
    parts = [
        *(functools.partial(single, n) for n in (30, 40, 272, 1319)),
        *(functools.partial(paired_exact, n) for n in (30, 40)),
        functools.partial(paired_simulated, 272, 1000),
        functools.partial(paired_simulated, 1319, 1000),
        functools.partial(macro, "average of math6, equal p", six, equal, 4000),
        functools.partial(macro, "average of math6, uneven p", six, uneven, 2000),
        functools.partial(macro, "average of math6, the paper's p", six, paper, 4000),
        functools.partial(macro, "average of aime24 and amc23, equal p", [30, 40], small, 4000),
        functools.partial(macro_difference, "difference of averages, math6", six, 600),
        functools.partial(macro_difference, "difference of averages, aime24 and amc23", [30, 40], 1000),
        functools.partial(several_samples, 30, 4, 2000),
        functools.partial(several_samples, 30, 16, 2000),
        functools.partial(bootstraps, 30, 1500),
        functools.partial(bootstraps, 272, 1500),
        functools.partial(several_seeds, 272, 1000),
        functools.partial(several_seeds, 1319, 1000),
    ]
    print(
        "| interval | method | how | truths | mean coverage, % | lowest, % | mean within 1.5 of 95 |\n|---|---|---|---|---|---|---|"
    )
    started, broken = time.perf_counter(), []
    for part in parts:
        for row in part():
            print(row.text(), flush=True)
            broken += [row.what] if row.bound and abs(row.mean - 0.95) > BOUND else []
    print(f"\n{time.perf_counter() - started:.0f} s; {'bounds broken: ' + ', '.join(broken) if broken else 'every bound is kept'}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
