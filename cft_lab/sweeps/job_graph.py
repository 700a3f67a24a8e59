"""From the stages of a plan to jobs for a scheduler: what shares a job, what makes an array, and how many run at once.

Every data, teacher, train and evaluation stage is a job of its own. A record stage (scores, a result) takes moments and goes with
the job that makes what it reads; one that reads from several jobs, as a result of several benchmarks does, goes with its like into
one small job behind them. Stages with the same upstream and the same resources, such as the generations of all benchmarks and
conditions of one trained model, are tasks of one array.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from cft_lab.config import Config
from cft_lab.engines.sharding import gpus_of_a_model
from cft_lab.sweeps.plan import PlannedStage


@dataclass(frozen=True)
class Task:
    """What one process makes: stages by their keys, in order. `after` has the keys of what it reads and does not make."""

    keys: tuple[str, ...]
    after: frozenset[str]


@dataclass(frozen=True)
class Job:
    """What is submitted in one go; with more than one task, an array. Each task has the resources of `kind` on each of `nodes`,
    but at least `gpus` GPUs: an evaluated model may be spread over several.

    `gathers` marks a job behind others that may fail: it starts when they are over, and makes what can be made.
    """

    kind: str
    name: str
    nodes: int
    tasks: tuple[Task, ...]
    gathers: bool = False
    gpus: int = 0

    @property
    def after(self) -> frozenset[str]:
        """The keys of what it reads: made by other jobs, of this submission or an earlier one, or there already."""
        return frozenset().union(*(task.after for task in self.tasks))

    @property
    def keys(self) -> tuple[str, ...]:
        """All that the job makes."""
        return tuple(key for task in self.tasks for key in task.keys)


def jobs_of(stages: Sequence[PlannedStage], configs: Sequence[Config]) -> list[Job]:
    """The jobs that make stages given upstream first, in an order in which they can be submitted."""
    by_key = {stage.key: stage for stage in stages}
    members: dict[str, list[str]] = {}  # first key of a task -> its keys
    home: dict[str, str] = {}  # key -> first key of its task
    above: dict[str, set[str]] = {}  # first key of a task -> tasks that it stands on, directly or not
    group: dict[str, Hashable] = {}  # first key of a task -> what its job is known by
    for stage in stages:
        read = {home[key] for key in stage.upstream if key in home}
        read -= {farther for near in read for farther in above[near]}
        if stage.kind == "record" and len(read) == 1:
            (first,) = read
            members[first].append(stage.key)
        else:
            first = stage.key
            members[first] = [first]
            above[first] = read.union(*(above[near] for near in read))
            group[first] = _group(stage, frozenset(group[near] for near in read))
        home[stage.key] = first
    grouped: dict[Hashable, list[str]] = {}
    for first in members:
        grouped.setdefault(group[first], []).append(first)
    jobs = [_job([(by_key[first], members[first]) for first in firsts], by_key, configs) for firsts in grouped.values()]
    level = _levels(jobs)
    return [job for _, job in sorted(enumerate(jobs), key=lambda item: level[item[0]])]


def _group(stage: PlannedStage, read: frozenset[Hashable]) -> Hashable:
    """Equal for tasks of one job: for generations the same upstream, for gathered records the same jobs before."""
    if stage.kind == "record":
        return (stage.kind, read)
    return (stage.kind, stage.name, stage.upstream) if stage.name == "generations" else stage.key


def _job(tasks: Sequence[tuple[PlannedStage, list[str]]], by_key: dict[str, PlannedStage], configs: Sequence[Config]) -> Job:
    def task(keys: Sequence[str]) -> Task:
        read = {above for key in keys for above in by_key[key].upstream}
        return Task(tuple(keys), frozenset(read - set(keys)))

    stage = tasks[0][0]
    nodes = configs[stage.cell].train.nodes if stage.name == "candidates" else 1
    if stage.kind == "record":  # moments each: one process makes them all
        joined = task([key for _, keys in tasks for key in keys])
        return Job("record", "record", nodes, (joined,), gathers=True)
    spread = gpus_of_a_model(configs[stage.cell].engine) if stage.kind == "evaluation" else 1
    return Job(stage.kind, stage.name, nodes, tuple(task(keys) for _, keys in tasks), gpus=spread if spread > 1 else 0)


def _levels(jobs: Sequence[Job]) -> dict[int, int]:
    """For each job, by its place, the number of jobs that must end one after the other before it starts."""
    maker = {key: place for place, job in enumerate(jobs) for key in job.keys}
    level: dict[int, int] = {}

    def of(place: int) -> int:
        if place not in level:
            level[place] = 1 + max((of(maker[key]) for key in jobs[place].after if key in maker), default=-1)
        return level[place]

    for place in range(len(jobs)):
        of(place)
    return level


@dataclass(frozen=True)
class Throttle:
    """What keeps a job within `cluster.max_jobs`: jobs, by their place, that must be over first, and tasks of an array at once."""

    behind: frozenset[int] = frozenset()
    at_once: int | None = None


def throttles(jobs: Sequence[Job], most: int | None) -> list[Throttle]:
    """Deals jobs to `most` lanes in which one follows the other, whatever becomes of it; so that many run at once and no more.

    An array takes several lanes, shared evenly with the other arrays, and runs as many tasks at once. A job goes into the lanes of
    what it waits for anyway, then into the shortest.
    """
    if most is None:
        return [Throttle()] * len(jobs)
    arrays = sum(len(job.tasks) > 1 for job in jobs)
    maker = {key: place for place, job in enumerate(jobs) for key in job.keys}
    lanes: list[list[int]] = [[] for _ in range(most)]
    found = []
    for place, job in enumerate(jobs):
        waits_for = {maker[key] for key in job.after if key in maker}
        width = min(len(job.tasks), max(1, most // arrays)) if arrays else 1
        lanes.sort(key=lambda lane: (bool(lane) and lane[-1] not in waits_for, len(lane)))
        behind = frozenset(lane[-1] for lane in lanes[:width] if lane and lane[-1] not in waits_for)
        for lane in lanes[:width]:
            lane.append(place)
        found.append(Throttle(behind, width if len(job.tasks) > 1 else None))
    return found
