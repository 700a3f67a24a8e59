"""What a sweep has handed to SLURM: `submitted.json` in the run folder, one row for each job or array task, the newest last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cft_lab.json_files import read_json, write_json
from cft_lab.sweeps import slurm_queue
from cft_lab.sweeps.run_folder import RunFolder

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
    """Key -> job of the stages that have a job in the queue. Raises QueueError if SLURM does not answer."""
    submitted = submitted_jobs(folder)
    states = slurm_queue.states(one.job for one in submitted.values())
    return {key: one.job for key, one in submitted.items() if one.job in states and states[one.job].active}
