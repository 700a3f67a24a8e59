"""Going on with a sweep that is not whole, and ending one that is under way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable

from cft_lab.config import ConfigError
from cft_lab.sweeps import local, presence, slurm, slurm_queue
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.submitted import active_jobs

Say = Callable[[str], None]


def retry(folder: RunFolder, say: Say) -> None:
    """Makes what is missing of a sweep, by the executor that it was started with; what is made or under way is left alone.

    Configs and, on SLURM, code are those of the first start. Raises ConfigError if another process is at work on the sweep.
    """
    run = slurm.run if folder.plan.configs[0].cluster.kind == "slurm" else local.run
    run(folder, say)


def cancel(folder: RunFolder, say: Say) -> None:
    """Ends a sweep: its jobs in the queue, and the process that runs or submits it. What is finished stays."""
    jobs = sorted(set(active_jobs(folder).values()))
    slurm_queue.cancel(jobs)
    if jobs:
        say(f"cancelled {len(jobs)} jobs")
    about = presence.who(folder.path)
    if about is not None and about["host"] != socket.gethostname():
        raise ConfigError(f"{folder.path.name} is run by process {about['pid']} on {about['host']}: cancel it there")
    if about is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(about["pid"], signal.SIGINT)
        say(f"interrupted process {about['pid']}")
    if not jobs and about is None:
        say("nothing of it is under way")
