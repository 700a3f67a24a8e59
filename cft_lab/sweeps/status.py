"""What has become of every stage of a sweep, from the store, the failures in its run folder, locks, and SLURM's queue."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab.json_files import read_json
from cft_lab.locks import is_held
from cft_lab.sweeps import presence, slurm_queue
from cft_lab.sweeps.plan import PlannedCell, PlannedStage, is_made, to_make
from cft_lab.sweeps.progress import Progress, progress_of
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.slurm_queue import JobState
from cft_lab.sweeps.submitted import Submitted, submitted_jobs, unseen_stages

#: done; running: being made now; queued: will be made without anybody's help; failed: ended with an error;
#: orphaned: what made it, or should have, is gone without a word; blocked: what it stands on is failed or orphaned
STATES = ("done", "running", "queued", "failed", "orphaned", "blocked")
BROKEN = ("failed", "orphaned", "blocked")
EXIT_DONE, EXIT_BROKEN, EXIT_UNDER_WAY = 0, 1, 3


@dataclass(frozen=True)
class StageStatus:
    """One stage that the sweep needs. `detail` says why it is in its state, `log` is where its output goes or went."""

    stage: PlannedStage
    state: str
    detail: str = ""
    progress: Progress | None = None
    last_lines: tuple[str, ...] = ()  # of the error of a failed stage
    job: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class SweepStatus:
    """The stages that a sweep needs, by key and upstream first. What finished stages stood on is not needed again."""

    folder: RunFolder
    stages: Mapping[str, StageStatus]

    @property
    def exit_code(self) -> int:
        """0 all done, 3 something runs or is queued, 1 all is over and something is missing."""
        states = {status.state for status in self.stages.values()}
        if states & {"running", "queued"}:
            return EXIT_UNDER_WAY
        return EXIT_BROKEN if states & set(BROKEN) else EXIT_DONE

    def counts(self) -> dict[str, int]:
        """Stages by state, those states left out that nothing is in."""
        found = {state: sum(status.state == state for status in self.stages.values()) for state in STATES}
        return {state: count for state, count in found.items() if count}

    def of_cell(self, cell: PlannedCell) -> list[StageStatus]:
        """The stages that a cell stands on, upstream first."""
        planned = {stage.key: stage for stage in self.folder.plan.stages}
        wanted: set[str] = set()
        waiting = [cell.result]
        while waiting:
            key = waiting.pop()
            if key not in wanted:
                wanted.add(key)
                waiting += planned[key].upstream
        return [status for key, status in self.stages.items() if key in wanted]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "sweep": self.folder.path.name,
            "folder": str(self.folder.path),
            "exit_code": self.exit_code,
            "counts": self.counts(),
            "cells": [
                {"sweep": cell.sweep, "row": cell.row, "column": cell.column, "label": cell.label, "state": cell_state(rows)}
                | {"stages": [row.stage.key for row in rows]}
                for cell in self.folder.plan.cells
                for rows in [self.of_cell(cell)]
            ],
            "stages": [_as_row(status) for status in self.stages.values()],
        }


def cell_state(rows: list[StageStatus]) -> str:
    """The state of a cell: the worst that any of its stages is in, and done only if all are."""
    order = ("failed", "orphaned", "blocked", "running", "queued", "done")
    return next((state for state in order if any(row.state == state for row in rows)), "done")


def _as_row(status: StageStatus) -> dict[str, Any]:
    stage = {name: getattr(status.stage, name) for name in ("key", "name", "kind", "label", "upstream")}
    progress = dataclasses.asdict(status.progress) if status.progress else None
    rest = {name: getattr(status, name) for name in ("detail", "last_lines", "job", "log")}
    return stage | {"state": status.state, "progress": progress} | rest


def status_of(folder: RunFolder) -> SweepStatus:
    """The present state of a sweep. Raises QueueError if SLURM is asked and does not answer."""
    root = folder.store_root
    jobs = submitted_jobs(folder)
    queue = slurm_queue.states(one.job for one in jobs.values())
    unseen = unseen_stages(folder, jobs, queue)  # looks at the store afresh, so it comes first
    missing = {stage.key for stage in to_make(folder.plan, root)}
    held = {stage.key for stage in folder.plan.stages if stage.key in missing and _is_being_made(stage, root)}
    at_work = presence.who(folder.path) is not None
    planned = {stage.key: stage for stage in folder.plan.stages}
    found: dict[str, StageStatus] = {}
    for stage in folder.plan.stages:
        if stage.key not in missing:
            if is_made(stage, root):
                found[stage.key] = StageStatus(stage, "done")
            continue
        above = [planned[key] for key in stage.upstream]
        submitted = jobs.get(stage.key)
        state = queue.get(submitted.job) if submitted else None
        first = submitted is not None and next(key for key in submitted.keys if key in missing) == stage.key
        if stage.key in unseen:
            found[stage.key] = StageStatus(stage, "running", "completed, and about to be seen here")
            continue
        status = _in_queue(stage, submitted, state, first) or _outside(folder, stage, stage.key in held, at_work)
        if status is None:
            broken = [key for key in stage.upstream if key in found and found[key].state in BROKEN]
            names = ", ".join(f"{planned[key].name} {key}" for key in broken)
            status = (
                StageStatus(stage, "blocked", f"by {names}")
                if broken
                else StageStatus(stage, "orphaned", _how_it_ended(submitted, state))
            )
        if status.state == "running":
            status = dataclasses.replace(status, progress=progress_of(stage, above, root))
        if submitted:
            status = dataclasses.replace(status, job=submitted.job, log=status.log or submitted.log)
        found[stage.key] = status
    return SweepStatus(folder, found)


def _in_queue(stage: PlannedStage, submitted: Submitted | None, state: JobState | None, first: bool) -> StageStatus | None:
    """The state of a stage whose job is in the queue; None if it has none there. A job makes its stages one after the other."""
    if submitted is None or state is None or not state.active:
        return None
    if state.state == "PENDING":
        return StageStatus(stage, "queued", state.reason)
    if not first:
        return StageStatus(stage, "queued", "next in a job that runs")
    return StageStatus(stage, "running", f"on {state.node}" if state.node else state.state)


def _outside(folder: RunFolder, stage: PlannedStage, held: bool, at_work: bool) -> StageStatus | None:
    """The state of a stage that no job of this sweep will make; None if nothing is at work on it."""
    if held:
        return StageStatus(stage, "running", "by a process outside of this sweep's jobs", log=_if_there(folder.log(stage.key)))
    if folder.failure(stage.key).exists():
        failure = read_json(folder.failure(stage.key))
        return StageStatus(stage, "failed", failure["error"], last_lines=tuple(failure["last_lines"]), log=failure["log"])
    return StageStatus(stage, "queued", "waits for its turn") if at_work else None


def _how_it_ended(submitted: Submitted | None, state: JobState | None) -> str:
    if submitted is None:
        return "nothing was started for it, or what was has ended without a word"
    return f"its job {submitted.job}: {slurm_queue.ending(submitted.job) if state else 'SLURM no longer knows it'}"


def _is_being_made(stage: PlannedStage, root: Path) -> bool:
    """Whether a process holds the stage's lock; only a stage that has begun is asked."""
    return (root / stage.name / f"{stage.key}.partial").exists() and is_held(root / stage.name / stage.key)


def _if_there(path: Path) -> str | None:
    return str(path) if path.exists() else None
