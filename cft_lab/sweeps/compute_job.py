"""What a SLURM job runs: stages of a run folder, from the code frozen there. Submitted by slurm.py; the exit code is raw, so that
SLURM's state tells the truth: 0 made, 1 failed, 75 warned of its end (time limit, preemption) and to be requeued.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cft_lab.config import Config, DataError
from cft_lab.json_files import write_json
from cft_lab.store import EXIT_REQUEUE
from cft_lab.sweeps import run_folder, stage_job
from cft_lab.sweeps.plan import PlannedStage, is_made, look_afresh, to_make
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.submitted import VISIBLE_AFTER_S
from cft_lab.training.signals import Requeue

# in the run folder: one file for each task that started, with what it was granted; what jobs print
JOBS, LOGS = "jobs", "slurm"
_GRANTED = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_CPUS_ON_NODE", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT")


def run(path: Path, keys: Sequence[str], gathers: bool) -> None:
    """Makes stages in the order given, from the last on that is there, and ends the process with the exit code above.

    A stage whose upstream is not there is not made here, where the resources are others than it needs: it fails, or with
    `gathers` is left out, and `python -m cft_lab retry` makes both.
    """
    for warning in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(warning, _stop)
    loaded = run_folder.load(path)
    folder = dataclasses.replace(
        loaded, plan=dataclasses.replace(loaded.plan, configs=tuple(map(_without_network, loaded.plan.configs)))
    )
    os.environ[stage_job.LOG_VARIABLE] = str(log_file(path, job_id() or ""))
    stage_job.enter_directory(folder)
    try:
        _note_start(folder, keys)
    except Exception as error:
        stage_job.note_failure(folder, keys[0], error)
        sys.exit(1)
    stages = {stage.key: stage for stage in folder.plan.stages}
    deadline = time.monotonic() + VISIBLE_AFTER_S
    made = True
    for key in keys:
        if key not in {stage.key for stage in to_make(folder.plan, folder.store_root)}:
            continue  # it is there, or nothing needs it any more: what stood on it is finished, and its files were given up
        lost = [stages[above] for above in stages[key].upstream if not _appears(stages[above], folder.store_root, deadline)]
        if lost:
            made = gathers and made
            if not gathers and not set(stages[key].upstream) & set(keys):
                stage_job.note_failure(folder, key, DataError(_told(lost)))
        else:
            try:
                made = stage_job.make(folder, key) and made
            except Requeue as ended:  # a training that was warned has saved
                stage_job.say(f"{ended}")
                sys.exit(EXIT_REQUEUE)
    sys.exit(0 if made else 1)


def _told(lost: Sequence[PlannedStage]) -> str:
    names = ", ".join(f"{stage.name} {stage.key}" for stage in lost)
    return (
        f"{names}: made before this job started, but not in the store {VISIBLE_AFTER_S} s later; "
        "`python -m cft_lab retry` makes it again"
    )


def _appears(stage: PlannedStage, root: Path, deadline: float) -> bool:
    """Whether a finished stage is seen before the deadline: another node may have marked it a moment ago."""
    while not is_made(stage, root):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
        look_afresh(stage, root)
    return True


def _without_network(config: Config) -> Config:
    """Compute nodes have none: W&B writes to disk, and `python -m cft_lab sync` sends it from elsewhere."""
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, mode="offline"))


def _note_start(folder: RunFolder, keys: Sequence[str]) -> None:
    granted = {name: os.environ[name] for name in _GRANTED if name in os.environ}
    about = {"keys": list(keys), "job": job_id(), "host": socket.gethostname(), "pid": os.getpid(), "granted": granted}
    (folder.path / JOBS).mkdir(exist_ok=True)
    write_json(folder.path / JOBS / f"{keys[0]}.json", {**about, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    told = " ".join(f"{name}={value}" for name, value in granted.items())
    node = os.environ.get("SLURMD_NODENAME", about["host"])
    stage_job.say(f"job {about['job']} on {node}: {told}; code {Path(__file__).parents[2]}")


def job_id() -> str | None:
    """This job's id as SLURM prints it: 12, or 12_3 for a task of an array."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}" if task else os.environ.get("SLURM_JOB_ID")


def log_file(run_folder: Path, job: str) -> Path:
    """Where a job writes what it says: the name is submitit's."""
    return run_folder / LOGS / f"{job}_0_log.out"


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Time is nearly up, or the node is wanted by others: what is in journals and resume states stays."""
    stage_job.say(f"signal {signal.Signals(signal_number).name}: stopping here, to go on in the next run of this job")
    sys.exit(EXIT_REQUEUE)
