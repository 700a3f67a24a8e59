"""The signals by which a scheduler asks a process to end: SIGTERM, and SIGUSR2 ahead of a time limit.

Training finishes its micro-batch, saves and ends; everything else ends at once, because it can be resumed at any moment. Either way
the process ends with `EXIT_REQUEUE`, which tells a scheduler to start the same command again.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
#: A scheduler may send one warning to a process twice, directly and through its parent: what comes this soon is no second signal.
ECHO_S = 2.0


class Requeue(BaseException):
    """The process was asked to end and everything is saved: the same command goes on. Like KeyboardInterrupt, no failure."""


class StopRequest:
    """Whether this process was asked to end. Setting it is safe in any thread and in signal handlers."""

    def __init__(self) -> None:
        self._since: float | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        return self._since is not None

    def ask(self) -> None:
        """Asks the process to end."""
        if self._since is None:
            self._since = time.monotonic()

    @property
    def impatient(self) -> bool:
        """Whether the first asking is so long ago that another one means: now."""
        return self._since is not None and time.monotonic() - self._since > ECHO_S


@contextlib.contextmanager
def stop_requests(*, patient: bool = False) -> Iterator[StopRequest]:
    """Notes the signals instead of dying of them, for as long as the context lasts.

    A second signal raises Requeue on the spot, unless `patient`. Outside the main thread signals cannot be caught: nothing changes.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request.impatient and not patient:
            raise Requeue(f"Stopped at once by a second {signal.Signals(number).name}.")
        request.ask()

    with _handled_by(note):
        yield request


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Turns the signals into Requeue, raised wherever the main thread is, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Requeue(f"Stopped by {signal.Signals(number).name}.")

    with _handled_by(end):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
