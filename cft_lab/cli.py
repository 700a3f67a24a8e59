"""What the commands say and how they end: one clear message for bad input, a way on after Ctrl-C, a table at the end.

Exit codes: 0 done, 1 something failed while running, 2 bad input (nothing was started), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.hydra_config import explain_unknown_field, to_config
from cft_lab.records import Result

#: cells finished in this process, as (overrides without the seed, result or what went wrong); the table is made of them
_finished: list[tuple[str, Result | str]] = []
_refused: list[str] = []  # cells that were not started because of bad input
_DEBUG = "HYDRA_FULL_ERROR"


def run_cell(composed: DictConfig) -> Result | str:
    """Checks and runs one cell, its stages reported on stderr. Bad input is said and returned as text: other cells go on."""
    from cft_lab import pipeline, preflight

    try:
        config = to_config(composed)
        preflight.check(config)
    except ConfigError as error:
        _refused.append(_refusal(error))
        say(_refused[-1])
        return "not started: " + "; ".join(error.problems)
    return pipeline.run(config, say if config.progress else lambda line: None)


def say(line: str) -> None:
    """One line about progress, on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def guarded(main: Callable[[], Any]) -> None:
    """Runs a Hydra main function and ends the process with the exit codes above.

    Hydra is asked for raw exceptions, so that errors in composing a config come here too; HYDRA_FULL_ERROR=1, if the user sets
    it, brings every traceback back.
    """
    full = os.environ.get(_DEBUG) == "1"
    os.environ[_DEBUG] = "1"
    try:
        main()
    except KeyboardInterrupt:
        say("\nInterrupted. What is finished stays, what was begun is resumed: run the same command again.")
        sys.exit(130)
    except Exception as error:
        if full:
            raise
        message = _bad_input(error)
        if message is None:
            traceback.print_exc()
            say("\nWhat is finished stays: after the cause is removed, run the same command again.")
            sys.exit(1)
        say(message)
        sys.exit(2)
    if _refused:
        sys.exit(2)
    sys.exit(1 if any(isinstance(what, str) for _, what in _finished) else 0)


def _refusal(error: ConfigError) -> str:
    return "Nothing was started:\n" + "\n".join(f"  - {problem}" for problem in error.problems)


def _bad_input(error: Exception) -> str | None:
    """The message for an error that the user can mend; None for a failure of ours or of the machine."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, ConfigError):
        return _refusal(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        cause = f": {error.__cause__}" if error.__cause__ else ""
        what = explain_unknown_field(error) or f"{error}{cause}".replace("\n", "\n    ")
        return f"Nothing was started:\n  - {what}\n`python run.py --help` lists the groups and their choices."
    return None


class TableCallback(Callback):
    """Hydra callback: collects the cells of a run or multirun and prints their table at the end."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Notes what became of a cell."""
        overrides = [item for item in job_return.overrides or [] if not item.startswith(("seed=", "output_root=", "tracking"))]
        label = " ".join(sorted(overrides)) or "default cell"
        if job_return.status is JobStatus.COMPLETED:
            _finished.append((label, job_return.return_value))
        elif isinstance(job_return._return_value, Exception):
            _finished.append((label, f"{type(job_return._return_value).__name__}: {job_return._return_value}"))

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table of a single cell."""
        self._print(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table of a grid."""
        self._print(config)

    def _print(self, config: DictConfig) -> None:
        from cft_lab.tables import print_table

        if any(isinstance(what, Result) for _, what in _finished) or len(_finished) > 1:
            print_table(_finished, PROJECT_ROOT / config.output_root)
