"""What `status`, `retry` and `cancel` share: which sweep, in which store, and their exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from cft_lab.config import ConfigError
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.slurm_queue import QueueError

EXIT_CODES = "exit codes: 0 all is done, 1 something failed or is missing, 2 bad input, 3 something runs or is queued"


def add_sweep(command: argparse.ArgumentParser) -> None:
    """The name of a sweep; `--store` is added where all commands get it."""
    command.add_argument(
        "sweep",
        nargs="?",
        help="a sweep, such as lab/table6, or part of a run folder's name in STORE/sweeps, or its path (default: the newest)",
    )


def with_sweep(options: argparse.Namespace, act: Callable[[RunFolder], int]) -> int:
    """Finds the sweep and acts on it; returns the exit code, after a message where it cannot be done."""
    try:
        return act(run_folder.find(options.store, options.sweep))
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    except QueueError as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
