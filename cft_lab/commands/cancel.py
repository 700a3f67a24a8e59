"""`python -m cft_lab cancel`: ends what is under way of a sweep."""

from __future__ import annotations

import argparse

from cft_lab.commands.sweep_arguments import add_sweep, with_sweep
from cft_lab.sweeps import repair
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.stage_job import say

HELP = "ends the jobs of a sweep, or the process that runs it; what is finished stays, what was begun is resumed by retry"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_sweep(command)


def run(options: argparse.Namespace) -> int:
    """Cancels and returns the exit code: 0 unless the sweep cannot be reached from here."""
    return with_sweep(options, _cancel)


def _cancel(folder: RunFolder) -> int:
    repair.cancel(folder, say)
    return 0
