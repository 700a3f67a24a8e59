"""Going on with a sweep that is not whole, and ending one that is under way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from cft_lab.config import ConfigError
from cft_lab.sweeps import local, presence, slurm, slurm_queue
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.slurm_queue import QueueError
from cft_lab.sweeps.submitted import active_jobs

Say = Callable[[str], None]
_END_S = 60.0  # for a process to end after it was interrupted: it may be waiting for sbatch


class SubmitterError(QueueError):
    """A process at work on a sweep does not end."""


def retry(folder: RunFolder, say: Say) -> None:
    """Makes what is missing of a sweep, by the executor that it was started with; what is made or under way is left alone.

    Configs and, on SLURM, code are those of the first start. Raises ConfigError if another process is at work on the sweep.
    """
    run = slurm.run if folder.plan.configs[0].cluster.kind == "slurm" else local.run
    run(folder, say)


def cancel(folder: RunFolder, say: Say) -> None:
    """Ends a sweep: first the process that runs or submits it, then its jobs in the queue. What is finished stays.

    Raises ConfigError where that process is on another machine, SubmitterError if it does not end; then no job is cancelled, as
    the process would submit others.
    """
    about = presence.who(folder.path)
    if about is not None:
        _interrupt(folder, about)
        say(f"interrupted process {about['pid']}")
    jobs = sorted(set(active_jobs(folder).values()))
    slurm_queue.cancel(jobs)
    if jobs:
        say(f"cancelled {len(jobs)} jobs")
    if not jobs and about is None:
        say("nothing of it is under way")


def _interrupt(folder: RunFolder, about: dict[str, Any]) -> None:
    """Ends the process that is at work on a sweep, as Ctrl-C does, and waits for its end."""
    who = f"process {about['pid']} on {about['host']} {about['what']} {folder.path.name} since {about['since']}"
    if about["host"] != socket.gethostname():
        raise ConfigError(f"{who}, and would go on with it: cancel it there; nothing was cancelled")
    with contextlib.suppress(ProcessLookupError):
        os.kill(about["pid"], signal.SIGINT)
    deadline = time.monotonic() + _END_S
    while presence.who(folder.path) is not None:
        if time.monotonic() > deadline:
            raise SubmitterError(f"{who} and did not end within {_END_S:.0f} s of an interrupt; none of its jobs was cancelled")
        time.sleep(0.1)
