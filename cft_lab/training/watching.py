"""What the parent of a training's processes sees of them: rows of metrics, a progress bar, what they died of."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cft_lab.training.meters import Bar, StepMetrics

_LOG_LINES = 15  # of a process that died
_DEATH = re.compile(r"rank\s*: (?P<rank>\d+) \(local_rank: (?P<local>\d+)\)\s+exitcode\s*: (?P<code>-?\d+)")


class MetricsTail:
    """New rows of a metrics file that another process writes, and cuts back and writes again whenever it starts.

    A training that resumes writes the rows of the same steps again in the same order: the n-th row stays the n-th, so each place is
    read once. Rows up to `resume_step` are there from earlier and are passed over.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self._path = path
        self._seen = 0
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            self._seen = sum(row["step"] <= resume_step for row in rows)
        self._file: IO[str] | None = None
        self._place = 0  # lines read of the file that is open

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows that were finished since the last call."""
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return
        if self._file is None or os.fstat(self._file.fileno()).st_ino != current.st_ino:
            if self._file is not None:
                self._file.close()
            self._file, self._place = self._path.open(encoding="utf-8"), 0
        start = self._file.tell()
        while (line := self._file.readline()).endswith("\n"):
            start = self._file.tell()
            self._place += 1
            if self._place > self._seen:
                self._seen = self._place
                yield json.loads(line)
        self._file.seek(start)  # before a row that is not finished

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()


class RemoteBar:
    """The bar of a training that runs in other processes; nothing unless `shown`."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Bar | None = None

    def begin(self, outcome: Mapping[str, Any]) -> None:
        """Takes the number of steps from what the first process left, once it is there."""
        if self._bar is None and outcome["kind"] == "running":
            self._bar = Bar(outcome["steps"], outcome["done"], self._shown)

    def show(self, row: Mapping[str, Any]) -> None:
        """Shows a row of metrics, if it is one of a step."""
        if self._bar is not None and "loss" in row:
            self._bar.show(StepMetrics(**row))

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.__exit__()


def dead_processes(place: Path, node: int) -> list[dict[str, str]]:
    """The training processes that the launcher of a node saw to fail: rank, local rank and exit code of each."""
    log = place / f"launcher-{node}.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [found.groupdict() for found in _DEATH.finditer(text)]


def post_mortem(place: Path, first: int = 0) -> str:
    """Which process of a training died first, how, and the last lines of its log, from what the launchers left in `place`.

    `first` is the node whose launcher is asked first.
    """
    logs = sorted(place.glob("launcher-*.log"), key=lambda log: (log.stem != f"launcher-{first}", log.stem))
    for log in logs:
        deaths = dead_processes(place, int(log.stem.removeprefix("launcher-")))
        # torchrun ends the others with SIGTERM and names the first that it saw to fail last; a kill is never a consequence
        killed = [death for death in deaths if death["code"].startswith("-") and int(death["code"]) != -signal.SIGTERM]
        if deaths:
            death = (killed or deaths)[-1]
            node = place / log.stem.replace("launcher", "node")
            own = max(node.glob(f"**/attempt_*/{death['local']}/stderr.log"), key=lambda path: path.stat().st_mtime, default=None)
            return f"training process {death['rank']} {_how(int(death['code']))}{_last_lines(own)}"
    logs = [log for log in logs if log.stat().st_size]
    return f"the training's processes did not start{_last_lines(logs[0] if logs else None)}"


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = " (too little memory in the machine is the usual cause)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _last_lines(log: Path | None) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-_LOG_LINES:] if log else []
    return ". Its log ends with:\n" + "\n".join(f"  | {line}" for line in lines) + "\n" if lines else ""
