"""SLURM as the executor of a sweep, through submitit: one job for each distinct stage, chained by `afterok`.

submitit's SlurmExecutor writes the batch script and calls sbatch; each task runs compute_job.run through srun. What sbatch is told
is in sbatch.py. The states of jobs come from SLURM itself: submitit asks sacct, which many clusters do not have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import Config, ConfigError
from cft_lab.sweeps import compute_job, live, slurm_queue, stage_job
from cft_lab.sweeps.job_graph import Job, Throttle, jobs_of, throttles
from cft_lab.sweeps.plan import KINDS, PlannedStage, to_make
from cft_lab.sweeps.presence import present
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.sbatch import parameters, refused_field
from cft_lab.sweeps.slurm_queue import QueueError
from cft_lab.sweeps.snapshot import freeze_code
from cft_lab.sweeps.submitted import Submitted, active_jobs, note

if TYPE_CHECKING:
    from submitit import SlurmExecutor


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

    Raises ConfigError and SubmitError as `submit` does.
    """
    with present(folder.path, "submits"):
        submit(folder, say)
    if folder.plan.configs[0].cluster.detach:
        say(f"To look at it:\n  {live.look_again(folder)}")
    else:
        live.watch(folder, say)


def submit(folder: RunFolder, say: Callable[[str], None] = stage_job.say) -> list[Submitted]:
    """Submits all that a sweep has to make and that no job of it is making; returns what was submitted.

    Kinds named in `cluster.local_stages` are made here first. Raises ConfigError if SLURM refuses an option (then nothing of this
    call stays in the queue), SubmitError if it has no room or cannot be reached (what it took stays, `retry` submits the rest).
    """
    underway = active_jobs(folder)
    wanted = [stage for stage in to_make(folder.plan, folder.store_root) if stage.key not in underway]
    if _make_here(folder, wanted, say):
        wanted = [stage for stage in to_make(folder.plan, folder.store_root) if stage.key not in underway]
    if not wanted:
        return []
    for stage in wanted:
        folder.failure(stage.key).unlink(missing_ok=True)
    code = freeze_code(folder.path)
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
    say(f"submitted {len(jobs)} jobs for {len(wanted)} stages; logs in {folder.path / compute_job.LOGS}")
    return [submitted for row in taken for submitted in row]


def _make_here(folder: RunFolder, wanted: Sequence[PlannedStage], say: Callable[[str], None]) -> bool:
    """Makes the stages of `cluster.local_stages`, and what they stand on; returns whether there were any.

    Raises ConfigError where they stand on something that wants a GPU job first, SubmitError where one fails.
    """
    kinds = set(folder.plan.configs[0].cluster.local_stages)
    by_key = {stage.key: stage for stage in wanted}
    needed: set[str] = set()
    for stage in reversed(wanted):
        if stage.kind in kinds or stage.key in needed:
            needed |= {stage.key, *(key for key in stage.upstream if key in by_key)}
    here = [stage for stage in wanted if stage.key in needed]
    for stage in here:
        if stage.kind not in kinds and stage.kind != "record":
            raise ConfigError(
                f"cluster.local_stages={sorted(kinds)} stands on {stage.name} {stage.key} ({stage.label}), which is made by a "
                f"{stage.kind} job: run the sweep without cluster.local_stages first, or take that kind off the list"
            )
    for stage in here:
        say(f"here, not in a job: {stage.name} {stage.key}  {stage.label}")
        if not stage_job.make(folder, stage.key, say):
            raise SubmitError(
                f"{stage.name} {stage.key} failed on this machine, and nothing was submitted; "
                f"after the cause is removed: {live.look_again(folder, 'retry')}"
            )
    return bool(here)


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
    try:
        started = _handed_over(executor, calls)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip()
        field = refused_field(said, job.kind, cluster)
        if field is None:
            raise SubmitError(
                f"sbatch did not take the {job.kind} job of {job.name}: {said}\n{sum(map(len, taken))} tasks are "
                f"submitted; for the rest: {live.look_again(folder, 'retry')}"
            ) from None
        raise ConfigError(f"{field} is refused by SLURM ({job.kind} job of {job.name}): {said}") from None
    rows = [
        Submitted(name, job.kind, task.keys, str(compute_job.log_file(folder.path, name)))
        for name, task in zip(started, job.tasks, strict=True)
    ]
    note(folder, rows)
    return rows


def _handed_over(executor: SlurmExecutor, calls: Sequence[Callable[[], None]]) -> list[str]:
    """Job ids; several calls are one array. A controller that is away is asked again for a while."""
    from submitit.core.utils import FailedJobError

    for attempt in range(slurm_queue.ATTEMPTS):
        try:
            jobs = [executor.submit(calls[0])] if len(calls) == 1 else executor.submit_array(calls)
            break
        except FailedJobError as error:
            if attempt == slurm_queue.ATTEMPTS - 1 or not slurm_queue.unreachable(str(error)):
                raise
            time.sleep(slurm_queue.PAUSE_S)
    return [job.job_id for job in jobs]


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
