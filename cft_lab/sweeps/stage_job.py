"""Makes stages of a run folder in a process of their own: `python -m cft_lab.sweeps.stage_job RUN_FOLDER KEY...`

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
from pathlib import Path

from cft_lab import pipeline, stages
from cft_lab.config import Config, ConfigError, DataError
from cft_lab.engines.api.errors import ApiError
from cft_lab.store import Stage, Store, write_json
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.run_folder import RunFolder

_LAST_LINES = 30  # of a traceback, kept in a failure
LOG_VARIABLE = "CFT_LAB_STAGE_LOG"  # who starts this process says in it where its output goes


def main(arguments: list[str] | None = None) -> int:
    """Makes the named stages in the order given, and goes on after one that failed; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cft_lab.sweeps.stage_job", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("keys", nargs="+", metavar="KEY")
    options = parser.parse_args(arguments)
    try:
        folder = run_folder.load(options.run_folder.absolute())
    except ConfigError as error:
        say(str(error))
        return 2
    os.chdir(folder.about["directory"])  # paths of the config start there
    made = [make(folder, key) for key in options.keys]
    return 0 if all(made) else 1


def make(folder: RunFolder, key: str) -> bool:
    """Makes one stage of the sweep; returns whether it is there, and otherwise writes why not."""
    try:
        config, cell, stage = _find(folder, key)
        store = Store(pipeline.output_root(config), say)
        _tell_lost(store, stage)
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


def _tell_lost(store: Store, stage: Stage) -> None:
    """Says which upstream stages are not there, though this job was to start after them: they are made again here."""
    for lost in store.unmade(stage):
        if lost is not stage:
            say(f"   gone {lost.name:<12} {lost.key}  is not in the store and is made here: {lost.label}")


def note_failure(folder: RunFolder, key: str, error: Exception) -> None:
    """Writes why a stage failed, and says it: the message alone where it tells all, else the end of the traceback."""
    planned = next((stage for stage in folder.plan.stages if stage.key == key), None)
    clear = isinstance(error, (ConfigError, DataError, ApiError))
    lines = (str(error) if clear else "".join(traceback.format_exception(error))).splitlines()[-_LAST_LINES:]
    failure = {
        "key": key,
        "name": planned.name if planned else None,
        "label": planned.label if planned else None,
        "error": f"{type(error).__name__}: {error}",
        "last_lines": lines,
        "log": os.environ.get(LOG_VARIABLE),
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
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
