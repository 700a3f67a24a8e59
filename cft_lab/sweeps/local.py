"""Runs a sweep on this machine: in this process, or in several at once that have its GPUs dealt out.

A stage that fails blocks what stands on it and nothing else. Ctrl-C ends all processes; what they had begun is resumed by the same
command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from cft_lab import pipeline, stages
from cft_lab.config import PROJECT_ROOT, Config, ConfigError
from cft_lab.engines.sharding import visible_gpus
from cft_lab.runtime import has_gpu
from cft_lab.store import Store
from cft_lab.sweeps import stage_job
from cft_lab.sweeps.plan import PlannedStage, lost, to_make
from cft_lab.sweeps.presence import present
from cft_lab.sweeps.run_folder import RunFolder

Say = Callable[[str], None]
_GRACE_S = 10.0  # for a process to end after it was interrupted


def run(folder: RunFolder, say: Say) -> None:
    """Makes what is missing of a sweep. What failed is in the run folder's failures; the rest is in the store."""
    with present(folder.path, "runs"):
        _run(folder, say)


def _run(folder: RunFolder, say: Say) -> None:
    plan, root = folder.plan, folder.store_root
    config = plan.configs[0]
    for stage in lost(plan, root):
        say(f"   gone {stage.name:<12} {stage.key}  its folder was deleted, so it is made again: {stage.label}")
    missing = to_make(plan, root)
    board = Board(missing, say)
    if config.cluster.workers == 1:
        while (taken := board.take()) is not None:
            board.finish(taken, stage_job.make(folder, taken.key, say))
    elif missing:
        _run_workers(folder, board, say)
    _reuse(folder, {stage.key for stage in missing}, say)


def _reuse(folder: RunFolder, missing: set[str], say: Say) -> None:
    """What is to be said and tracked of the cells that are finished already."""
    store = Store(folder.store_root, say)
    for config in folder.plan.configs:
        cell = pipeline.plan(config)
        if cell.result.key not in missing:
            store.ensure(cell.result)  # warns if other source code has made it
            stages.track(config, store, cell.result, cell.trained)


class Board:
    """What is to be made, handed out as soon as what it stands on is there. Safe to use from several threads."""

    def __init__(self, missing: Sequence[PlannedStage], say: Say) -> None:
        self._waiting = list(missing)
        self._unmade = {stage.key for stage in missing}
        self._failed: set[str] = set()
        self._under_way = 0
        self._changed = threading.Condition()
        self._say = say

    def take(self) -> PlannedStage | None:
        """The next stage in plan order that can be made, waited for if need be; None when there will be none."""
        with self._changed:
            while True:
                self._drop_blocked()
                for stage in self._waiting:
                    if not self._unmade & set(stage.upstream):
                        self._waiting.remove(stage)
                        self._under_way += 1
                        return stage
                if not self._waiting or not self._under_way:
                    return None
                self._changed.wait()

    def finish(self, stage: PlannedStage, made: bool) -> None:
        """Says what became of a stage that was taken."""
        with self._changed:
            self._under_way -= 1
            if made:
                self._unmade.discard(stage.key)
            else:
                self._failed.add(stage.key)
            self._changed.notify_all()

    def stop(self) -> None:
        """Nothing more is handed out."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def _drop_blocked(self) -> None:
        for stage in list(self._waiting):
            if self._failed & set(stage.upstream):
                self._failed.add(stage.key)
                self._waiting.remove(stage)
                self._say(f"blocked {stage.name:<12} {stage.key}  by what failed before it: {stage.label}")


def _run_workers(folder: RunFolder, board: Board, say: Say) -> None:
    config = folder.plan.configs[0]
    _warn_of_threads(folder.plan.configs, say)
    workers = [Worker(folder, number, gpus) for number, gpus in enumerate(deal_gpus(config), start=1)]
    threads = [threading.Thread(target=_serve, args=(worker, board, say), daemon=True) for worker in workers]
    with _signals_interrupt():
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(timeout=1.0)
        finally:
            board.stop()
            for worker in workers:
                worker.interrupt()
            for worker in workers:
                worker.end()


def _serve(worker: Worker, board: Board, say: Say) -> None:
    while (stage := board.take()) is not None:
        say(f"  start {stage.name:<12} {stage.key}  in worker {worker.number}: {stage.label}")
        made = worker.make(stage)
        if worker.interrupted:
            return
        end = "   made" if made else " failed"
        say(f"{end} {stage.name:<12} {stage.key}  in worker {worker.number}: {stage.label}")
        board.finish(stage, made)


class Worker:
    """A process that makes one stage after another. One that dies costs the stage that it was making, and is started again."""

    def __init__(self, folder: RunFolder, number: int, gpus: str | None) -> None:
        """`gpus` is its CUDA_VISIBLE_DEVICES; None leaves the variable as it is."""
        self.number = number
        self.interrupted = False
        self._folder = folder
        # workers share the cores: a thread that waits in a busy loop would keep another worker's from running
        self._environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()  # no process is started once it was interrupted

    def make(self, stage: PlannedStage) -> bool:
        """Has a stage made; returns whether it was."""
        with self._starting:
            if self.interrupted:
                return False
            process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{stage.key}\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer:
            return answer.split() == [stage.key, stage_job.MADE]
        code = process.wait()
        with self._starting:
            if not self.interrupted:
                self._process = None
                _put_away(process)
                stage_job.note_failure(self._folder, stage.key, RuntimeError(_why(code)), self._folder.log(stage.key))
        return False

    def interrupt(self) -> None:
        """Ends the process and its children as Ctrl-C does."""
        with self._starting:
            self.interrupted = True
            if self._process is not None:
                _signal_group(self._process, signal.SIGINT)

    def end(self) -> None:
        """Waits for the end of the process and makes it end after a while, with all its children."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
            _put_away(self._process)

    def _start(self) -> subprocess.Popen[str]:
        with (self._folder.path / "logs" / f"worker-{self.number}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "cft_lab.sweeps.stage_job", str(self._folder.path), "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=PROJECT_ROOT,
                env=self._environment,
                start_new_session=True,  # a group of its own, so that all its children can be ended with it
            )


def _signal_group(process: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _put_away(process: subprocess.Popen[str]) -> None:
    """Ends what is left of a process and its children, which may hold a GPU, and closes its pipes."""
    _signal_group(process, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()


def _why(code: int) -> str:
    if code >= 0:
        return f"the process that made it ended with exit code {code}; its log may tell why"
    name = signal.Signals(-code).name
    hint = ": perhaps the machine ran out of memory, `dmesg` would say so" if name == "SIGKILL" else ""
    return f"the process that made it was ended by {name}{hint}"


def deal_gpus(config: Config) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each worker; None where there is no GPU to deal. Raises ConfigError if there are too few."""
    workers, each = config.cluster.workers, config.cluster.gpus_per_worker
    if not has_gpu():
        return [None] * workers
    gpus = visible_gpus()
    if len(gpus) < workers * each:
        raise ConfigError(
            f"cluster.workers={workers} with cluster.gpus_per_worker={each} need {workers * each} GPUs, and there are {len(gpus)} "
            "here: lower one of them"
        )
    return [",".join(gpus[place * each : (place + 1) * each]) for place in range(workers)]


def _warn_of_threads(configs: Sequence[Config], say: Say) -> None:
    threads = max(max(config.engine.cpu_threads, config.train.cpu_threads) for config in configs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = configs[0].cluster.workers
    if not has_gpu() and workers * threads > cores:
        say(
            f"warning: cluster.workers={workers} with {threads} threads each share {cores} cores and slow each other down; "
            "engine.cpu_threads and train.cpu_threads stay as they are, because they are part of results"
        )


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM, and the end of the terminal, end the sweep as Ctrl-C does: its processes would live on otherwise."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
