"""A real SLURM on loopback, thrown away after the tests: three nodes with fake GPUs, no accounting.

    with SlurmCluster() as cluster:
        cluster.call("sbatch", "--wrap=hostname")

Needs root and Debian's slurmctld, slurmd, slurm-client and munge. A second process, the caretaker, holds one end of a pipe: when
this process closes the other end, or dies in whatever way, it kills everything that was started with this cluster's SLURM_CONF
(daemons, job steps, what jobs started) and removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
SEARCH = f"/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"
NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")  # addresses as names: a name that a launcher is given resolves
GPUS, CPUS, MEMORY_MB = 2, 4, 16_000  # of each node
AT_ONCE = 2  # jobs that the licence `core` lets run at once, for machines with few cores
DEADLINE_S = 20

CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=4000
GresTypes=gpu
Licenses=core:{at_once}
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
EnforcePartLimits=ALL
MinJobAge=36000
KillWait=2
MailProg=/bin/true
"""


def missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started by root only"


class SlurmCluster:
    """A running cluster; use as a context manager. `env` makes SLURM's commands, and ours, talk to it."""

    def __init__(self) -> None:
        # not pytest's folder: the names of sockets must stay under 108 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.conf = self.folder / "slurm.conf"
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN", "SQUEUE"))}
        self.env = {**outer, "SLURM_CONF": str(self.conf), "PATH": SEARCH}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SlurmCluster:
        self._caretaker = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            self._configure()
            key, place = self.folder / "munge.key", self.folder
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)
            munged = ("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={place}/munge.socket")
            self._start(*munged, f"--pid-file={place}/munged.pid", f"--log-file={place}/log/munged", f"--seed-file={place}/seed")
            self.until(lambda: (place / "munge.socket").exists(), "munged")
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self.until(lambda: self._node_states() == ["idle"] * len(NODES), "idle nodes")
        except BaseException:
            logs = "\n".join(f"{log.name}: {log.read_text()[-600:]}" for log in sorted((self.folder / "log").glob("*")))
            self.__exit__()
            print(logs, file=sys.stderr)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._caretaker.stdin is not None
        self._caretaker.stdin.close()
        for process in (self._caretaker, *self._daemons):
            process.wait()

    def _configure(self) -> None:
        self.folder.chmod(0o755)
        (self.folder / "log").mkdir()
        (self.folder / "state").mkdir()
        for gpu in range(GPUS):  # character devices like /dev/null: SLURM only wants them to exist
            os.mknod(self.folder / f"gpu{gpu}", 0o020666, os.makedev(1, 3))
        host = socket.gethostname().split(".")[0]
        port, *ports = _free_ports(1 + len(NODES))
        text = CONF.format(host=host, port=port, folder=self.folder, at_once=AT_ONCE)
        for node, node_port in zip(NODES, ports, strict=True):
            (self.folder / f"spool-{node}").mkdir()
            text += (
                f"NodeName={node} NodeHostname={host} NodeAddr={node} Port={node_port} CPUs={CPUS} Sockets=1 "
                f"CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY_MB} Gres=gpu:{GPUS} Feature=fake\n"
            )
        text += "PartitionName=main Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE State=UP\n"
        text += "PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP\n"
        text += "PartitionName=short Nodes=ALL PriorityTier=1 MaxTime=5 State=UP\n"
        self.conf.write_text(text)
        (self.folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")

    def call(self, *command: str) -> str:
        """What a command prints; raises CalledProcessError where it fails."""
        done = subprocess.run(command, env=self.env, text=True, capture_output=True, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Waits for a condition, letting requeued jobs start meanwhile; raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                queue = subprocess.run(["squeue", "-t", "all"], env=self.env, text=True, capture_output=True, check=False).stdout
                raise TimeoutError(f"{what} not seen in {timeout_s:g} s\n{queue}")
            time.sleep(0.05)

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Every job and array task that SLURM remembers: id -> (state, reason)."""
        rows = (line.split("|") for line in self.call("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r").splitlines())
        return {name: (state, reason) for name, state, reason in rows}

    def release(self) -> None:
        """Lets requeued jobs start at once, which SLURM holds back for two minutes, or for good if their launch failed.

        With reason: what ends late of the first run would be taken for the end of the second. So only what is gone is released.
        """
        for job, (state, reason) in self.jobs().items():
            if state == "PENDING" and reason == "BeginTime" and not self.processes(job):
                time.sleep(1)  # for the controller to hear of it
                self.call("scontrol", "update", f"jobid={job}", "starttime=now")
            if state == "PENDING" and reason == "launch failed requeued held":
                self.call("scontrol", "release", job)

    def start_controller(self) -> None:
        """Starts slurmctld, with the jobs that an earlier one knew."""
        self._start("slurmctld", "-D", "-f", str(self.conf))
        self.until(self._controller_answers, "slurmctld")

    def stop_controller(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends slurmctld, which saves its state first. By SIGKILL it forgets what it learned in the last 5 s, even whole jobs."""

        def running() -> list[int]:
            return [pid for pid, command, _ in processes_of(self.folder) if command[:1] == ["slurmctld"]]

        for pid in running():
            _signal(pid, how)
        self.until(lambda: not running(), "the end of slurmctld")

    def start_node(self, node: str) -> None:
        """Starts a node's slurmd."""
        self._start("slurmd", "-D", "-N", node, "-f", str(self.conf))

    def kill_node(self, node: str) -> None:
        """A node loses power: its daemon and all its jobs are gone, and the controller is told that it is down."""
        there = [pid for pid, command, env in processes_of(self.folder) if _is_on(node, command, env)]
        watchers = _watchers(self.folder)
        there += [pid for pid in map(_parent, there) if pid in watchers]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # all at once: none tells the controller of the others' ends
            for pid in there:
                _signal(pid, number)
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def revive_node(self, node: str) -> None:
        """The node is back."""
        self.start_node(node)
        self.call("scontrol", "update", f"nodename={node}", "state=resume")

    def processes(self, job: str) -> list[int]:
        """Processes of a job or array task, with those of SLURM that watch over them."""
        shown = self.call("scontrol", "-o", "show", "job", job).split()
        number = next(word.partition("=")[2] for word in shown if word.startswith("JobId="))
        return [
            pid
            for pid, command, env in processes_of(self.folder)
            if f"SLURM_JOB_ID={number}" in env or command[0].startswith(f"slurmstepd: [{number}.")
        ]

    def _controller_answers(self) -> bool:
        done = subprocess.run(["scontrol", "ping"], env=self.env, text=True, capture_output=True, check=False)
        return " is UP" in done.stdout

    def _node_states(self) -> list[str]:
        return self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()

    def _start(self, *command: str) -> None:
        with (self.folder / "log" / f"{command[0]}.out").open("ab") as out:
            daemon = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._daemons.append(daemon)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def processes_of(folder: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """(pid, command, environment) of every process that was started for the cluster in a folder."""
    mark = f"SLURM_CONF={folder}/slurm.conf"
    for place in Path("/proc").glob("[0-9]*"):
        try:
            env = (place / "environ").read_text(errors="replace").split("\0")
            command = (place / "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if mark in env:
            yield int(place.name), command, env


def _is_on(node: str, command: list[str], env: list[str]) -> bool:
    return f"SLURMD_NODENAME={node}" in env or (command[:1] == ["slurmd"] and node in command)


def _watchers(folder: Path) -> set[int]:
    """The processes of SLURM that watch over jobs; nothing in them names their node."""
    return {pid for pid, command, _ in processes_of(folder) if command[0].startswith("slurmstepd")}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return 0


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill(chosen: Callable[[list[str], list[str]], bool], folder: Path) -> None:
    """Kills the cluster's chosen processes, and those that they start meanwhile."""
    while found := [pid for pid, command, env in processes_of(folder) if chosen(command, env)]:
        for pid in found:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.02)


def _take_care(folder: Path) -> None:
    sys.stdin.read()  # until the other end of the pipe is closed
    _kill(lambda command, env: True, folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _take_care(Path(sys.argv[1]))
