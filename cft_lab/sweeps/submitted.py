"""What a sweep has handed to SLURM: `submitted.json` in the run folder, one row for each job or array task, the newest last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cft_lab.json_files import read_json, write_json
from cft_lab.sweeps import slurm_queue
from cft_lab.sweeps.plan import is_made, look_afresh
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.slurm_queue import JobState

VISIBLE_AFTER_S = 60  # how long a finished stage may stay unseen on a shared file system before it counts as gone
_FILE = "submitted.json"


@dataclass(frozen=True)
class Submitted:
    """A job (12) or array task (12_3) that SLURM has taken, the stages that it makes in order, and its log."""

    job: str
    kind: str
    keys: tuple[str, ...]
    log: str


def note(folder: RunFolder, rows: Sequence[Submitted]) -> None:
    """Adds jobs. Called after each one, so that a submitter that is killed leaves what it did."""
    path = folder.path / _FILE
    known = read_json(path)["jobs"] if path.exists() else []
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    new = [{"job": row.job, "kind": row.kind, "keys": list(row.keys), "log": row.log, "when": now} for row in rows]
    write_json(path, {"executor": "slurm", "jobs": [*known, *new]})


def submitted_jobs(folder: RunFolder) -> dict[str, Submitted]:
    """The job that each stage was last submitted with, by the stage's key."""
    path = folder.path / _FILE
    rows = read_json(path)["jobs"] if path.exists() else []
    found = [Submitted(row["job"], row["kind"], tuple(row["keys"]), row["log"]) for row in rows]
    return {key: submitted for submitted in found for key in submitted.keys}


def active_jobs(folder: RunFolder) -> dict[str, str]:
    """Key -> job of the stages that have a job in the queue, or one whose output is about to be seen here.

    Raises QueueError if SLURM does not answer.
    """
    submitted = submitted_jobs(folder)
    states = slurm_queue.states(one.job for one in submitted.values())
    unseen = unseen_stages(folder, submitted, states)
    return {key: one.job for key, one in submitted.items() if key in unseen or (one.job in states and states[one.job].active)}


def unseen_stages(folder: RunFolder, submitted: Mapping[str, Submitted], states: Mapping[str, JobState]) -> set[str]:
    """The stages that SLURM says were completed a moment ago and that are not seen here yet: a shared file system may be late.

    A job that gathers completes without what it could not make: a stage whose upstream is not there is none of these.
    """
    planned = {stage.key: stage for stage in folder.plan.stages}
    found: set[str] = set()
    for stage in folder.plan.stages:
        state = states.get(submitted[stage.key].job) if stage.key in submitted else None
        if state is None or state.state != "COMPLETED" or is_made(stage, folder.store_root):
            continue
        look_afresh(stage, folder.store_root)
        late = state.ended is not None and time.time() - state.ended < VISIBLE_AFTER_S
        above = (key in found or is_made(planned[key], folder.store_root) for key in stage.upstream)
        if late and not is_made(stage, folder.store_root) and all(above):
            found.add(stage.key)
    return found
