"""Values and differences of arms, from the scores of their items. All methods are those of docs/statistics.md.

Arms are compared on the items that all of them have, paired. Over items the interval of a difference is
`macro_difference_interval`; against the best of several rivals it is the hull of that, against the rival that is best on these
items, and of the bootstrap that chooses the best anew. Where arms were trained several times it is widened for the spread of
training seeds (`SeedSpread`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cft_lab.evaluation.resampling import Resampler, minus_best
from cft_lab.evaluation.statistics import item_interval, macro_difference_interval, macro_interval, seed_sd, z_value
from cft_lab.report.arms import Arm, Measured, Run
from cft_lab.report.tables import ITEMS, ITEMS_AND_SEEDS, Value
from cft_lab.results import Results
from cft_lab.results.grades import ItemScores

if TYPE_CHECKING:
    import numpy as np

_SEED = 0  # of the bootstrap: the same store gives the same report
Group = Sequence[Arm]  # arms that are averaged


@dataclass(frozen=True)
class SeedSpread:
    """How much the mean of a run varies with its training seed, beyond what chance over items explains.

    `variance` is that of one run's mean, `observed` the variance of runs' means that it was taken from, with `degrees` of freedom.
    Both are pooled over the arms of a table that were trained several times; `shared`: the arms stand on the same trainings, so
    that this is what is left after each training's own level.
    """

    variance: float
    observed: float
    degrees: int
    shared: bool


@dataclass(frozen=True)
class Compared:
    """First minus the best rival. `item_se` and `seed_se` are standard errors; `degrees` of freedom are those of both together.

    `seeds` counts the runs of the trained arm that has fewest; `best` is the place of the rival that is best on these items.
    """

    estimate: float
    low: float
    high: float
    item_se: float
    seed_se: float
    degrees: float
    covers: str
    n_items: int
    seeds: int
    best: int

    @property
    def standard_error(self) -> float:
        """Over items and, where known, seeds."""
        return math.hypot(self.item_se, self.seed_se)

    def p_value(self, bound: float = 0.0) -> float:
        """Two-sided, for a difference of `bound`: Student's t with the degrees of freedom of the standard error."""
        from scipy.special import stdtr

        if self.standard_error == 0:
            return 1.0 if self.estimate == bound else 0.0
        t = abs(self.estimate - bound) / self.standard_error
        return float(2 * stdtr(self.degrees, -t))


class NotComparable(ValueError):  # noqa: N818  (it is no failure: a report says it)
    """Why arms cannot be compared."""


class Measures:
    """Everything that is computed from a store's item scores, once."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._resampler = Resampler(_SEED)
        self._values: dict[tuple[str, str], Value | None] = {}
        self._means: dict[tuple[object, ...], np.ndarray] = {}
        self._spreads: dict[tuple[object, ...], SeedSpread | None] = {}

    def value(self, arm: Arm, benchmark: str) -> Value | None:
        """An arm on one benchmark; None if no run of it has readable grades."""
        place = (arm.id, benchmark)
        if place not in self._values:
            self._values[place] = self._value(arm, benchmark)
        return self._values[place]

    def _value(self, arm: Arm, benchmark: str) -> Value | None:
        found = self._whole(arm, [benchmark])
        if not found:
            return None
        items, rows = self._matrix([(run, benchmark) for run in found])
        if len(items) < 2:
            return None
        values = rows.mean(axis=0).tolist()
        measured = [run.measured[benchmark] for run in found]
        low, high = item_interval(values)
        return Value(
            mean=math.fsum(values) / len(values),
            low=low,
            high=high,
            n_items=len(values),
            seeds=len(found),
            errors=sum(one.score.errors for one in measured),
            paper_grader=_mean_or_none([one.score.paper_accuracy for one in measured]),
            truncated=_share(measured, "truncated"),
            unparsed=_share(measured, "unparsed"),
            seed_sd=seed_sd(rows.mean(axis=1).tolist()),
        )

    def average(self, arm: Arm, benchmarks: Sequence[str]) -> Value | None:
        """An arm in the plain mean over benchmarks, of the runs that have them all; None if there is none."""
        whole = self._whole(arm, benchmarks)
        if not whole:
            return None
        if len(whole) < len(arm.runs):
            arm = replace(arm, id=f"{arm.id}, whole runs", runs=whole)
        parts = [self.value(arm, benchmark) for benchmark in benchmarks]
        known = [part for part in parts if part is not None]
        if len(known) < len(benchmarks):
            return None
        matrices = [self._matrix([(run, benchmark) for run in whole])[1] for benchmark in benchmarks]
        low, high = macro_interval([rows.mean(axis=0).tolist() for rows in matrices])
        by_run = [math.fsum(rows[place].mean() for rows in matrices) / len(matrices) for place in range(len(whole))]
        return Value(
            mean=math.fsum(part.mean for part in known) / len(known),
            low=low,
            high=high,
            n_items=sum(part.n_items for part in known),
            seeds=len(whole),
            errors=sum(part.errors for part in known),
            paper_grader=_mean_or_none([part.paper_grader for part in known]),
            truncated=math.fsum(part.truncated for part in known) / len(known),
            unparsed=math.fsum(part.unparsed for part in known) / len(known),
            seed_sd=seed_sd(by_run),
        )

    def compare(
        self, first: Group, rivals: Sequence[Group], benchmarks: Sequence[str], pool: Sequence[Arm], confidence: float = 0.95
    ) -> Compared:
        """First minus the best of its rivals in the plain mean over benchmarks. `pool` are the arms that tell how much seeds
        matter.

        Raises NotComparable, with the reason, if an arm is not measured or the arms share too few items.
        """
        groups = [first, *rivals]
        scores = [self._group_scores(groups, benchmark, benchmarks) for benchmark in benchmarks]
        means = [math.fsum(float(part[place].mean()) for part in scores) / len(scores) for place in range(len(groups))]
        best = max(range(1, len(groups)), key=lambda place: means[place])
        estimate = means[0] - means[best]
        pair = [[part[place].tolist() for part in scores] for place in (0, best)]
        low, high = macro_difference_interval(pair[0], pair[1], confidence)
        if len(rivals) > 1:
            draws = [self._resampled(place, groups, benchmarks, scores) for place in range(len(groups))]
            drawn = minus_best(draws[0], draws[1:], estimate, confidence)
            low, high = min(low, drawn[0]), max(high, drawn[1])
        trained = [group for group in (groups[0], groups[best]) if group[0].trained]
        spread = self._spread(pool, [*first, *groups[best]], benchmarks) if trained else None
        runs = [sum(len(self._whole(arm, benchmarks)) for arm in group) for group in trained]
        return _with_seeds(estimate, (low, high), spread, runs, sum(len(part[0]) for part in scores), best - 1, confidence)

    def _group_scores(self, groups: Sequence[Group], benchmark: str, whole: Sequence[str]) -> list[np.ndarray]:
        """Scores of the items that all arms have, an array [items] for each group: the mean over its arms' runs that are
        `whole`.
        """
        import numpy as np

        flat: list[tuple[Run, str]] = []
        spans: list[list[slice]] = []
        for group in groups:
            spans.append([])
            for arm in group:
                runs = self._whole(arm, whole)
                if not runs:
                    raise NotComparable(f"{arm.label} is not measured on {benchmark}")
                spans[-1].append(slice(len(flat), len(flat) + len(runs)))
                flat += [(run, benchmark) for run in runs]
        versions = {run.measured[benchmark].version for run, _ in flat} - {None}
        if len(versions) > 1:
            raise NotComparable(f"arms were measured on different versions of {benchmark}, or by different graders")
        items, rows = self._matrix(flat)
        if len(items) < 2:
            raise NotComparable(f"the arms share {len(items)} measured items of {benchmark}")
        return [np.mean([rows[span].mean(axis=0) for span in spans_of], axis=0) for spans_of in spans]

    def _matrix(self, runs: Sequence[tuple[Run, str]]) -> tuple[tuple[str, ...], np.ndarray]:
        """Items that all runs have measured, in the order of the first, and their scores [runs, items]."""
        import numpy as np

        found = [self._scores(run, benchmark) for run, benchmark in runs]
        items = found[0].items
        if all(scores.items is items for scores in found):
            rows = np.stack([scores.values for scores in found])
        else:
            shared = set(items).intersection(*(scores.items for scores in found[1:]))
            items = tuple(item for item in items if item in shared)
            places = [{item: place for place, item in enumerate(scores.items)} for scores in found]
            rows = np.stack([s.values[[at[item] for item in items]] for s, at in zip(found, places, strict=True)])
        kept = ~np.isnan(rows).any(axis=0)
        if kept.all():
            return items, rows
        return tuple(item for item, keep in zip(items, kept, strict=True) if keep), rows[:, kept]

    def _scores(self, run: Run, benchmark: str) -> ItemScores:
        found = self._readable(run, benchmark)
        assert found is not None  # runs that are not readable were left out
        return found

    def _readable(self, run: Run, benchmark: str) -> ItemScores | None:
        if benchmark not in run.measured:
            return None
        return self._results.reader.item_scores(run.measured[benchmark].score, run.measured[benchmark].key)

    def _whole(self, arm: Arm, benchmarks: Sequence[str]) -> tuple[Run, ...]:
        """The runs of an arm with readable grades on all of these benchmarks."""
        return tuple(run for run in arm.runs if all(self._readable(run, name) is not None for name in benchmarks))

    def _resampled(
        self, place: int, groups: Sequence[Group], benchmarks: Sequence[str], scores: Sequence[Sequence[np.ndarray]]
    ) -> np.ndarray:
        """Resampled means [resamples] of a group in the mean over benchmarks."""
        import numpy as np

        total = []
        for benchmark, part in zip(benchmarks, scores, strict=True):
            name = (benchmark, part[place].tobytes())
            if name not in self._means:
                self._means[name] = self._resampler.means(benchmark, part[place])
            total.append(self._means[name])
        found: np.ndarray = np.mean(total, axis=0)
        return found

    def _spread(self, pool: Sequence[Arm], compared: Sequence[Arm], benchmarks: Sequence[str]) -> SeedSpread | None:
        """The spread of seeds, from the arms of `pool` that stand on the trainings of the compared ones if these share them."""
        trainings = {_trainings(arm) for arm in compared}
        shared = len(trainings) == 1 and len(compared) > 1
        arms = [arm for arm in pool if arm.trained and (not shared or _trainings(arm) in trainings)]
        place = (shared, tuple(benchmarks), tuple(arm.id for arm in arms))
        if place not in self._spreads:
            blocks = [self._block(arm, benchmarks) for arm in arms]
            known = [block for block in blocks if block is not None]
            self._spreads[place] = _shared_spread(known) if shared else _pooled_spread(known)
        return self._spreads[place]

    def _block(self, arm: Arm, benchmarks: Sequence[str]) -> list[np.ndarray] | None:
        """An arm's scores [runs, items] on each benchmark; None for fewer than two runs."""
        whole = self._whole(arm, benchmarks)
        if len(whole) < 2:
            return None
        return [self._matrix([(run, benchmark) for run in whole])[1] for benchmark in benchmarks]


def _pooled_spread(blocks: Sequence[Sequence[np.ndarray]]) -> SeedSpread | None:
    """From arms trained independently: one-way over runs' means, less the part of it that is chance over items."""
    if not blocks:
        return None
    squares = noise = 0.0
    degrees = 0
    for block in blocks:
        means = sum(rows.mean(axis=1) for rows in block) / len(block)
        free = len(means) - 1
        squares += float(((means - means.mean()) ** 2).sum())
        noise += free * math.fsum(_rest(rows) / rows.shape[1] for rows in block) / len(block) ** 2
        degrees += free
    observed = squares / degrees
    return SeedSpread(max(0.0, observed - noise / degrees), observed, degrees, shared=False)


def _rest(rows: np.ndarray) -> float:
    """Mean square of what seed and item leave unexplained (`statistics.variance_components`), for scores [seeds, items]."""
    rest = rows - rows.mean(axis=0) - rows.mean(axis=1)[:, None] + rows.mean()
    degrees: int = (rows.shape[0] - 1) * (rows.shape[1] - 1)
    return float((rest**2).sum()) / degrees


def _shared_spread(blocks: Sequence[Sequence[np.ndarray]]) -> SeedSpread | None:
    """From arms that stand on the same trainings: what is left of runs' means after each arm's and each training's level."""
    import numpy as np

    shapes = {tuple(rows.shape for rows in block) for block in blocks}
    if len(blocks) < 2 or len(shapes) > 1:  # or items were lost in one of them
        return None
    means = np.array([sum(rows.mean(axis=1) for rows in block) / len(block) for block in blocks])  # [arms, runs]
    left = means - means.mean(axis=0) - means.mean(axis=1)[:, None] + means.mean()
    degrees = (means.shape[0] - 1) * (means.shape[1] - 1)
    noise = 0.0
    for place in range(len(blocks[0])):
        cube = np.stack([block[place] for block in blocks])  # [arms, runs, items]
        for axis in range(3):
            cube = cube - cube.mean(axis=axis, keepdims=True)
        noise += float((cube**2).sum()) / (degrees * (cube.shape[2] - 1)) / cube.shape[2] / len(blocks[0]) ** 2
    observed = float((left**2).sum()) / degrees
    return SeedSpread(max(0.0, observed - noise), observed, degrees, shared=True)


def _with_seeds(
    estimate: float,
    interval: tuple[float, float],
    spread: SeedSpread | None,
    runs: Sequence[int],
    n_items: int,
    best: int,
    confidence: float,
) -> Compared:
    """Widens an interval over items for the spread of seeds; `runs` are those behind each trained side.

    The standard error of both is Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2 (1946) 110). What it
    has beyond the items' is added to either distance in squares, as `statistics.combine` does.
    """
    low, high = interval
    item_se = (high - low) / (2 * z_value(confidence))
    seeds = min(runs, default=1)
    if spread is None:
        return Compared(estimate, low, high, item_se, 0.0, max(n_items - 1, 1), ITEMS, n_items, seeds, best)
    share = math.fsum(1 / count for count in runs)
    seed_variance, both = spread.variance * share, item_se**2 + spread.variance * share
    uncertain = item_se**4 / max(n_items - 1, 1) + (spread.observed * share) ** 2 / spread.degrees if seed_variance else 0.0
    degrees = max(1.0, both**2 / uncertain) if uncertain else max(n_items - 1, 1)
    more = max(0.0, (_t_value(degrees, confidence) ** 2 * both) - (z_value(confidence) * item_se) ** 2) if seed_variance else 0.0
    return Compared(
        estimate,
        max(-1.0, estimate - math.sqrt((estimate - low) ** 2 + more)),
        min(1.0, estimate + math.sqrt((high - estimate) ** 2 + more)),
        item_se,
        math.sqrt(seed_variance),
        degrees,
        ITEMS_AND_SEEDS,
        n_items,
        seeds,
        best,
    )


def _t_value(degrees: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def _trainings(arm: Arm) -> tuple[str | None, ...]:
    return tuple(run.training for run in arm.runs)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _share(measured: Sequence[Measured], name: str) -> float:
    count: int = sum(getattr(one.score, name) for one in measured)
    return count / max(1, sum(one.score.n for one in measured))
