"""`python -m cft_lab sync`: uploads to W&B what runs wrote offline, where there is a network.

A run that was started several times, because its job was requeued, has several segments with one id: folders in
`<store>/tracking/wandb/`. Each holds the run from its first step on, and the one that is uploaded last stands, so they are uploaded
one after the other in the order of their starts. W&B's own client (`wandb sync`) does it and marks what it has sent, so that a
second call sends nothing. A segment that cannot be uploaded stops the later ones of its run, not other runs. What a process is
still writing is left for a later call.

Exit codes: 0 everything is uploaded, 1 something is not, 2 bad input (no key, no wandb).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cft_lab.commands.listing import printable, size_text
from cft_lab.locks import is_held
from cft_lab.tracking import TRACKING

#: as wandb names a segment: its start in local time, and the id of its run
_SEGMENT = re.compile(r"offline-run-(?P<start>\d{8}_\d{6})-(?P<run>.+)")
#: a segment's file: a header, then blocks of chunks, each with a head of its own (LevelDB's log format)
_HEADER, _BLOCK, _HEAD = 7, 32768, 7  # bytes
_WHOLE, _LAST = 1, 4  # types of the chunks that end a record
_LATELY_S, _QUIET_S = 60.0, 3.0
_KEY = "WANDB_API_KEY"
_NOT_PASSED = ("WANDB_MODE", "WANDB_SILENT", "WANDB_QUIET", "WANDB_SERVICE")  # it is online, says what is wrong, and is alone


@dataclass(frozen=True)
class Segment:
    """What one process wrote of a run; `file` is in a folder of its own."""

    file: Path
    run: str
    start: str

    @property
    def is_sent(self) -> bool:
        """Whether wandb has marked it as uploaded whole."""
        return self.file.with_suffix(".wandb.synced").exists()

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing that could be uploaded: its process was killed before anything was written."""
        return end_of_records(self.file) == _HEADER


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("--dry-run", action="store_true", help="only lists what would be uploaded, in order")
    command.add_argument("--timeout-s", type=float, default=600.0, help="seconds that one segment may take (default: 600)")


def run(options: argparse.Namespace) -> int:
    """Uploads what is not uploaded yet."""
    if importlib.util.find_spec("wandb") is None:
        return _bad("the package wandb is not installed: `pip install wandb`")
    runs = pending(options.store)
    if options.dry_run:
        for segment in [segment for segments in runs.values() for segment in segments]:
            print(f"would upload {segment.file.parent}  {size_text(segment.file.stat().st_size)}")
    elif runs and not os.environ.get(_KEY):
        return _bad(f"{_KEY} is not set: export the key that https://wandb.ai/authorize shows")
    failed = 0
    for run_id, segments in runs.items() if not options.dry_run else ():
        for place, segment in enumerate(segments):
            problem = _upload(segment, options.timeout_s)
            if problem is not None:
                failed += len(segments) - place
                waiting = f"; {len(segments) - place - 1} later segments of the run wait for it" if segments[place + 1 :] else ""
                print(f"not uploaded: {segment.file.parent} of run {run_id}: {problem}{waiting}", file=sys.stderr)
                break
            print(f"uploaded {segment.file.parent}")
    if not runs:
        print("There is nothing to upload.")
    return 1 if failed else 0


def _bad(message: str) -> int:
    print(f"Nothing was uploaded: {message}", file=sys.stderr)
    return 2


def pending(root: Path) -> dict[str, list[Segment]]:
    """The segments of a store that are to be uploaded, by run and in order of their starts; none of a run that is being written."""
    found = []
    for file in root.glob(f"{TRACKING}/wandb/offline-run-*/run-*.wandb"):
        named = _SEGMENT.fullmatch(file.parent.name)
        if named:
            found.append(Segment(file, named["run"], named["start"]))
    found = [segment for segment in found if not segment.is_sent]
    for run_id in sorted({segment.run for segment in found}):
        if is_held(root / TRACKING / run_id):
            print(f"left for later: run {run_id}, which a process is writing")
            found = [segment for segment in found if segment.run != run_id]
    _wait_until_quiet([segment.file for segment in found])
    runs: dict[str, list[Segment]] = {}
    for segment in sorted(found, key=lambda segment: segment.start):
        if not segment.is_empty:
            runs.setdefault(segment.run, []).append(segment)
    return runs


def _wait_until_quiet(files: list[Path]) -> None:
    """wandb writes on for a moment after a run has ended: waits until files that changed lately have the size that they had."""
    while files := [file for file in files if abs(time.time() - file.stat().st_mtime) < _LATELY_S]:
        sizes = [file.stat().st_size for file in files]
        time.sleep(_QUIET_S)
        files = [file for file, size in zip(files, sizes, strict=True) if file.stat().st_size != size]


def end_of_records(file: Path) -> int:
    """Where the last whole record of a segment ends, in bytes from its start. A kill leaves a torn one behind it."""
    size = file.stat().st_size
    place = end = _HEADER
    with file.open("rb") as stream:
        while place + _HEAD <= size:
            if (room := _BLOCK - place % _BLOCK) < _HEAD:
                place += room
                continue
            stream.seek(place + 4)
            length, kind = int.from_bytes(stream.read(2), "little"), stream.read(1)[0]
            place += _HEAD + length
            if not _WHOLE <= kind <= _LAST or place > size:
                break
            if kind in (_WHOLE, _LAST):
                end = place
    return end


def _upload(segment: Segment, timeout_s: float) -> str | None:
    """Has wandb upload a segment; returns why it is not uploaded, None if it is.

    wandb ends with 0 even where the server refused: what counts is its mark, which it does not give to a segment with a torn end.
    An unreachable server it tries for hours: hence the time limit, after which it is ended with the process that it has started.
    """
    os.truncate(segment.file, end_of_records(segment.file))
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}
    with subprocess.Popen(
        [sys.executable, "-m", "wandb", "sync", str(segment.file.parent.absolute())],
        env=environment | {"WANDB_DIR": str(segment.file.parent.parent.parent.absolute())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told = process.communicate(timeout=timeout_s)[0]
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            told = process.communicate()[0]
            return f"no answer within {timeout_s:g} s (--timeout-s); wandb says: {_last_line(told)}"
    return None if segment.is_sent else f"wandb says: {_last_line(told)}"


def _last_line(told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return printable((errors or lines or ["nothing"])[-1])
