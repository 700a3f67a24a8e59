"""Starts a training where it belongs: in this process on a CPU, else in torchrun's children, which live only as long as it trains.

torchrun (torch.distributed.run) starts a process for each GPU of a node, takes all down when one dies, and starts them again;
they go on from the last resume state. This process holds no GPU: it hands on the wish to end, shows the first
process's metrics, and says in the end what became of the training. A byte down the children's stdin asks them to save and
end; if this process dies, stdin ends and they end with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from cft_lab.config import PROJECT_ROOT, DataError, TrainConfig
from cft_lab.engines.sharding import visible_gpus
from cft_lab.json_files import read_json
from cft_lab.runtime import has_gpu
from cft_lab.tracking import METRICS
from cft_lab.training.faults import TrainingError
from cft_lab.training.job import FAILED, OUTCOME, SAYS, Report, TrainingJob, run_rank, write_job
from cft_lab.training.ranks import conflict_in_ranks, one_rank
from cft_lab.training.resume import resume_step
from cft_lab.training.signals import Requeue, StopRequest, stop_requests
from cft_lab.training.watching import MetricsTail, RemoteBar, dead_processes, post_mortem

LAUNCH = "launch"  # in the training's folder, while it runs: the job, what became of it, the logs
_POLL_S = 0.1
# torchrun 2.13 keeps one store over its restarts, where a process that starts anew may find the address of a dead one and wait for
# it or be refused (pytorch issue 135712 is of the same kind): let the first process of each start hold a store of its own
_OWN_STORE_PER_START = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_END_S = 40.0  # for a launcher to end its processes and itself; torchrun kills them after 30


@dataclass(frozen=True)
class Node:
    """A machine of a training: its name to the others, and what a command line begins with to run there."""

    host: str
    reach: tuple[str, ...] = ()


def run_job(
    job: TrainingJob, *, report: Report, say: Callable[[str], None], progress: bool = True, nodes: Sequence[Node] | None = None
) -> dict[str, Any]:
    """Runs a job to its end (or to `job.until_step`) and gives its counts; afterwards no process is left and every GPU is free.

    `report` gets each new row of metrics.jsonl, `say` messages. `nodes` are those of the scheduler's job unless told otherwise.
    Raises TrainingError or DataError if the training cannot go on, naming the process that died; Requeue if it was asked to end.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError("run.py was started by a launcher: start it alone, and set train.processes and train.nodes")
    with stop_requests() as stop:
        if job.train.nodes == 1 and job.train.processes in (None, 1) and not has_gpu():
            return run_rank(job, one_rank(), stop, report=report, say=say, progress=progress)
        hosts = nodes or scheduled_nodes(job.train)
        if problem := conflict_in_ranks(job.train, len(hosts) * processes_per_node(job.train)):
            raise DataError(problem)
        return _Launch(job, hosts, report, say).run(stop, progress)


def scheduled_nodes(train: TrainConfig) -> list[Node]:
    """The machines of a training: this one, or those of SLURM's job, each reached by a step of its own.

    Raises DataError if `train.nodes` asks for more than the job has.
    """
    if train.nodes == 1:
        return [Node("localhost")]
    listed = os.environ.get("SLURM_JOB_NODELIST", "")
    hosts = []
    if listed:
        told = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True, timeout=60)
        hosts = told.stdout.split()
    if len(hosts) < train.nodes:
        raise DataError(
            f"train.nodes={train.nodes} needs a SLURM job of so many nodes, and this one has {len(hosts) or 'no node list'}: "
            "set cluster=slurm, or train.nodes=1"
        )
    # a step inherits the job's GPUs, but not its CPUs; it overlaps with the step that this process may be
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "1")
    # bound to no cores, as this process's own are not those that another node gave; one SIGINT must end the step
    own = ("--cpu-bind=none", "--quit-on-interrupt")
    step = ("srun", "--overlap", "--nodes=1", "--ntasks=1", f"--cpus-per-task={cpus}", *own)
    return [Node(host, (*step, f"--nodelist={host}")) for host in hosts[: train.nodes]]


def processes_per_node(train: TrainConfig) -> int:
    """How many processes a node gets: `train.processes`, else one for each visible GPU, and one on a CPU.

    Raises DataError if there are fewer GPUs than processes.
    """
    gpus = len(visible_gpus())
    if gpus and train.processes is not None and train.processes > gpus:
        raise DataError(f"train.processes={train.processes}, but {gpus} GPUs are visible here: lower it, or leave it out")
    return train.processes or gpus or 1


class _Launch:
    """The launchers of one training, one on each node, and what they say."""

    def __init__(self, job: TrainingJob, nodes: Sequence[Node], report: Report, say: Callable[[str], None]) -> None:
        self._job, self._nodes, self._report, self._say = job, nodes, report, say
        self._place = job.folder / LAUNCH
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._launchers: list[subprocess.Popen[bytes]] = []
        self._ears: list[threading.Thread] = []
        self._lost: int | None = None  # which of several launchers ended in failure before the others

    def run(self, stop: StopRequest, progress: bool) -> dict[str, Any]:
        """Starts, watches and ends them, and gives the counts of the training."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True)
        write_job(self._job, self._place / "job.json")
        tail = MetricsTail(self._job.folder / METRICS, resume_step(self._job.folder))
        try:
            self._start()
            with contextlib.closing(RemoteBar(progress)) as bar:
                while self._alive() and not self._failed() and self._lost is None:
                    self._hand_on(stop)
                    self._listen(tail, bar)
                    self._lost = self._lost_launcher()
                    time.sleep(_POLL_S)
                self._end()
                self._listen(tail, bar)
        finally:
            self._end()
        counts = self._counts()
        shutil.rmtree(self._place)
        return counts

    def _start(self) -> None:
        port = _free_port() if len(self._nodes) > 1 else 0
        for place in range(len(self._nodes)):
            with (self._place / f"launcher-{place}.log").open("wb") as log:
                launcher = subprocess.Popen(
                    self._command(place, port),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment(),
                    start_new_session=True,  # Ctrl-C in a terminal reaches this process alone
                )
            self._launchers.append(launcher)
            assert launcher.stdout is not None
            ear = threading.Thread(target=self._hear, args=(launcher.stdout,), daemon=True)
            ear.start()
            self._ears.append(ear)

    def _command(self, place: int, port: int) -> list[str]:
        """The launcher's command line. It ignores the scheduler's signals: its children save, and it ends when they have."""
        node, count = self._nodes[place], len(self._nodes)
        meeting = ["--standalone", "--local-addr=localhost"]
        if count > 1:
            meeting = [
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint={self._nodes[0].host}:{port}",
                f"--rdzv-id={self._job.folder.name}",
                f"--rdzv-conf=is_host={int(place == 0)}",
                f"--local-addr={node.host}",
            ]
        return [
            *node.reach,
            *("sh", "-c", 'trap "" TERM USR2; exec "$@"', "sh"),
            *(sys.executable, "-m", "torch.distributed.run", "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT"),
            *(f"--nnodes={count}", f"--nproc-per-node={processes_per_node(self._job.train)}"),
            *(f"--max-restarts={self._job.train.max_restarts}", "--redirects=2", f"--log-dir={self._place / f'node-{place}'}"),
            *meeting,
            *("-m", "cft_lab.training.job", str(self._place / "job.json")),
        ]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(PROJECT_ROOT), os.environ.get("PYTHONPATH"))))
        given = {"OMP_NUM_THREADS": str(self._job.train.cpu_threads), **os.environ}
        return given | {"PYTHONPATH": path, **_OWN_STORE_PER_START}

    def _hear(self, spoken: IO[bytes]) -> None:
        for line in spoken:
            text = line.decode(errors="replace").rstrip()
            if text.startswith(SAYS):
                self._said.put(text.removeprefix(SAYS))

    def _alive(self) -> bool:
        return any(launcher.poll() is None for launcher in self._launchers)

    def _lost_launcher(self) -> int | None:
        """Which of several launchers ended in failure; the others would wait ten minutes or more for it. None if none has."""
        if len(self._launchers) == 1:
            return None  # nobody waits
        return next((place for place, launcher in enumerate(self._launchers) if launcher.poll()), None)

    def _loss(self) -> str | None:
        """How the node went whose launcher failed first; None if its training processes tell more."""
        if self._lost is None or dead_processes(self._place, self._lost):
            return None
        code = self._launchers[self._lost].returncode
        number = code - 128 if code > 128 else -code  # srun tells of a signal as a shell does
        how = f"was ended by {signal.Signals(number).name}" if number in set(signal.Signals) else f"ended with exit code {code}"
        return f"the launcher on {self._nodes[self._lost].host} {how}, and the training with it"

    def _failed(self) -> list[str]:
        """Why processes cannot go on, where starting them again would not help."""
        return [read_json(file)["text"] for file in sorted(self._place.glob(FAILED.format(rank="*")))]

    def _hand_on(self, stop: StopRequest) -> None:
        """Asks again and again, so that a process that starts late hears it as well."""
        for launcher in self._launchers if stop.asked else ():
            if launcher.stdin is not None and not launcher.stdin.closed:
                with contextlib.suppress(BrokenPipeError):  # it has ended by itself
                    launcher.stdin.write(b"!")
                    launcher.stdin.flush()

    def _listen(self, tail: MetricsTail, bar: RemoteBar) -> None:
        while not self._said.empty():
            self._say(self._said.get())
        bar.begin(self._outcome())
        for row in tail.rows():
            self._report(row)
            bar.show(row)

    def _end(self) -> None:
        """Ends what is still there. Its children's stdin ends too, which ends them without delay."""
        for launcher in self._launchers:
            if launcher.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    launcher.stdin.close()
            if launcher.poll() is None:
                launcher.send_signal(signal.SIGINT)
        for launcher in self._launchers:
            try:
                launcher.wait(_END_S)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
        for ear in self._ears:
            ear.join(_END_S)

    def _outcome(self) -> Mapping[str, Any]:
        file = self._place / OUTCOME
        outcome: Mapping[str, Any] = read_json(file) if file.exists() else {"kind": "starting"}
        return outcome

    def _counts(self) -> dict[str, Any]:
        """What the training came to, or its error."""
        outcome = self._outcome()
        if outcome["kind"] == "requeue":
            raise Requeue(outcome["text"])
        if failed := self._failed():
            raise TrainingError("; ".join(dict.fromkeys(failed)))
        if outcome["kind"] == "done":
            counts: dict[str, Any] = outcome["counts"]
            return counts
        go_on = f"run the same command again to go on from step {resume_step(self._job.folder)}"
        if loss := self._loss():
            raise TrainingError(f"{loss}: {go_on}")
        restarts = f"after {self._job.train.max_restarts} restarts (train.max_restarts)"
        raise TrainingError(f"{post_mortem(self._place, self._lost or 0)}. It was given up {restarts}; {go_on}")


def _free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
