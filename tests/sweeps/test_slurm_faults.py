"""Faults on a real SLURM, each on a sweep of one job: what comes back by itself, and what `retry` makes."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cells import AS_TYPED, DEBUG
from slurm_cluster import SlurmCluster
from slurm_runs import finish, states, until_running
from sweep_tools import ON_SLURM, FreezeSweep

from cft_lab.config import PROJECT_ROOT
from cft_lab.json_files import read_json
from cft_lab.sweeps import presence, repair, run_folder, slurm
from cft_lab.sweeps.compute_job import JOBS
from cft_lab.sweeps.plan import PlannedStage, to_make
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.status import EXIT_BROKEN, EXIT_DONE, EXIT_UNDER_WAY, status_of
from cft_lab.sweeps.submitted import submitted_jobs

pytestmark = pytest.mark.slurm
ENDS = ("candidates", "result")
TRAINING = (
    "benchmarks.names=[lab-basic]",
    "train.selection.mode=last",
    "train.epochs=5000",  # minutes: SLURM looks at time limits every half minute
    "train.save_every_steps=5000",
    "cluster.detach=true",
)
ONE_JOB = ("method=base", "benchmarks.names=[lab-basic]", "cluster.detach=true")


def started(cluster: SlurmCluster, folder: RunFolder, restarts: int = 0) -> str:
    """Waits until the sweep's one job is making its stage (for the first time or again); returns the job."""

    def about() -> dict[str, str]:
        cluster.release()
        files = list((folder.path / JOBS).glob("*.json"))
        return read_json(files[0])["granted"] if files else {"SLURM_RESTART_COUNT": "-1"}

    cluster.until(lambda: int(about().get("SLURM_RESTART_COUNT", 0)) >= restarts, f"start {restarts}", 180)
    return next(iter(submitted_jobs(folder).values())).job


def stage_named(folder: RunFolder, name: str) -> PlannedStage:
    return next(stage for stage in folder.plan.stages if stage.name == name)


def until_training(cluster: SlurmCluster, folder: RunFolder) -> None:
    """Waits until some steps of the training are done."""
    partial = folder.store_root / "candidates" / f"{stage_named(folder, 'candidates').key}.partial"
    metrics = partial / "metrics.jsonl"
    cluster.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 5, "some steps", 180)


def log_of_training(folder: RunFolder) -> str:
    log = Path(submitted_jobs(folder)[stage_named(folder, "candidates").key].log)
    return log.read_text() if log.exists() else ""


def until_resumed(cluster: SlurmCluster, folder: RunFolder) -> None:
    """Waits until the training goes on: it is long, and the rest is what other tests show."""

    def resumed() -> bool:
        cluster.release()
        return " resume candidates" in log_of_training(folder)

    cluster.until(resumed, "the training's next start", 180)


def submitted(freeze_sweep: FreezeSweep, *overrides: str) -> RunFolder:
    folder = freeze_sweep(*ONE_JOB, *overrides)
    slurm.submit(folder)
    return folder


def test_a_dead_node_costs_a_restart(cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None) -> None:
    folder = submitted(freeze_sweep)
    job = started(cluster, folder)
    node = cluster.call("squeue", "-h", "-j", job, "-o", "%N").strip()
    cluster.kill_node(node)
    try:
        started(cluster, folder, restarts=1)
        assert finish(cluster, folder).exit_code == EXIT_DONE
    finally:
        cluster.revive_node(node)
        cluster.until(lambda: "down" not in cluster.call("sinfo", "-h", "-o", "%T"), "the node")


def test_a_preempted_job_comes_back(cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None) -> None:
    folder = submitted(freeze_sweep)
    job = started(cluster, folder)
    node = cluster.call("squeue", "-h", "-j", job, "-o", "%N").strip()
    urgent = "--partition=urgent", "--exclusive", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 1"
    cluster.call("sbatch", *urgent)
    cluster.until(lambda: cluster.jobs()[job][0] == "PENDING", "the preemption", 120)
    assert status_of(folder).exit_code == EXIT_UNDER_WAY
    started(cluster, folder, restarts=1)
    assert finish(cluster, folder).exit_code == EXIT_DONE


def test_a_time_limit_that_comes_near_is_a_warning_and_a_requeue(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None
) -> None:
    """SLURM itself warns: of a minute, the shortest limit that it knows, 55 seconds are for saving."""
    folder = freeze_sweep(*TRAINING, "cluster.warning_s=55")
    slurm.submit(folder)
    job = until_running(cluster, folder, "candidates")
    until_training(cluster, folder)
    cluster.call("scontrol", "update", f"jobid={job}", "TimeLimit=1")
    cluster.until(lambda: cluster.jobs()[job][0] == "PENDING", "the requeue", 180)
    cluster.call("scontrol", "update", f"jobid={job}", "TimeLimit=30")
    until_resumed(cluster, folder)
    assert "SLURM_RESTART_COUNT=1" in log_of_training(folder)


def test_a_time_limit_that_kills_is_said_and_retry_goes_on(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None
) -> None:
    """The limit is there at once, so that no warning comes before it: SLURM ends the job by itself."""
    folder = freeze_sweep(*TRAINING)
    slurm.submit(folder)
    job = until_running(cluster, folder, "candidates")
    until_training(cluster, folder)
    cluster.call("scontrol", "update", f"jobid={job}", "EndTime=now")
    cluster.until(lambda: cluster.jobs()[job][0] == "TIMEOUT", "the end", 180)
    status = finish(cluster, folder)
    assert status.exit_code == EXIT_BROKEN
    assert states(status)["candidates"] == "orphaned"
    assert "reached its time limit" in next(one.detail for one in status.stages.values() if one.state == "orphaned")
    repair.retry(folder, lambda line: None)
    until_resumed(cluster, folder)


def test_a_controller_that_is_away_while_jobs_are_submitted_is_waited_for(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None
) -> None:
    folder = freeze_sweep(*ONE_JOB)
    cluster.stop_controller()
    back = threading.Timer(1.5, cluster.start_controller)
    back.start()
    slurm.submit(folder)
    back.join()
    assert states(status_of(folder))["generations"] in ("queued", "running")


def test_a_restarted_controller_costs_nothing(cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None) -> None:
    folder = submitted(freeze_sweep)
    started(cluster, folder)
    cluster.stop_controller()
    back = threading.Timer(1.5, cluster.start_controller)
    back.start()
    assert status_of(folder).exit_code == EXIT_UNDER_WAY  # asked meanwhile, and waited
    back.join()
    assert finish(cluster, folder).exit_code == EXIT_DONE


@pytest.mark.parametrize("fault", ["kill -9", "out of memory", "scancel"])
def test_a_job_that_ends_without_a_word_is_orphaned_until_retry(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None, fault: str
) -> None:
    folder = freeze_sweep(*ONE_JOB)
    if fault == "out of memory":
        cluster.call("scontrol", "update", "partitionname=main", "state=down")
        slurm.submit(folder)
        job = next(iter(submitted_jobs(folder).values())).job
        cluster.call("scontrol", "update", f"jobid={job}", "MinMemoryNode=100")  # MB
        cluster.call("scontrol", "update", "partitionname=main", "state=up")
    else:
        slurm.submit(folder)
        job = started(cluster, folder)
    if fault == "kill -9":
        (worker,) = [read_json(file)["pid"] for file in (folder.path / JOBS).glob("*.json")]
        os.kill(worker, signal.SIGKILL)
    elif fault == "scancel":
        cluster.call("scancel", job)
    status = finish(cluster, folder)
    assert status.exit_code == EXIT_BROKEN
    assert states(status) == {"base_model": "done", "generations": "orphaned", "scores": "blocked", "result": "blocked"}
    detail = next(one.detail for one in status.stages.values() if one.state == "orphaned")
    assert {"kill -9": "killed (signal 9)", "out of memory": "emory", "scancel": "cancelled (scancel)"}[fault] in detail
    repair.retry(folder, lambda line: None)
    assert finish(cluster, folder).exit_code == EXIT_DONE


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_submitter_that_ends_leaves_a_sweep_that_goes_on(
    cluster: SlurmCluster, tmp_path: Path, pretrained: None, how: signal.Signals
) -> None:
    root = tmp_path / "store"
    cells = "method=base", "temperature=0,0.5", f"output_root={root}", "progress=true"
    terminal, inside = pty.openpty()
    submitter = subprocess.Popen(
        [sys.executable, "run.py", "-m", *DEBUG, *ON_SLURM, *cells],
        cwd=PROJECT_ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        stdout=inside,
        stderr=inside,
        preexec_fn=AS_TYPED,
    )
    os.close(inside)
    shown = ""
    while "evaluation" not in shown:  # the head of the live table
        shown += os.read(terminal, 65536).decode(errors="replace")
    assert "submitted 2 jobs" in shown
    submitter.send_signal(how)
    with contextlib.suppress(OSError):  # the terminal ends with the process
        while more := os.read(terminal, 65536).decode(errors="replace"):
            shown += more
    os.close(terminal)
    code = submitter.wait()
    folder = run_folder.find(root)
    if how is signal.SIGINT:
        assert code == 0
        assert "Detached: its jobs go on" in shown
        assert f"status {folder.path.name} --store {root}" in shown
    else:
        assert code == -how
    assert presence.who(folder.path) is None
    assert status_of(folder).exit_code == EXIT_UNDER_WAY


def test_a_submitter_that_is_killed_while_it_submits(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was submitted before runs on; `retry` submits the rest behind it."""

    class Killed(BaseException):
        pass

    folder = freeze_sweep("benchmarks.names=[lab-basic]", "train.selection.mode=last", "cluster.detach=true")
    whole = slurm._submit_job

    def once(*arguments: object) -> object:
        if submitted_jobs(folder):
            raise Killed
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(slurm, "_submit_job", once)
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    with pytest.raises(Killed):
        slurm.submit(folder)
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    monkeypatch.setenv("PATH", cluster.env["PATH"])
    status = status_of(folder)
    assert states(status)["candidates"] == "queued"
    assert states(status)["generations"] == "orphaned"
    assert status.exit_code == EXIT_UNDER_WAY
    repair.retry(folder, lambda line: None)
    jobs = submitted_jobs(folder)
    training, evaluation = (jobs[stage.key].job for stage in to_make(folder.plan, folder.store_root) if stage.name in ENDS)
    assert cluster.call("squeue", "-h", "-j", evaluation, "-o", "%E").strip() == f"afterok:{training}(unfulfilled)"
    cluster.call("scontrol", "update", "partitionname=main", "state=up")
    assert finish(cluster, folder).exit_code == EXIT_DONE
