"""SLURM as the executor of a sweep, through submitit: one job for each distinct stage, chained by `afterok`.

submitit's SlurmExecutor writes the batch script and calls sbatch; each task runs compute_job.run through srun. What sbatch is told
is in sbatch.py. The states of jobs come from SLURM itself: submitit asks sacct, which many clusters do not have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import Config, ConfigError
from cft_lab.sweeps import compute_job, live, slurm_queue, stage_job
from cft_lab.sweeps.job_graph import Job, Throttle, jobs_of, throttles
from cft_lab.sweeps.local_stages import Division, divide
from cft_lab.sweeps.plan import KINDS, to_make
from cft_lab.sweeps.presence import present
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.sbatch import parameters, refused_field
from cft_lab.sweeps.slurm_queue import QueueError
from cft_lab.sweeps.snapshot import freeze_code
from cft_lab.sweeps.submitted import Submitted, active_jobs, note, submitted_jobs

if TYPE_CHECKING:
    from submitit import SlurmExecutor

_LISTED = 3  # stages that a message names before it counts


class Detached(KeyboardInterrupt):
    """Ctrl-C came before all was submitted; the text says what goes on and how to go on."""


class SubmitError(QueueError):
    """SLURM took some of the jobs, or none, for a reason that passes: a full queue, a controller that does not answer."""


def check_machine(config: Config) -> None:
    """Raises ConfigError where nothing can be submitted from, and for settings that cannot work."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError("cluster=slurm: sbatch and srun are not on this machine: go to a login node, or choose cluster=local")
    try:
        slurm_queue.call("sinfo", "-h", "-o", "%P")
    except QueueError as error:
        raise ConfigError(f"cluster=slurm: SLURM does not answer here, try again or choose cluster=local: {error}") from None
    strange = sorted(set(config.cluster.local_stages) - {"data", "teacher"})
    if strange:
        raise ConfigError(f"cluster.local_stages={config.cluster.local_stages} is not allowed: choose from data, teacher")
    for kind in KINDS:
        minutes = getattr(config.cluster, kind).minutes
        if config.cluster.warning_s >= 60 * minutes:
            raise ConfigError(
                f"cluster.warning_s={config.cluster.warning_s} is no less than cluster.{kind}.minutes={minutes}: each job would be "
                "warned and requeued as soon as it starts; lower the first or raise the second"
            )


def run(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Submits what is missing of a sweep and, unless `cluster.detach`, shows it until it is over or Ctrl-C detaches.

    Where stages of `cluster.local_stages` stand on jobs, these are waited for, so that the local stages are made and the rest is
    submitted. Raises ConfigError and SubmitError as `submit` does, Detached after Ctrl-C before all was submitted.
    """
    detach = folder.plan.configs[0].cluster.detach
    tried: set[str] = set()
    try:
        with present(folder.path, "submits"):
            submit(folder, say, tried)
            while left := _waiting(folder, tried):
                if not detach:
                    say(f"waiting for {_told(folder, left.awaited)}: {_told_later(left)} are made here, and the rest is submitted")
                    looked = live.watch(folder, say, enough=lambda: not _waiting(folder, tried))
                if detach or looked is None:
                    say(
                        f"{len(left.later)} stages are not submitted: {_told_later(left)} are made where this is typed, once there "
                        f"is {_told(folder, left.awaited)}. Then go on with:\n  {live.look_again(folder, 'retry')}"
                    )
                    break
                submit(folder, say, tried)
    except KeyboardInterrupt:
        raise Detached(_interrupted(folder)) from None
    if left and not detach:
        return  # Ctrl-C, which was said
    if detach:
        say(f"To look at it:\n  {live.look_again(folder)}")
    else:
        live.watch(folder, say)


def submit(folder: RunFolder, say: Callable[[str], None] = stage_job.say, tried: set[str] | None = None) -> list[Submitted]:
    """Submits what a sweep has to make and that no job of it is making; returns what was submitted.

    Kinds named in `cluster.local_stages` are made here first; those that stand on jobs, and what stands on them, are left for a
    later call. `tried` collects the keys that were submitted or begun, and keeps later calls from doing it again. Raises
    ConfigError if SLURM refuses an option (then nothing of this call stays in the queue), SubmitError if it has no room or cannot
    be reached (what it took stays, `retry` submits the rest).
    """
    tried = set() if tried is None else tried
    code = freeze_code(folder.path)  # before anything takes its time: what is edited meanwhile runs in no job
    _make_here(folder, tried, say)
    underway = active_jobs(folder)
    wanted = _division(folder, underway, tried).jobs
    if not wanted:
        return []
    for stage in wanted:
        folder.failure(stage.key).unlink(missing_ok=True)
    jobs = jobs_of(wanted, folder.plan.configs)
    limits = throttles(jobs, folder.plan.configs[0].cluster.max_jobs)
    taken: list[list[Submitted]] = []
    makers = dict(underway)
    with _outside_of_jobs():
        for job, limit in zip(jobs, limits, strict=True):
            try:
                taken.append(_submit_job(folder, code, job, limit, makers, taken))
            except ConfigError:
                slurm_queue.cancel([submitted.job for row in taken for submitted in row])
                raise
            makers |= {key: submitted.job for submitted in taken[-1] for key in submitted.keys}
            tried |= {key for submitted in taken[-1] for key in submitted.keys}
    say(f"submitted {len(jobs)} jobs for {len(wanted)} stages; logs in {folder.path / compute_job.LOGS}")
    return [submitted for row in taken for submitted in row]


def _division(folder: RunFolder, underway: Mapping[str, str], tried: Collection[str]) -> Division:
    missing = to_make(folder.plan, folder.store_root)
    return divide(missing, folder.plan.configs[0].cluster.local_stages, underway, tried)


def _make_here(folder: RunFolder, tried: set[str], say: Callable[[str], None]) -> None:
    """Makes the stages of `cluster.local_stages` that stand on no job. One that fails is noted, and costs what stands on it."""
    if not folder.plan.configs[0].cluster.local_stages:
        return
    failed: set[str] = set()
    for stage in _division(folder, active_jobs(folder), tried).here:
        tried.add(stage.key)
        if failed & set(stage.upstream):
            failed.add(stage.key)
            continue
        say(f"here, not in a job: {stage.name} {stage.key}  {stage.label}")
        if not stage_job.make(folder, stage.key, say):
            failed.add(stage.key)


def _waiting(folder: RunFolder, tried: Collection[str]) -> Division | None:
    """What is left for later, with what it awaits, while a job is under way that local stages stand on; then None.

    With `cluster.max_jobs` all jobs are awaited, as those of a later submission would run beside them.
    """
    underway = active_jobs(folder)
    left = _division(folder, underway, tried)
    awaited = left.awaited & set(underway)
    if not awaited:
        return None
    bounded = folder.plan.configs[0].cluster.max_jobs is not None
    return dataclasses.replace(left, awaited=frozenset(underway) if bounded else awaited)


def _told(folder: RunFolder, keys: Collection[str]) -> str:
    """Stages in words, a few of them."""
    names = [f"{stage.name} {stage.key}" for stage in folder.plan.stages if stage.key in keys]
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _told_later(left: Division) -> str:
    return "stages of cluster.local_stages (" + ", ".join(dict.fromkeys(stage.name for stage in left.local)) + ")"


def _interrupted(folder: RunFolder) -> str:
    """What is said after Ctrl-C before all was submitted."""
    count = len({submitted.job for submitted in submitted_jobs(folder).values()})
    taken = f"What was submitted ({count} tasks) goes on" if count else "Nothing was submitted"
    rest = f"To submit the rest:\n  {live.look_again(folder, 'retry')}"
    return f"Detached before all was submitted. {taken}. {rest}\n{live.how_to_go_on(folder)}"


def _submit_job(
    folder: RunFolder, code: Path, job: Job, limit: Throttle, makers: Mapping[str, str], taken: Sequence[Sequence[Submitted]]
) -> list[Submitted]:
    """Hands one job to sbatch and notes it in the run folder."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    cluster = folder.plan.configs[0].cluster
    behind = {submitted.job for place in limit.behind for submitted in taken[place]}
    executor = SlurmExecutor(folder.path / compute_job.LOGS)
    executor.update_parameters(**parameters(job, cluster, code, _dependency(job, makers, behind), limit.at_once))
    calls = [partial(compute_job.run, folder.path, task.keys, job.gathers) for task in job.tasks]

    def noted(started: Sequence[str]) -> list[Submitted]:
        rows = [
            Submitted(name, job.kind, task.keys, str(compute_job.log_file(folder.path, name)))
            for name, task in zip(started, job.tasks, strict=True)
        ]
        note(folder, rows)
        return rows

    try:
        return _handed_over(executor, calls, noted)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip()
        field = refused_field(said, job.kind, cluster)
        if field is None:
            raise SubmitError(
                f"sbatch did not take the {job.kind} job of {job.name}: {said}\n{sum(map(len, taken))} tasks are "
                f"submitted; for the rest: {live.look_again(folder, 'retry')}"
            ) from None
        raise ConfigError(f"{field} is refused by SLURM ({job.kind} job of {job.name}): {said}") from None


def _handed_over(
    executor: SlurmExecutor, calls: Sequence[Callable[[], None]], noted: Callable[[Sequence[str]], list[Submitted]]
) -> list[Submitted]:
    """What `noted` says of the job ids; several calls are one array. A controller that is away is asked again for a while."""
    from submitit.core.utils import FailedJobError

    for attempt in range(slurm_queue.ATTEMPTS):
        try:
            with _interrupts_later():  # no job that sbatch has taken goes without a note
                jobs = [executor.submit(calls[0])] if len(calls) == 1 else executor.submit_array(calls)
                return noted([job.job_id for job in jobs])
        except FailedJobError as error:
            if attempt == slurm_queue.ATTEMPTS - 1 or not slurm_queue.unreachable(str(error)):
                raise
            time.sleep(slurm_queue.PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end of the context, for child processes as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
    came: list[int] = []  # by way of another thread, where they are not blocked
    handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in held}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, held)  # children inherit this: sbatch ends by itself
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for again in came:
            signal.raise_signal(again)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _dependency(job: Job, makers: Mapping[str, str], behind: set[str]) -> str | None:
    """`afterok` on what makes the upstream; a job that gathers starts when the arrays before it are over, however they ended."""
    before = {makers[key] for key in job.after if key in makers}
    if job.gathers:
        behind, before = behind | {name.partition("_")[0] for name in before}, set()
    terms = [f"{term}:{':'.join(sorted(names))}" for term, names in (("afterok", before), ("afterany", behind)) if names]
    return ",".join(terms) or None


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hides the variables of a job that this process may itself run in, which sbatch and srun would take for options."""
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in names if inside}
    try:
        yield
    finally:
        os.environ.update(hidden)
