"""A pool of worker processes that can be killed: for comparisons that may take for ever or all memory.

Each task goes to one worker. A worker that does not answer within the limit, or dies, is killed and replaced, and only its task
fails. Workers are separate interpreters started with `-m`, so that nothing of this process (threads, GPU handles, an unguarded
main script) is inherited, and they are ended by the end of their input if this process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_S = 120.0  # a worker imports sympy before its first task; on a loaded machine that takes a while
_STARTS = 3  # attempts in a row: a machine that is short of memory or processes for a moment may have them the next time
_NO_WORKER = (
    "no grading worker could start: run `python -m cft_lab.evaluation.symbolic_worker 2147483648 10` to see why "
    "(is math-verify installed? `pip install -e .`)"
)
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Limits:
    """What one comparison may use: wall seconds (and as much processor time), and bytes of address space of its worker."""

    seconds: float = 10.0
    memory_bytes: int = 2 << 30


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class PoolCounts:
    """What happened to a pool's workers."""

    started: int = 0
    killed_for_time: int = 0
    died: int = 0
    left_for_memory: int = 0
    failed_to_start: int = 0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    deadline: float
    task: int | None = None  # index of the task that it works on; None before it is ready and between tasks
    ready: bool = False
    buffer: bytes = b""


@dataclass
class WorkerPool:
    """Runs tasks in at most `jobs` workers, which start when the first task comes and stay until `close`. A context manager."""

    jobs: int
    limits: Limits = field(default_factory=Limits)
    counts: PoolCounts = field(default_factory=PoolCounts)
    _workers: list[_Worker] = field(default_factory=list)
    _failed_in_a_row: int = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One reply per task, in order; a task that was killed, whose worker died or that found none has only a `reason`."""
        replies: dict[int, dict[str, Any]] = {}
        waiting = deque(range(len(tasks)))
        self._failed_in_a_row = 0
        while len(replies) < len(tasks):
            if not self._workers and self._failed_in_a_row >= _STARTS:
                return [replies.get(index, {"reason": _NO_WORKER}) for index in range(len(tasks))]
            self._start_missing(len(tasks) - len(replies))
            for worker in self._workers:
                if worker.ready and worker.task is None and waiting:
                    self._send(worker, waiting.popleft(), tasks)
            self._wait()
            for worker in list(self._workers):
                self._collect(worker, replies, waiting)
        return [replies[index] for index in range(len(tasks))]

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def _start_missing(self, open_tasks: int) -> None:
        while len(self._workers) < min(self.jobs, open_tasks) and self._failed_in_a_row < _STARTS:
            command = [sys.executable, "-m", "cft_lab.evaluation.symbolic_worker"]
            command += [str(self.limits.memory_bytes), str(self.limits.seconds)]
            path = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
            # one thread each, and set orders that do not change from run to run
            environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
                )
            except OSError:  # no memory or no process left for a moment
                self._failed_start()
                continue
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            self._workers.append(_Worker(process, time.monotonic() + _START_S))
            self.counts.started += 1

    def _send(self, worker: _Worker, index: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        assert worker.process.stdin is not None
        worker.task = index
        worker.deadline = time.monotonic() + self.limits.seconds
        with contextlib.suppress(BrokenPipeError):  # it died; `_collect` sees that its output ended
            worker.process.stdin.write(json.dumps(tasks[index]).encode() + b"\n")
            worker.process.stdin.flush()

    def _wait(self) -> None:
        """Sleeps until a worker says something or the first deadline passes."""
        busy = [worker for worker in self._workers if worker.task is not None or not worker.ready]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ)
            first = min((worker.deadline for worker in busy), default=time.monotonic())
            selector.select(max(0.0, first - time.monotonic()))

    def _collect(self, worker: _Worker, replies: dict[int, dict[str, Any]], waiting: deque[int]) -> None:
        """Takes what a worker said; replaces it if it died, left or overran its time."""
        assert worker.process.stdout is not None
        said = worker.process.stdout.read()
        if said:
            worker.buffer += said
        while b"\n" in worker.buffer:
            line, worker.buffer = worker.buffer.split(b"\n", 1)
            reply = json.loads(line)
            if not worker.ready:
                worker.ready = True
                self._failed_in_a_row = 0
                continue
            leaving = reply.pop("leaving")
            assert worker.task is not None
            replies[worker.task] = reply
            worker.task = None
            if leaving:
                self.counts.left_for_memory += 1
                self._drop(worker)
                return
        if said == b"":
            self._lost(worker, replies, "its worker died, most likely for memory or a stack that was too deep")
        elif time.monotonic() > worker.deadline and (worker.task is not None or not worker.ready):
            self._lost(worker, replies, f"the comparison took longer than {self.limits.seconds:g} s")

    def _lost(self, worker: _Worker, replies: dict[int, dict[str, Any]], reason: str) -> None:
        if not worker.ready:
            self._drop(worker)
            self._failed_start()
            return
        _end(worker)
        overran = worker.process.returncode is not None and reason.startswith("the comparison")
        by_timer = worker.process.returncode == -signal.SIGPROF  # the kernel's count of its processor time ran out
        if overran or by_timer:
            self.counts.killed_for_time += 1
            reason = f"the comparison took longer than {self.limits.seconds:g} s"
        else:
            self.counts.died += 1
        if worker.task is not None:
            replies[worker.task] = {"reason": reason}
        self._drop(worker)

    def _failed_start(self) -> None:
        self.counts.failed_to_start += 1
        self._failed_in_a_row += 1
        time.sleep(0.1 * self._failed_in_a_row)

    def _drop(self, worker: _Worker) -> None:
        _end(worker)
        self._workers.remove(worker)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    for stream in (worker.process.stdin, worker.process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # a task that it never read
                stream.close()
