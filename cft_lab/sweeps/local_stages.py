"""Which stages a submitter makes itself (`cluster.local_stages`), and which jobs it has to wait for before it can."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cft_lab.sweeps.plan import PlannedStage


@dataclass(frozen=True)
class Division:
    """What is missing of a sweep and neither under way nor tried in vain, upstream first.

    `here` is made by the submitter now, `jobs` can be submitted now. `later` are stages of local kinds that stand on jobs (they are
    `local`) and all that stands on these. `awaited` has the keys, made by jobs, that the local ones stand on.
    """

    here: tuple[PlannedStage, ...]
    jobs: tuple[PlannedStage, ...]
    later: tuple[PlannedStage, ...]
    local: tuple[PlannedStage, ...]
    awaited: frozenset[str]


def divide(missing: Sequence[PlannedStage], kinds: Collection[str], underway: Collection[str], tried: Collection[str]) -> Division:
    """Divides the stages that are to be made. `underway` have a job; of those that were `tried` and have none nothing comes."""
    here: list[PlannedStage] = []
    jobs: list[PlannedStage] = []
    later: list[PlannedStage] = []
    lost: set[str] = set()
    by_key = {stage.key: stage for stage in missing}
    for stage in missing:
        above = [key for key in stage.upstream if key in by_key]
        if stage.key in underway:
            continue
        if stage.key in tried or lost & set(above):
            lost.add(stage.key)
        elif {one.key for one in later} & set(above):
            later.append(stage)
        elif stage.kind not in kinds:
            jobs.append(stage)
        elif {one.key for one in here}.issuperset(above):
            here.append(stage)
        else:
            later.append(stage)
    local = tuple(stage for stage in later if stage.kind in kinds)
    needed: set[str] = set()
    for stage in reversed(missing):
        if stage in local or stage.key in needed:
            needed |= {key for key in stage.upstream if key in by_key}
    made_by_jobs = {*underway, *(stage.key for stage in jobs)}
    return Division(tuple(here), tuple(jobs), tuple(later), local, frozenset(needed & made_by_jobs))
