"""Delta rows: one arm minus the best of its rivals, on each benchmark and in AVG, as the sweep file asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cft_lab.report.arms import Arm
from cft_lab.report.measure import NotComparable
from cft_lab.report.study import Study, SweepArms
from cft_lab.report.tables import AVG, Delta
from cft_lab.sweeps.cells import DeltaRow


def deltas(study: Study, swept: SweepArms) -> Iterator[Delta]:
    """The differences of a sweep file, in its order, each on every benchmark and then in AVG."""
    for row in swept.sweep.deltas:
        first, rivals = swept.arms[row.first], [swept.arms[place] for place in row.rivals]
        for benchmark in (*swept.benchmarks, AVG):
            yield _delta(study, swept, _label(row, first, rivals), first, rivals, benchmark)


def _delta(study: Study, swept: SweepArms, label: str, first: Arm, rivals: Sequence[Arm], benchmark: str) -> Delta:
    names = swept.benchmarks if benchmark == AVG else (benchmark,)
    ids = (first.id, tuple(rival.id for rival in rivals))
    published = published_difference(study, swept, [first], [[rival] for rival in rivals], benchmark)
    try:
        found = study.measures.compare([first], [[rival] for rival in rivals], names, swept.arms)
    except NotComparable as reason:
        return Delta(label, benchmark, None, None, None, 0, *ids, published, reason=str(reason))
    return Delta(label, benchmark, found.estimate, found.low, found.high, found.seeds, *ids, published, found.covers, found.n_items)


def published_difference(
    study: Study, swept: SweepArms, first: Sequence[Arm], rivals: Sequence[Sequence[Arm]], benchmark: str
) -> float | None:
    """The mean of the printed values of `first` minus the best such mean of its rivals; None if any is not printed."""
    means = []
    for group in (first, *rivals):
        values = [study.published_mean(swept, arm.cell, benchmark) for arm in group]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        means.append(sum(known) / len(known))
    return round(means[0] - max(means[1:]), 6)  # of printed values: no digits of floating point


def _label(row: DeltaRow, first: Arm, rivals: Sequence[Arm]) -> str:
    """The row's label after what all its cells have in common: their row or their column."""
    for name in ("row", "column"):
        shared = getattr(first.cell, name)
        if shared and all(getattr(rival.cell, name) == shared for rival in rivals):
            return f"{shared}: {row.label}"
    return row.label
