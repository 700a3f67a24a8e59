"""`python -m cft_lab retry`: makes what is missing of a sweep, by the executor that it was started with."""

from __future__ import annotations

import argparse

from cft_lab.commands.sweep_arguments import EXIT_CODES, add_sweep, with_sweep
from cft_lab.sweeps import repair
from cft_lab.sweeps.live import show
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.stage_job import say
from cft_lab.sweeps.status import status_of

HELP = f"makes what failed, was lost or was never begun of a sweep; all else is reused ({EXIT_CODES})"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_sweep(command)


def run(options: argparse.Namespace) -> int:
    """Runs or submits what is missing, and returns the exit code of the sweep's state after it."""
    return with_sweep(options, _retry)


def _retry(folder: RunFolder) -> int:
    repair.retry(folder, say)
    status = status_of(folder)
    show(status)
    return status.exit_code
