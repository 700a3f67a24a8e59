"""Values and differences of arms, from the scores of their items. All methods are those of docs/statistics.md.

Arms are compared on the items that all of them have, paired. Over items the interval of a difference is
`macro_difference_interval`; against the best of several rivals it is the hull of that, against the rival that is best on these
items, and of the bootstrap that chooses the best anew. Where arms were trained several times it is widened for the spread of
training seeds (`SeedSpread`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cft_lab.evaluation.resampling import Resampler, minus_best
from cft_lab.evaluation.statistics import item_interval, macro_difference_interval, macro_interval, seed_sd, z_value
from cft_lab.report.arms import Arm, Measured, Run, version_unlike
from cft_lab.report.seeds import LEAST_BORROWED_DEGREES, Compared, SeedSpread, independent_spread, shared_spread, with_seeds
from cft_lab.report.tables import Value
from cft_lab.results import Results
from cft_lab.results.grades import ItemScores

if TYPE_CHECKING:
    import numpy as np

_SEED = 0  # of the bootstrap: the same store gives the same report
Group = Sequence[Arm]  # arms that are averaged


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

    def shared_items(self, arm: Arm, benchmark: str) -> int:
        """How many items all runs of an arm with readable grades have measured on a benchmark."""
        found = self._whole(arm, [benchmark])
        return len(self._matrix([(run, benchmark) for run in found])[0]) if found else 0

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
        n_items = sum(len(part[0]) for part in scores)
        item_se = (high - low) / (2 * z_value(confidence))
        trained = [group for group in (groups[0], groups[best]) if any(arm.trained for arm in group)]
        seeds = min((len(self._trainings(arm, benchmarks)) for group in trained for arm in group if arm.trained), default=0)
        found = Compared(estimate, low, high, item_se, max(n_items - 1, 1), n_items, seeds, best - 1)
        share = math.fsum(self._share(group, benchmarks) for group in trained)
        return with_seeds(found, self._spread(trained, pool, benchmarks), share, confidence)

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
        versions = [run.measured[benchmark].version for run, _ in flat]
        if unlike := version_unlike(versions):
            raise NotComparable(f"arms were measured on {benchmark} with different {' and '.join(unlike)}")
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

    def _trainings(self, arm: Arm, benchmarks: Sequence[str]) -> dict[Any, list[Run]]:
        """An arm's runs by the training that they stand on."""
        found: dict[Any, list[Run]] = {}
        for run in self._whole(arm, benchmarks):
            found.setdefault(run.training or run.scores_keys, []).append(run)
        return found

    def _share(self, group: Group, benchmarks: Sequence[str]) -> float:
        """The variance of a group's mean as a multiple of that of one training's mean: the squared weights of its trainings."""
        weights: dict[Any, float] = {}
        for arm in group:
            runs = self._trainings(arm, benchmarks) if arm.trained else {}
            for training, own in runs.items():
                weights[training] = weights.get(training, 0.0) + len(own) / sum(map(len, runs.values())) / len(group)
        return math.fsum(weight**2 for weight in weights.values())

    def _spread(self, compared: Sequence[Group], pool: Sequence[Arm], benchmarks: Sequence[str]) -> SeedSpread | None:
        """The spread of trainings that matters to groups with trained arms, from all of the table that is comparable to them.

        Groups on the same trainings are paired by training, and groups of several cells averaged within each: they are looked at
        beside those of the table that are like them. Where the cells of a group stand on different trainings, single cells tell.
        """
        on = {arm.id: frozenset(self._trainings(arm, benchmarks)) for group in compared for arm in group if arm.trained}
        together = all(len({on.get(arm.id) for arm in group}) == 1 for group in compared)
        shared = len(compared) == 2 and len(set(on.values())) == 1 and together
        groups = [[arm] for arm in pool if arm.trained]
        if shared or (together and any(len(group) > 1 for group in compared)):
            groups = _comparable(compared, [arm for arm in pool if arm.trained])
        if shared:
            ours = next(iter(on.values()))
            groups = [group for group in groups if all(frozenset(self._trainings(arm, benchmarks)) == ours for arm in group)]
        borrowed = max(map(len, on.values()), default=0) < 2
        place = (shared, borrowed, tuple(benchmarks), tuple(tuple(arm.id for arm in group) for group in groups))
        if place not in self._spreads:
            self._spreads[place] = self._spread_of(groups, benchmarks, shared=shared, borrowed=borrowed)
        return self._spreads[place]

    def _spread_of(self, groups: Sequence[Group], benchmarks: Sequence[str], *, shared: bool, borrowed: bool) -> SeedSpread | None:
        if shared:
            import numpy as np

            if borrowed:
                return None
            cubes = [np.stack(self._by_training(groups, benchmark, benchmarks)) for benchmark in benchmarks]
            return shared_spread(cubes) if all(cube.shape[2] > 1 for cube in cubes) else None
        classes: dict[Any, list[list[np.ndarray]]] = {}
        for group in groups:
            on = {frozenset(self._trainings(arm, benchmarks)) for arm in group}
            if len(on) == 1 and len(next(iter(on))) > 1:
                scores = [self._by_training([group], benchmark, benchmarks)[0] for benchmark in benchmarks]
                if all(rows.shape[1] > 1 for rows in scores):  # else its runs share no items, which its own row says
                    classes.setdefault(next(iter(on)), []).append(scores)
        found = independent_spread(list(classes.values()), borrowed=borrowed)
        return None if found is None or (borrowed and found.degrees < LEAST_BORROWED_DEGREES) else found

    def _by_training(self, groups: Sequence[Group], benchmark: str, whole: Sequence[str]) -> list[np.ndarray]:
        """Scores [trainings, items] of groups, the mean of a group's cells within each training, on the items that all have."""
        import numpy as np

        places = [(g, arm, training) for g, group in enumerate(groups) for arm in group for training in self._trainings(arm, whole)]
        runs = [self._trainings(arm, whole)[training] for _, arm, training in places]
        _, rows = self._matrix([(run, benchmark) for own in runs for run in own])
        parts = np.split(rows, np.cumsum([len(own) for own in runs])[:-1])
        found: list[dict[Any, list[np.ndarray]]] = [{} for _ in groups]
        for (place, _, training), part in zip(places, parts, strict=True):
            found[place].setdefault(training, []).append(part.mean(axis=0))
        order = list(found[0]) if len(groups) > 1 else None
        return [np.stack([np.mean(one[training], axis=0) for training in order or one]) for one in found]


def _comparable(compared: Sequence[Group], pool: Sequence[Arm]) -> list[list[Arm]]:
    """The compared groups and what of the pool is like them: every row's group of the same columns; for cells of one row, the row.

    Cells of one row may react alike to a training (one way of answering at four temperatures): beside another row's they would
    count as many, and as too much alike.
    """
    found = {tuple(arm.id for arm in group): list(group) for group in compared}
    rows = {arm.cell.row for group in compared for arm in group}
    columns = {tuple(arm.cell.column for arm in group) for group in compared}
    alike: list[list[Arm]] = []
    if len(columns) == 1 and all(len({arm.cell.row for arm in group}) == 1 for group in compared):
        names = next(iter(columns))
        for row in dict.fromkeys(arm.cell.row for arm in pool):
            at = {arm.cell.column: arm for arm in pool if arm.cell.row == row}
            alike += [[at[name] for name in names]] if set(names) <= set(at) else []
    elif all(len(group) == 1 for group in compared):
        alike = [[arm] for arm in pool if len(rows) > 1 or arm.cell.row in rows]
    for group in alike:
        found.setdefault(tuple(arm.id for arm in group), group)
    return list(found.values())


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _share(measured: Sequence[Measured], name: str) -> float:
    count: int = sum(getattr(one.score, name) for one in measured)
    return count / max(1, sum(one.score.n for one in measured))
