"""What the commands say and how they end: one clear message for bad input, a way on after Ctrl-C, a table at the end.

Exit codes: 0 done, 1 something failed while running, 2 bad input (nothing was started), 75 asked to end by SIGTERM or SIGUSR2
(everything is saved: start the same command again), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cft_lab.config import PROJECT_ROOT, Config, ConfigError, DataError
from cft_lab.hydra_config import explain, to_config
from cft_lab.records import Result
from cft_lab.store import EXIT_REQUEUE
from cft_lab.training.faults import TrainingError
from cft_lab.training.signals import Requeue, ending_at_once


@dataclass
class _Session:
    """What this process ran: cells as (overrides, result or what went wrong), and what it refused."""

    finished: list[tuple[tuple[str, ...], Result | str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: bool = False  # a cell of a sweep has no result
    output_root: str = ""
    full_errors: bool = False  # the user wants tracebacks


_session = _Session()
_DEBUG = "HYDRA_FULL_ERROR"
_HOW_TO_GO_ON = "What is finished stays, what was begun is resumed: run the same command again."


def run_cell(composed: DictConfig) -> Result | str | None:
    """Checks and runs one cell, its stages reported on stderr. Bad input is said and returned as text: other cells go on.

    With `train.preflight` the plan of its training is printed instead, and there is no result.
    """
    from cft_lab import pipeline, preflight

    try:
        _refuse_sweep_files()
        config = to_config(composed)
        preflight.check(config)
        if config.train.preflight:
            _print_training_plan(config)
            return None
        pipeline.check(config)
    except ConfigError as error:
        if _session.full_errors:
            raise
        _session.refused.append(_refusal(error))
        say(_session.refused[-1])
        return "not started: " + "; ".join(error.problems)
    return pipeline.run(config, say if config.progress else lambda line: None)


def run_sweep(arguments: list[str], hydra_overrides: list[str]) -> None:
    """Runs the cells of a `-m` command line and prints their tables. Raises ConfigError if any cell is bad input."""
    from cft_lab.sweeps import run
    from cft_lab.sweeps.outcomes import print_tables
    from cft_lab.sweeps.status import EXIT_UNDER_WAY, status_of

    asked, plan = run.request(arguments, hydra_overrides)
    folder = run.start(asked, plan, say if plan.configs[0].progress else lambda line: None)
    if plan.configs[0].cluster.kind == "slurm" and status_of(folder).exit_code == EXIT_UNDER_WAY:
        return  # its jobs go on without this process, which has said how to look at them
    if not print_tables(folder, {sweep.name: sweep.caption for sweep in asked.sweeps}):
        _session.failed = True
        say(f"\nWhat is finished stays: after the cause is removed, run the same command again. This run: {folder.path}")


def _refuse_sweep_files() -> None:
    """A single cell, or one of Hydra's own sweeper, is no list of cells."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get().runtime.choices.get("sweeps")
    if chosen:
        raise ConfigError(f"sweeps={chosen} is a list of cells: add -m (`python run.py -m sweeps={chosen}`), and no hydra/sweeper")


def _print_training_plan(config: Config) -> None:
    """Prints the plan of the cell's training. Raises ConfigError if it cannot run as it is."""
    from cft_lab import pipeline
    from cft_lab.stages.training_plan import plan_training, print_plan
    from cft_lab.store import Store

    try:
        trained = pipeline.plan(config).trained
    except DataError:  # a data file that the keys are made of is not here: all is assumed
        trained = None
    plan = plan_training(config, trained, Store(pipeline.output_root(config)))
    print_plan(plan)
    if plan.problems:
        raise ConfigError(*plan.problems)


def say(line: str) -> None:
    """One line about progress, on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def guarded(main: Callable[[], Any]) -> None:
    """Runs a Hydra main function and ends the process with the exit codes above.

    Hydra is asked for raw exceptions, so that errors in composing a config come here too; HYDRA_FULL_ERROR=1, if the user sets
    it, brings every traceback back.
    """
    from cft_lab.engines.api.errors import ApiError
    from cft_lab.sweeps.slurm_queue import QueueError

    _session.full_errors = os.environ.get(_DEBUG) == "1"
    os.environ[_DEBUG] = "1"
    try:
        with ending_at_once():
            main()
    except KeyboardInterrupt as interrupted:  # a sweep on SLURM says more of it
        say(f"\n{interrupted}" if str(interrupted) else f"\nInterrupted. {_HOW_TO_GO_ON}")
        sys.exit(130)
    except Requeue as ended:
        say(f"\n{ended} {_HOW_TO_GO_ON}")
        sys.exit(EXIT_REQUEUE)
    except Exception as error:
        if _session.full_errors:
            raise
        message = _bad_input(error)
        if message is None:
            if isinstance(error, (DataError, ApiError, TrainingError, QueueError)):
                say(f"Stopped: {error}")
            else:
                traceback.print_exc()
            _print_table()
            say("\nWhat is finished stays: after the cause is removed, run the same command again.")
            sys.exit(1)
        say(message)
        sys.exit(2)
    if _session.refused:
        sys.exit(2)
    sys.exit(1 if _session.failed else 0)


def _refusal(error: ConfigError) -> str:
    return "Not started, for this reason:\n" + "\n".join(f"  - {problem}" for problem in error.problems)


def _bad_input(error: Exception) -> str | None:
    """The message for an error that the user can mend; None for a failure of ours or of the machine."""
    if isinstance(error, ConfigError):
        return _refusal(error)
    what = explain(error)
    if what is None:
        return None
    return f"Not started, for this reason:\n  - {what}\n`python run.py --help` lists the groups and their choices."


class TableCallback(Callback):
    """Hydra callback: collects the cells of a run or multirun and prints their table at the end."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Notes what became of a cell."""
        overrides = tuple(job_return.overrides or ())
        _session.output_root = config.output_root
        if job_return.status is JobStatus.COMPLETED:
            _session.finished.append((overrides, job_return.return_value))
        elif isinstance(job_return._return_value, Exception):
            error = job_return._return_value
            _session.finished.append((overrides, f"{type(error).__name__}: {error}"))

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table of a single cell."""
        _print_table()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table of a grid, whose cells are all over even if one failed."""
        _print_table()


def _print_table() -> None:
    from cft_lab.final_table import label_cells, print_table

    finished = _session.finished
    if any(isinstance(what, Result) for _, what in finished) or len(finished) > 1:
        labels = label_cells([overrides for overrides, _ in finished])
        rows = [(label, what) for label, (_, what) in zip(labels, finished, strict=True)]
        print_table(rows, PROJECT_ROOT / _session.output_root)
