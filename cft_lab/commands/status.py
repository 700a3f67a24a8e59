"""`python -m cft_lab status`: what has become of a sweep."""

from __future__ import annotations

import argparse
import json

from cft_lab.commands.sweep_arguments import EXIT_CODES, add_sweep, with_sweep
from cft_lab.sweeps.live import show
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.status import status_of

HELP = f"what has become of each cell and stage of a sweep ({EXIT_CODES})"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_sweep(command)
    command.add_argument("--json", action="store_true", help="everything, for scripts")


def run(options: argparse.Namespace) -> int:
    """Prints the status and returns the exit code."""
    return with_sweep(options, lambda folder: _show(folder, options.json))


def _show(folder: RunFolder, as_json: bool) -> int:
    status = status_of(folder)
    if as_json:
        print(json.dumps(status.as_json(), indent=2))
    else:
        show(status)
    return status.exit_code
