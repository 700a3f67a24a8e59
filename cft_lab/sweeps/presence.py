"""Who is running or submitting a sweep from outside the queue: a lock in the run folder that dies with its holder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cft_lab.config import ConfigError
from cft_lab.json_files import read_json, write_json
from cft_lab.locks import is_held, take

_LOCK, _ABOUT = "owner", "owner.json"  # in the run folder


@contextlib.contextmanager
def present(run_folder: Path, what: str) -> Iterator[None]:
    """Says that this process is at work on a sweep, for as long as the context lasts. Raises ConfigError where another one is."""
    lock = take(run_folder / _LOCK)
    if lock is None:
        about = read_json(run_folder / _ABOUT)
        raise ConfigError(
            f"process {about['pid']} on {about['host']} {about['what']} {run_folder.name} since {about['since']}: wait for its "
            "end, or end it with `python -m cft_lab cancel`"
        )
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "what": what}
        write_json(run_folder / _ABOUT, about)
        yield
    finally:
        lock.release()


def who(run_folder: Path) -> dict[str, Any] | None:
    """The process that is at work on a sweep (pid, host, since, what); None if there is none (any more)."""
    if not is_held(run_folder / _LOCK):
        return None
    about: dict[str, Any] = read_json(run_folder / _ABOUT)
    return about
