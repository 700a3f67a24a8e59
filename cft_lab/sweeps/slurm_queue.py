"""What SLURM says about jobs, through its own commands. Works without an accounting database, and uses one where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_FAILED = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED")
_TIMEOUT_S = 60
ATTEMPTS = 5  # at reaching a controller that is being restarted, one every PAUSE_S
PAUSE_S = 3.0


class QueueError(RuntimeError):
    """A SLURM command failed; the text is what it said."""


@dataclass(frozen=True)
class JobState:
    """State and reason as SLURM words them, such as PENDING and Priority; `node` is empty until there is one.

    `ended` is when the job ended, in seconds since the epoch; None if it has not, or SLURM does not tell.
    """

    state: str
    reason: str
    node: str
    ended: float | None = None

    @property
    def active(self) -> bool:
        """Whether the job runs or will."""
        return self.state not in ("COMPLETED", *_FAILED)


def states(jobs: Iterable[str]) -> dict[str, JobState]:
    """The state of each job (12) or array task (12_3) that SLURM still knows. Raises QueueError if it does not answer."""
    asked = set(jobs)
    if not asked:
        return {}
    numbers = sorted({job.partition("_")[0] for job in asked}, key=int)
    found = _squeue(numbers)
    forgotten = sorted(asked - set(found))
    if forgotten:
        found |= _sacct(forgotten)
    return {job: state for job, state in found.items() if job in asked}


def _squeue(numbers: Sequence[str]) -> dict[str, JobState]:
    try:
        printed = call("squeue", "-h", "-r", "-t", "all", "-j", ",".join(numbers), "-o", "%i|%T|%r|%N|%e")
    except QueueError as error:
        if "Invalid job id" in str(error):  # said when the only job that was asked for is forgotten
            return {}
        raise
    rows = (line.split("|") for line in printed.splitlines())
    return {job: JobState(state, reason, node, _seconds(end)) for job, state, reason, node, end in rows}


def _sacct(jobs: Sequence[str]) -> dict[str, JobState]:
    """What the accounting database remembers; nothing where there is none."""
    try:
        printed = call("sacct", "-n", "-X", "-P", "-j", ",".join(jobs), "-o", "JobID,State,Reason,NodeList,End")
    except QueueError:
        return {}
    rows = [line.split("|") for line in printed.splitlines()]
    return {job: JobState(state.split()[0], reason, node, _seconds(end)) for job, state, reason, node, end in rows if state}


def _seconds(printed: str) -> float | None:
    """A local time of SLURM in seconds since the epoch; None for N/A and the like."""
    try:
        return time.mktime(time.strptime(printed, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def ending(job: str) -> str:
    """How a job ended, in words, as far as SLURM tells."""
    try:
        shown = call("scontrol", "-o", "show", "job", job)
    except QueueError:
        return "SLURM no longer knows it"
    told = dict(re.findall(r"(\w+)=(\S*)", shown.splitlines()[0]))
    code, _, signal = told.get("ExitCode", "0:0").partition(":")
    node = told.get("NodeList", "")
    words = {
        "CANCELLED": "cancelled (scancel)" if told.get("Reason") != "Dependency" else "cancelled, as what it stands on failed",
        "TIMEOUT": f"reached its time limit of {told.get('TimeLimit', '?')} before it had saved",
        "NODE_FAIL": "its node failed",
        "OUT_OF_MEMORY": "out of memory: raise cluster.<kind>.memory_gb",
    }
    killed = int(signal) or int(code) - 128
    if told.get("JobState") in words:
        how = words[told["JobState"]]
    elif killed == 9:
        how = "killed (signal 9): by hand, or for want of memory"
    elif killed > 0:
        how = f"ended by signal {killed}"
    else:
        how = f"{told.get('JobState', 'ended')} with exit code {code}"
    return how + (f", on {node}" if node not in ("", "(null)") else "")


def cancel(jobs: Sequence[str]) -> None:
    """Cancels jobs; those that are over stay as they are."""
    if jobs:
        call("scancel", *jobs)


def call(*command: str) -> str:
    """What a SLURM command prints. Raises QueueError where it fails; a controller that is away is asked again for a while."""
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    for attempt in range(ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=environment)
        except FileNotFoundError:
            raise QueueError(f"{command[0]} is not on this machine: ask where the cluster's commands are") from None
        except subprocess.TimeoutExpired:
            raise QueueError(f"{command[0]} did not answer within {_TIMEOUT_S} s") from None
        if done.returncode == 0:
            return done.stdout
        if not unreachable(done.stderr) or attempt == ATTEMPTS - 1:
            break
        time.sleep(PAUSE_S)
    raise QueueError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")


def unreachable(message: str) -> bool:
    """Whether an error message of SLURM says that the controller could not be reached just now."""
    return bool(re.search(r"Unable to contact slurm controller|Socket timed out|Connection refused|Zero Bytes", message))
