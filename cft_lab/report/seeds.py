"""How much training seeds matter to a difference, and intervals that count it in. The methods are those of docs/statistics.md.

The independent unit is a training. Cells that stand on the same trainings (table 8: one model at several temperatures) are averaged
within each training before anything is said of how trainings differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cft_lab.evaluation.statistics import Interval, t_value, z_value
from cft_lab.report.tables import ITEMS, ITEMS_AND_SEEDS

if TYPE_CHECKING:
    import numpy as np

#: with fewer, the spread of arms that are not compared tells nothing useful of those that are (Student's quantile at 3 is 3.2, and
#: 9.5 as a family of claims asks for it)
LEAST_BORROWED_DEGREES = 4


@dataclass(frozen=True)
class SeedSpread:
    """How much the mean of a training varies, beyond what chance over items explains.

    `variance` is that of one training's mean, `observed` the variance of trainings' means that it was taken from, with `degrees` of
    freedom. `groups` is how many degrees one more seed of every arm would add. `shared`: the groups stand on the same trainings, so
    that this is what is left after each training's own level. `borrowed`: no compared arm was trained twice, others were.
    """

    variance: float
    observed: float
    degrees: int
    groups: int
    shared: bool = False
    borrowed: bool = False


@dataclass(frozen=True)
class Compared:
    """First minus the best rival. `item_se` is the standard error over items; `degrees` of freedom are those of both together.

    `seeds` counts the distinct trainings of the trained arm that has fewest, 0 if none is trained; `spread` is None if nothing is
    known of seeds, and `share` how much of its variance the difference has. `best` is the place of the rival that is best on these
    items.
    """

    estimate: float
    low: float
    high: float
    item_se: float
    degrees: float
    n_items: int
    seeds: int
    best: int = 0
    spread: SeedSpread | None = None
    share: float = 0.0

    @property
    def covers(self) -> str:
        """What the interval is over."""
        return ITEMS if self.spread is None else ITEMS_AND_SEEDS

    @property
    def seed_se(self) -> float:
        """The standard error over seeds, 0 if nothing is known of them."""
        return math.sqrt(self.spread.variance * self.share) if self.spread else 0.0

    @property
    def standard_error(self) -> float:
        """Over items and, where known, seeds."""
        return math.hypot(self.item_se, self.seed_se)

    @property
    def blind_to_seeds(self) -> bool:
        """Whether trained arms are compared and the interval cannot say what another training would change."""
        return self.seeds > 0 and self.spread is None

    def p_value(self, bound: float = 0.0) -> float:
        """Two-sided, for a difference of `bound`: Student's t with the degrees of freedom of the standard error."""
        from scipy.special import stdtr

        if self.standard_error == 0:
            return 1.0 if self.estimate == bound else 0.0
        t = abs(self.estimate - bound) / self.standard_error
        return float(2 * stdtr(self.degrees, -t))


def independent_spread(classes: Sequence[Sequence[Sequence[np.ndarray]]], *, borrowed: bool) -> SeedSpread | None:
    """From arms trained independently: one-way over trainings' means, less the part of it that is chance over items.

    Each class holds arms that stand on the same trainings, an arm its scores [trainings, items] on each benchmark. Arms of a class
    tell of the same trainings: their variances are averaged, and count with the degrees of freedom of one of them.
    """
    total = noise = 0.0
    degrees = 0
    for arms in classes:
        found = [_one_way(arm) for arm in arms]
        free = max(one[2] for one in found)
        share = free / sum(one[2] for one in found)
        total += share * math.fsum(one[0] for one in found)
        noise += share * math.fsum(one[1] for one in found)
        degrees += free
    if not degrees:
        return None
    observed = total / degrees
    return SeedSpread(max(0.0, observed - noise / degrees), observed, degrees, len(classes), borrowed=borrowed)


def _one_way(arm: Sequence[np.ndarray]) -> tuple[float, float, int]:
    """The sum of squares of trainings' means, how much of it is chance over items, and its degrees of freedom."""
    means = sum(rows.mean(axis=1) for rows in arm) / len(arm)
    free = len(means) - 1
    noise = free * math.fsum(_rest(rows) / rows.shape[1] for rows in arm) / len(arm) ** 2
    return float(((means - means.mean()) ** 2).sum()), noise, free


def _rest(rows: np.ndarray) -> float:
    """Mean square of what seed and item leave unexplained (`statistics.variance_components`), for scores [seeds, items]."""
    rest = rows - rows.mean(axis=0) - rows.mean(axis=1)[:, None] + rows.mean()
    degrees: int = (rows.shape[0] - 1) * (rows.shape[1] - 1)
    return float((rest**2).sum()) / degrees


def shared_spread(benchmarks: Sequence[np.ndarray]) -> SeedSpread:
    """From groups that stand on the same trainings, scores [groups, trainings, items] on each benchmark: the interaction of group
    and training, which is what is left of trainings' means after each group's and each training's level, less chance over items.
    """
    import numpy as np

    means = np.mean([cube.mean(axis=2) for cube in benchmarks], axis=0)  # [groups, trainings]
    left = means - means.mean(axis=0) - means.mean(axis=1)[:, None] + means.mean()
    groups = means.shape[0] - 1
    degrees: int = groups * (means.shape[1] - 1)
    noise = 0.0
    for cube in benchmarks:
        rest = cube
        for axis in range(3):
            rest = rest - rest.mean(axis=axis, keepdims=True)
        noise += float((rest**2).sum()) / (degrees * (cube.shape[2] - 1)) / cube.shape[2] / len(benchmarks) ** 2
    observed = float((left**2).sum()) / degrees
    return SeedSpread(max(0.0, observed - noise), observed, degrees, groups, shared=True)


def with_seeds(over_items: Compared, spread: SeedSpread | None, share: float, confidence: float) -> Compared:
    """Widens a difference whose interval is over items for the spread of seeds, of which it has `share`.

    The standard error of both is Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2 (1946) 110). What it
    has beyond the items' is added to either distance in squares, as `statistics.combine` does.
    """
    if spread is None:
        return over_items
    found = replace(over_items, spread=spread, share=share)
    if spread.variance == 0:
        return found
    degrees = joint_degrees(found.item_se**2, found.n_items, spread.variance * share, spread.observed * share, spread.degrees)
    more = max(0.0, (t_value(degrees, confidence) * found.standard_error) ** 2 - (z_value(confidence) * found.item_se) ** 2)
    low, high = _wider(found.estimate, (found.low, found.high), more)
    return replace(found, low=low, high=high, degrees=degrees)


def joint_degrees(item_variance: float, n_items: int, seed_variance: float, observed: float, degrees: int) -> float:
    """Satterthwaite's degrees of freedom of items and seeds together; the seeds' part was taken from `observed`, with `degrees`."""
    uncertain = item_variance**2 / max(n_items - 1, 1) + observed**2 / degrees
    return max(1.0, (item_variance + seed_variance) ** 2 / uncertain)


def _wider(estimate: float, interval: Interval, more: float) -> Interval:
    """An interval of a difference with `more` added to the squares of its distances."""
    below, above = (math.sqrt((limit - estimate) ** 2 + more) for limit in interval)
    return max(-1.0, estimate - below), min(1.0, estimate + above)
