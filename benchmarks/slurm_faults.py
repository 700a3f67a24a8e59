"""A lab table 2, reduced, on a real SLURM while faults are injected, against an undisturbed run on this machine.

    python benchmarks/slurm_faults.py [--faults 16] [--seed 0] [--keep FOLDER]

Needs root and SLURM's programs (tests/slurm_cluster.py). Three base models, five methods, one benchmark: 15 cells, 12 trainings,
one thread each. Faults of eight kinds hit random jobs, one after the other; `python -m cft_lab retry` gets whatever is broken.
Prints what was injected, how often stages were made, and whether all generations and grades are the same, item by item. Exit code 1
if any differ, if a stage was made twice, or if fewer than 12 faults of 6 kinds could be injected before the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "sweeps")]

from cells import DEBUG  # noqa: E402 - lies beside the tests
from slurm_cluster import SlurmCluster  # noqa: E402
from sweep_tools import SHORT_AND_ONE_THREAD, SMALL_JOBS  # noqa: E402

from cft_lab.store import read_json  # noqa: E402
from cft_lab.sweeps import run_folder  # noqa: E402
from cft_lab.sweeps.compute_job import JOBS  # noqa: E402
from cft_lab.sweeps.plan import is_made  # noqa: E402
from cft_lab.sweeps.run_folder import RunFolder  # noqa: E402
from cft_lab.sweeps.slurm_queue import QueueError  # noqa: E402
from cft_lab.sweeps.status import EXIT_DONE, status_of  # noqa: E402

CELLS = (
    "sweeps=lab/table2",
    *(override for override in DEBUG if not override.startswith("model=")),
    *SHORT_AND_ONE_THREAD,
    "train.epochs=10",
    "train.selection.mode=last",
    "benchmarks.names=[lab-basic]",
    "benchmarks.items=20",
    "progress=true",
)
PAUSE_S = 12.0  # between a fault and the next
SHORT_PAUSE_S = 2.0  # where the sweep is nearer to its end than the faults are
LEAST_FAULTS, LEAST_KINDS = 12, 6  # fewer are no test
LIMIT_S = 3600.0


class Run:
    """A sweep on a cluster, the process that submits and shows it, and what is done to both."""

    def __init__(self, cluster: SlurmCluster, root: Path, seed: int) -> None:
        self.cluster, self.root = cluster, root
        self.draw = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.retries = 0
        self.log = (root.parent / "submitter.log").open("ab")
        self.submitter = self._start("run.py", "-m", *CELLS, *SMALL_JOBS, f"output_root={root}")
        cluster.until(lambda: list(root.glob("sweeps/*/submitted.json")), "the first job", 120)
        self.folder: RunFolder = run_folder.find(root)
        self.faults: dict[str, Callable[[], bool]] = {
            "node dies": self._kill_node,
            "out of memory": self._starve,
            "warned of a time limit": self._warn,
            "preemption": self._preempt,
            "scancel": self._scancel,
            "slurmctld killed and restarted": self._restart_controller,
            "submitter kill -9": self._kill_submitter,
            "worker kill -9": self._kill_worker,
        }

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {**self.cluster.env, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=self.log, stderr=self.log)

    def tend(self) -> bool:
        """Lets requeued jobs start and retries what is broken; returns whether the sweep is done."""
        self.cluster.release()
        if self.submitter.poll() is None:
            return False
        if status_of(self.folder).exit_code == EXIT_DONE:
            return True
        self.retries += 1
        self.submitter = self._start("-m", "cft_lab", "retry", self.folder.path.name, "--store", str(self.root))
        return False

    def jobs(self, state: str) -> list[str]:
        """Jobs of the sweep in a state; running ones whose process is at work."""
        names = [job for job, (now, _) in self.cluster.jobs().items() if now == state]
        started = {read_json(file)["job"] for file in (self.folder.path / JOBS).glob("*.json")}
        return [job for job in names if state != "RUNNING" or job in started]

    def inject(self, kind: str) -> bool:
        """Injects a fault if there is something to inject it into."""
        done = self.faults[kind]()
        self.injected[kind] += done
        return done

    def _kill_node(self) -> bool:
        busy = sorted(set(self.cluster.call("squeue", "-h", "-t", "R", "-o", "%N").split()))
        if not busy:
            return False
        node = self.draw.choice(busy)
        self.cluster.kill_node(node)
        time.sleep(1)
        self.cluster.revive_node(node)
        return True

    def _starve(self) -> bool:
        """Takes the memory from a job that is about to start and will import torch."""
        shown = self.cluster.call("squeue", "-h", "-r", "-t", "PD", "-o", "%i|%j|%r").splitlines()
        rows = [line.split("|") for line in shown]
        ready = [job for job, name, reason in rows if reason == "Licenses" and name in ("cft-candidates", "cft-generations")]
        if ready:
            self.cluster.call("scontrol", "update", f"jobid={ready[0]}", "MinMemoryNode=100")
        return bool(ready)

    def _warn(self) -> bool:
        """Sends a job the signal that comes ahead of a time limit: its jobs are too short for SLURM to notice a real one."""
        running = self.jobs("RUNNING")
        if running:
            self.cluster.call("scancel", "--signal=USR2", self.draw.choice(running))
        return bool(running)

    def _preempt(self) -> bool:
        busy = sorted(set(self.cluster.call("squeue", "-h", "-t", "R", "-p", "main", "-o", "%N").split()))
        if not busy:
            return False
        urgent = "--partition=urgent", "--exclusive", f"--nodelist={self.draw.choice(busy)}", "--output=/dev/null"
        self.cluster.call("sbatch", "--job-name=urgent", *urgent, "--wrap=sleep 1")
        return True

    def _scancel(self) -> bool:
        running = self.jobs("RUNNING")
        if running:
            self.cluster.call("scancel", self.draw.choice(running))
        return bool(running)

    def _restart_controller(self) -> bool:
        self.cluster.stop_controller(signal.SIGKILL)
        time.sleep(2)
        self.cluster.start_controller()
        return True

    def _kill_submitter(self) -> bool:
        if self.submitter.poll() is not None:
            return False
        self.submitter.kill()
        self.submitter.wait()
        return True

    def _kill_worker(self) -> bool:
        running = self.jobs("RUNNING")
        if not running:
            return False
        job = self.draw.choice(running)
        about = [read_json(file) for file in (self.folder.path / JOBS).glob("*.json")]
        worker = next(row["pid"] for row in about if row["job"] == job)
        if worker not in self.cluster.processes(job):
            return False  # of a run before this one
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        return True


def disturbed(cluster: SlurmCluster, root: Path, faults: int, seed: int) -> tuple[Run, float]:
    """Runs the sweep on SLURM, injecting faults; seconds it took."""
    began = time.monotonic()
    run = Run(cluster, root, seed)
    planned = [kind for _ in range(faults) for kind in run.faults][:faults]
    after = time.monotonic() + PAUSE_S
    while not run.tend() or planned:
        if time.monotonic() - began > LIMIT_S:
            raise TimeoutError(f"not done after {LIMIT_S:.0f} s; {root}")
        if run.submitter.poll() is not None and status_of(run.folder).exit_code == EXIT_DONE:
            break  # over before all faults were injected
        if planned and time.monotonic() > after:
            with contextlib.suppress(subprocess.CalledProcessError, QueueError):  # what it aimed at has just ended
                if run.inject(planned[0]):
                    print(f"{time.monotonic() - began:6.1f} s  {planned.pop(0)}", flush=True)
                else:
                    planned.append(planned.pop(0))
            after = time.monotonic() + pause(run, 1 - len(planned) / faults)
        time.sleep(0.2)
    return run, time.monotonic() - began


def pause(run: Run, injected: float) -> float:
    """Seconds until the next fault: few while a smaller share of the faults is injected than of the stages is made."""
    stages = run.folder.plan.stages
    made = sum(is_made(stage, run.root) for stage in stages) / len(stages)
    return SHORT_PAUSE_S if injected < made else PAUSE_S


def too_few(injected: Counter[str]) -> str | None:
    """Why the faults of a run prove nothing; None if they are enough."""
    kinds = sum(map(bool, injected.values()))
    if sum(injected.values()) >= LEAST_FAULTS and kinds >= LEAST_KINDS:
        return None
    return f"{sum(injected.values())} faults of {kinds} kinds are too few: {LEAST_FAULTS} of {LEAST_KINDS} are wanted"


def traces(folder: Path) -> dict[str, int]:
    """Jobs in whose logs faults show."""
    texts = [log.read_text(errors="replace") for log in folder.glob("sweeps/*/slurm/*.out")]
    marks = {
        "exceeded memory": "exceeded memory limit",
        "warned": "SIGUSR2",
        "preempted": "DUE TO PREEMPTION",
        "restarted": "COUNT=",
    }
    return {name: sum(mark in text for text in texts) for name, mark in marks.items()}


def said(folder: Path, word: str) -> Counter[str]:
    """How often logs say a word about a stage, by its key."""
    lines = [line for log in folder.glob("sweeps/*/slurm/*.out") for line in log.read_text(errors="replace").splitlines()]
    return Counter(line.split()[2] for line in lines if line.split()[:1] == [word])


def differing(one: Path, other: Path) -> tuple[int, list[str]]:
    """Items compared in generations and grades, and those that differ."""
    items, wrong = 0, []
    for file in sorted(one.glob("generations/*/generations.jsonl")) + sorted(one.glob("scores/*/grades.jsonl")):
        twin = other / file.relative_to(one)
        rows, twins = file.read_text().splitlines(), twin.read_text().splitlines() if twin.exists() else []
        items += len(rows)
        wrong += [f"{file.relative_to(one)}:{n}" for n in range(len(rows)) if n >= len(twins) or rows[n] != twins[n]]
    return items, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for both stores (default: a temporary one)")
    options = parser.parse_args()
    place = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    place.mkdir(parents=True, exist_ok=True)
    with SlurmCluster() as cluster:
        os.environ.update({name: cluster.env[name] for name in ("SLURM_CONF", "PATH")})
        run, seconds = disturbed(cluster, place / "slurm", options.faults, options.seed)
    stages = run.folder.plan.stages
    done = said(run.root, "done")
    again = sorted(key for key, count in done.items() if count > 1)
    print(f"{sum(run.injected.values())} faults of {sum(map(bool, run.injected.values()))} kinds: {dict(run.injected)}")
    print(
        f"{len(stages)} stages, done {sum(done.values())} times, {len(again)} of them more than once {again}; {run.retries} retries"
    )
    print(f"jobs in whose logs they show: {traces(run.root)}")
    print(f"{sum(said(run.root, 'resume').values())} times a stage was resumed; {seconds:.0f} s on SLURM")
    began = time.monotonic()
    command = [sys.executable, "run.py", "-m", *CELLS, f"output_root={place / 'local'}"]
    with (place / "local.log").open("wb") as log:
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)
    items, wrong = differing(place / "local", run.root)
    print(f"undisturbed, on this machine: {time.monotonic() - began:.0f} s; {items} rows compared, {len(wrong)} differ {wrong[:5]}")
    few = too_few(run.injected)
    if few:
        print(few)
    sys.exit(1 if wrong or again or few else 0)


if __name__ == "__main__":
    main()
