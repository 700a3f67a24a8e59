"""Makes stages of a run folder in a process of their own: `python -m cft_lab.sweeps.stage_job RUN_FOLDER KEY...`

With --serve, keys come from stdin, a line each; each stage writes to its log, and stdout answers `KEY made` or `KEY failed`.
Exit codes: 0 made (or already there), 1 failed (the reason is in RUN_FOLDER/failures/KEY.json), 2 the run folder cannot be used,
75 stopped before the end and to be started again (see training/signals.py), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from cft_lab import pipeline, preflight, stages
from cft_lab.config import Config, ConfigError, DataError
from cft_lab.engines.api.errors import ApiError
from cft_lab.json_files import write_json
from cft_lab.store import EXIT_REQUEUE, Stage, Store
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.plan import COMPUTING, kind_of
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.training.signals import Requeue

_LAST_LINES = 30  # of a traceback, kept in a failure
MADE = "made"  # the answer to a key
LOG_VARIABLE = "CFT_LAB_STAGE_LOG"  # who starts this process says in it where its output goes


def main(arguments: list[str] | None = None) -> int:
    """Makes the named stages in the order given, and goes on after one that failed; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cft_lab.sweeps.stage_job", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--serve", action="store_true", help="take keys from stdin")
    options = parser.parse_args(arguments)
    try:
        folder = run_folder.load(options.run_folder.absolute())
    except ConfigError as error:
        say(str(error))
        return 2
    enter_directory(folder)
    if options.serve:
        _serve(folder)
        return 0
    made = [make(folder, key) for key in options.keys]
    return 0 if all(made) else 1


def enter_directory(folder: RunFolder) -> None:
    """Goes where the sweep was started, which may not be on this machine. That is said, and no failure: frozen paths are absolute.

    Only the folder of a model, which is named in keys as it was typed, may be relative: a stage that misses it says so.
    """
    try:
        os.chdir(folder.about["directory"])
    except OSError as error:
        say(f"the directory of the start cannot be entered here ({error}): goes on in {_current_directory()}")


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted: / is always there
        os.chdir("/")
        return "/"


def _serve(folder: RunFolder) -> None:
    """Makes what stdin names until it is closed. What a stage writes on stdout or stderr, child processes included, is its log."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        for line in sys.stdin:
            key = line.strip()
            with folder.log(key).open("ab") as log:
                os.dup2(log.fileno(), sys.stdout.fileno())
                os.dup2(log.fileno(), sys.stderr.fileno())
            os.environ[LOG_VARIABLE] = str(folder.log(key))
            made = make(folder, key)
            sys.stdout.flush()
            print(key, MADE if made else "failed", file=answers, flush=True)


def make(folder: RunFolder, key: str, tell: Callable[[str], None] | None = None) -> bool:
    """Makes one stage of the sweep; returns whether it is there, and otherwise writes why not. `tell` gets lines about progress."""
    try:
        config, cell, stage = _find(folder, key)
        store = Store(pipeline.output_root(config), tell or say)
        _tell_lost(store, stage, tell or say)
        _check(config, store, stage)
        store.ensure(stage)
        if stage.key == cell.result.key:
            stages.track(config, store, cell.result, cell.trained)
    except Exception as error:
        note_failure(folder, key, error)
        return False
    folder.failure(key).unlink(missing_ok=True)
    return True


def _find(folder: RunFolder, key: str) -> tuple[Config, pipeline.Cell, Stage]:
    """The config, cell and live stage of a key. Raises ConfigError if the code or the data no longer give that key."""
    planned = {stage.key: stage for stage in folder.plan.stages}
    if key not in planned:
        raise ConfigError(f"{key} is not a stage of {folder.path}")
    config = folder.plan.configs[planned[key].cell]
    cell = pipeline.plan(config)
    for stage in cell.result.walk():
        if stage.key == key:
            return config, cell, stage
    raise ConfigError(
        f"{planned[key].name} {key} ({planned[key].label}) cannot be made as it was planned: prompts, versions or data files have "
        "changed since; start the sweep again to plan it with today's"
    )


def _tell_lost(store: Store, stage: Stage, tell: Callable[[str], None]) -> None:
    """Says which upstream stages are not there, though this job was to start after them: they are made again here."""
    for missing in store.unmade(stage):
        if missing is not stage:
            tell(f"   gone {missing.name:<12} {missing.key}  is not in the store and is made here: {missing.label}")


def _check(config: Config, store: Store, stage: Stage) -> None:
    """Raises ConfigError with what this machine lacks for the stage: the one that planned it may have been another."""
    unmade = list(store.unmade(stage))
    computes = any(kind_of(missing.name, config) in COMPUTING for missing in unmade)
    lacking = [*(preflight.compute_lacks(config) if computes else ()), *(line for missing in unmade for line in missing.lacks())]
    if lacking:
        raise ConfigError(*dict.fromkeys(lacking))


def note_failure(folder: RunFolder, key: str, error: Exception, log: Path | None = None) -> None:
    """Writes why a stage failed, and says it: the message alone where it tells all, else the end of the traceback.

    `log` is where its output went, if this is not the process that made it.
    """
    planned = next((stage for stage in folder.plan.stages if stage.key == key), None)
    clear = isinstance(error, (ConfigError, DataError, ApiError))
    lines = (str(error) if clear else "".join(traceback.format_exception(error))).splitlines()[-_LAST_LINES:]
    failure = {
        "key": key,
        "name": planned.name if planned else None,
        "label": planned.label if planned else None,
        "error": f"{type(error).__name__}: {error}",
        "last_lines": lines,
        "log": str(log) if log else os.environ.get(LOG_VARIABLE),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(folder.failure(key), failure)
    say(f" failed {failure['name'] or '':<12} {key}  " + "\n        ".join(lines))


def say(line: str) -> None:
    """One line, on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Requeue as ended:  # a training that was asked to end has saved
        say(f"{ended}")
        sys.exit(EXIT_REQUEUE)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
