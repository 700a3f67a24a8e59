"""Sweeps on a real SLURM: submission, dependencies, arrays, resources, refusals, requeues, two people in one store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from cells import AS_TYPED, DEBUG
from conftest import ON_SLURM, FreezeSweep
from slurm_cluster import SlurmCluster
from slurm_runs import check_granted, finish, made_in, states, until_running

from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.json_files import read_json
from cft_lab.provenance import provenance
from cft_lab.sweeps import live, repair, run_folder, slurm, stage_job
from cft_lab.sweeps.compute_job import JOBS
from cft_lab.sweeps.job_graph import Job, Task
from cft_lab.sweeps.outcomes import print_tables
from cft_lab.sweeps.plan import is_made, to_make
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.sbatch import parameters
from cft_lab.sweeps.slurm import SubmitError
from cft_lab.sweeps.status import EXIT_BROKEN, EXIT_DONE, EXIT_UNDER_WAY, status_of
from cft_lab.sweeps.submitted import submitted_jobs

pytestmark = pytest.mark.slurm
LONGER = ("train.epochs=20", "train.save_every_steps=50")
DATA_ONLY = ("benchmarks.names=[lab-basic]",)  # what follows problems, responses, critiques and examples is never waited for


def test_two_conditions_share_everything_up_to_one_array(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = freeze_sweep("temperature=0,0.5", "benchmarks.names=[lab-basic]", "train.selection.mode=last")
    slurm.submit(folder)
    jobs = submitted_jobs(folder)
    names = {stage.key: stage.name for stage in folder.plan.stages}
    assert {names[key] for key, one in jobs.items() if "_" in one.job} == {"generations", "scores", "result"}
    assert "base_model" not in {names[key] for key in jobs}  # it was made before
    dependency = cluster.call("squeue", "-h", "-r", "-n", "cft-generations", "-o", "%E").split()
    training = next(one.job for key, one in jobs.items() if names[key] == "candidates")
    assert dependency == [f"afterok:{training}(unfulfilled)"] * 2

    status = live.watch(folder, stage_job.say, poll_s=0.3)

    assert status is not None
    assert status.exit_code == EXIT_DONE
    cluster.until(lambda: {cluster.jobs()[one.job][0] for one in jobs.values()} == {"COMPLETED"}, "the jobs' ends")
    assert set(made_in(folder).values()) == {1}
    told = capsys.readouterr().err
    assert "running candidates" in told
    assert "done result" in told
    assert print_tables(folder, {})
    assert "temperature=0.5" in capsys.readouterr().out
    check_granted(folder, {"candidates": 2, "generations": 1})
    assert slurm.submit(folder) == []  # all is there


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("cluster.partition=nowhere", "cluster.partition=nowhere"),
        ("cluster.constraint=unheard", "cluster.constraint=unheard"),
        ("cluster.train.gpus=64", "cluster.train (cpus=1, gpus=64"),
        ("cluster.train.partition=short", "cluster.train.minutes=30"),
        ("+cluster.options.no-such-option=1", "cluster.options={'licenses': 'core:1', 'no-such-option': '1'}"),
        ("+cluster.options.reservation=theirs", "cluster.options"),
    ],
)
def test_what_sbatch_refuses_names_the_field_and_leaves_nothing_in_the_queue(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, override: str, named: str
) -> None:
    folder = freeze_sweep(override)
    with pytest.raises(ConfigError) as refused:
        slurm.submit(folder)
    assert named in str(refused.value)
    assert "refused by SLURM" in str(refused.value)
    cluster.until(lambda: not cluster.call("squeue", "-h"), "an empty queue")


def test_editing_files_after_submission_changes_nothing(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    for part in ("cft_lab", "conf", "sweeps"):
        shutil.copytree(Path(slurm.__file__).parents[2] / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("cft_lab.sweeps.snapshot.PROJECT_ROOT", project)
    monkeypatch.chdir(project)  # Python would look here first
    folder = freeze_sweep("data.pool=40", *DATA_ONLY)
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        slurm.submit(folder)
        (project / "conf" / "data" / "lab-web.yaml").write_text("source: nonsense\n")
        for file in (project / "cft_lab").rglob("*.py"):
            file.write_text("raise SystemExit('the edited code ran')\n")
    finally:
        cluster.call("scontrol", "update", "partitionname=main", "state=up")
    problems = next(stage for stage in folder.plan.stages if stage.name == "problems")
    cluster.until(lambda: is_made(problems, folder.store_root), "problems", 60)
    job = submitted_jobs(folder)[problems.key]
    assert f"code {folder.path / 'code'}" in Path(job.log).read_text()
    manifest = read_json(folder.store_root / "problems" / problems.key / "manifest.json")
    assert manifest["commit"] == provenance()["commit"] is not None  # of what was copied, though the copy lies in no repository
    assert manifest["uncommitted_changes"] == provenance()["uncommitted_changes"]


def test_a_failure_blocks_what_stands_on_it_and_retry_makes_the_rest(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_of_rows(cluster.folder / "rows.jsonl")
    folder = freeze_sweep(
        "method=sft,base", "data=local", f"data.path={data}", "data.pool=3", "data.examples=2", "decontamination=none", *DATA_ONLY
    )
    hidden = data.rename(data.with_suffix(".hidden"))
    slurm.submit(folder)
    problems = submitted_jobs(folder)[next(stage.key for stage in folder.plan.stages if stage.name == "problems")].job
    cluster.until(lambda: cluster.jobs()[problems][0] == "FAILED", "the failure", 60)
    cluster.until(lambda: states(status_of(folder))["candidates"] == "blocked", "its dependents' ends", 30)
    status = status_of(folder)
    assert states(status)["problems"] == "failed"
    failed = next(one for one in status.stages.values() if one.state == "failed")
    assert "data files have changed" in failed.detail
    assert failed.log is not None
    assert "data files have changed" in Path(failed.log).read_text()
    hidden.rename(data)
    before = submitted_jobs(folder)
    cluster.call("scancel", "--user=root")
    cluster.until(lambda: not cluster.call("squeue", "-h"), "an empty queue")
    slurm.submit(folder)
    cluster.until(lambda: is_made(failed.stage, folder.store_root), "problems", 60)
    assert submitted_jobs(folder)[failed.stage.key].job != before[failed.stage.key].job
    assert not folder.failure(failed.stage.key).exists()


def folder_of_rows(path: Path) -> Path:
    path.write_text(
        "".join(
            json.dumps({"question": f"What is {n} + 1?", "solution": f"{n} + 1 = {n + 1}", "answer": str(n + 1)}) + "\n"
            for n in range(5)
        )
    )
    return path


def test_two_sweeps_in_one_store_make_each_stage_once(cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None) -> None:
    one = "benchmarks.names=[lab-basic]", "train.selection.mode=last"
    first, second = freeze_sweep(*one), freeze_sweep(*one)
    slurm.submit(first)
    slurm.submit(second)
    assert finish(cluster, first).exit_code == EXIT_DONE
    assert finish(cluster, second).exit_code == EXIT_DONE
    made = made_in(first) + made_in(second)
    assert set(made.values()) == {1}
    assert {stage.name for stage in first.plan.stages if stage.key in made} == {
        "candidates",
        "selected",
        "generations",
        "scores",
        "result",
    }


def test_a_warned_job_is_requeued_and_goes_on(cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None) -> None:
    folder = freeze_sweep(
        "benchmarks.names=[lab-basic]", "train.selection.mode=last", "train.epochs=20", "train.save_every_steps=50"
    )
    slurm.submit(folder)
    job = until_running(cluster, folder, "candidates")
    training = next(stage for stage in folder.plan.stages if stage.name == "candidates")
    metrics = folder.store_root / "candidates" / f"{training.key}.partial" / "metrics.jsonl"
    cluster.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 5, "some steps", 60)
    assert "steps" in str(status_of(folder).stages[training.key].progress)
    cluster.call("scancel", "--signal=USR2", job)  # what SLURM sends ahead of a time limit
    cluster.until(lambda: cluster.jobs()[job] == ("PENDING", "BeginTime"), "the requeue", 30)
    assert status_of(folder).stages[training.key].detail == "BeginTime"
    status = finish(cluster, folder)
    assert status.exit_code == EXIT_DONE
    log = Path(submitted_jobs(folder)[training.key].log).read_text()
    assert "SLURM_RESTART_COUNT=1" in log
    assert f" resume candidates   {training.key}" in log


def test_a_job_is_requeued_so_often_and_no_more(cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None) -> None:
    folder = freeze_sweep("benchmarks.names=[lab-basic]", "method=base", "cluster.max_requeues=0", "cluster.setup=[sleep 2]")
    slurm.submit(folder)
    job = until_running(cluster, folder, "generations")
    cluster.until(lambda: list((folder.path / JOBS).glob("*")), "the stage's process", 60)
    cluster.call("scancel", "--signal=USR2", job)
    status = finish(cluster, folder)
    assert status.exit_code == EXIT_BROKEN
    assert states(status) == {"base_model": "done", "generations": "orphaned", "scores": "blocked", "result": "blocked"}
    assert "cluster.max_requeues=0 is reached" in Path(submitted_jobs(folder)[next(iter(submitted_jobs(folder)))].log).read_text()


def test_local_stages_are_made_by_the_submitter(cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None) -> None:
    folder = freeze_sweep("cluster.local_stages=[data,teacher]", *DATA_ONLY)
    said: list[str] = []
    slurm.submit(folder, said.append)
    assert [line.split()[5] for line in said if line.startswith("here")] == ["problems", "responses", "critiques", "examples"]
    kinds = {stage.key: stage.kind for stage in folder.plan.stages}
    assert {kinds[key] for key in submitted_jobs(folder)} == {"train", "evaluation", "record"}


SELF_MADE = (  # the base model's responses are made by a GPU job, and criticised where the submitter is
    "cluster.local_stages=[data,teacher]",
    "responses=self",
    "benchmarks.names=[lab-basic]",
    "train.selection.mode=last",
)
HERE_LATER = ["critiques", "examples"]


def here(said: list[str]) -> list[str]:
    return [line.split()[5] for line in said if line.startswith("here")]


def submitted_names(folder: RunFolder) -> set[str]:
    names = {stage.key: stage.name for stage in folder.plan.stages}
    return {names[key] for key in submitted_jobs(folder)}


def test_jobs_that_local_stages_stand_on_come_first(cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None) -> None:
    folder = freeze_sweep(*SELF_MADE)
    said: list[str] = []
    slurm.run(folder, said.append)
    assert here(said) == ["problems", *HERE_LATER]
    assert status_of(folder).exit_code == EXIT_DONE
    assert [line for line in said if line.startswith("submitted 1 jobs for 1 stages")]
    assert [line for line in said if line.startswith("waiting for responses ")]
    assert not submitted_names(folder) & {"problems", *HERE_LATER}


def test_without_waiting_it_is_said_what_is_left_and_retry_goes_on(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None
) -> None:
    folder = freeze_sweep(*SELF_MADE, "cluster.detach=true")
    said: list[str] = []
    slurm.run(folder, said.append)
    assert submitted_names(folder) == {"responses"}
    left = next(line for line in said if "stages are not submitted" in line)
    assert "7 stages are not submitted: stages of cluster.local_stages (critiques, examples)" in left
    assert f"python -m cft_lab retry {folder.path.name}" in left
    responses = next(stage for stage in folder.plan.stages if stage.name == "responses")
    cluster.until(lambda: is_made(responses, folder.store_root), "responses", 60)
    repair.retry(folder, said.append)
    assert here(said) == ["problems", *HERE_LATER]
    assert "candidates" in submitted_names(folder)


def test_ctrl_c_while_jobs_of_local_stages_are_awaited(cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None) -> None:
    folder = freeze_sweep(*SELF_MADE)
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    said: list[str] = []

    def typed(line: str) -> None:
        said.append(line)
        if line.startswith("waiting for responses"):
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()

    try:
        slurm.run(folder, typed)
    finally:
        cluster.call("scontrol", "update", "partitionname=main", "state=up")
    assert "Detached: its jobs go on" in said[-2]
    assert f"python -m cft_lab retry {folder.path.name}" in said[-1]
    assert status_of(folder).exit_code == EXIT_UNDER_WAY


def test_local_stages_of_a_job_that_failed_cost_only_their_own(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None
) -> None:
    folder = freeze_sweep("cluster.local_stages=[data,teacher]", "responses=self,reference", *SELF_MADE[2:])
    responses = {stage.kind: stage for stage in folder.plan.stages if stage.name == "responses"}
    (folder.store_root / "responses").mkdir(parents=True)
    (folder.store_root / "responses" / f"{responses['evaluation'].key}.partial").write_text("a file where a folder belongs")
    said: list[str] = []
    slurm.run(folder, said.append)
    counts = Counter((one.stage.name, one.state) for one in status_of(folder).stages.values())
    assert counts["responses", "failed"] == counts["critiques", "blocked"] == counts["result", "blocked"] == 1
    assert counts["critiques", "done"] == counts["result", "done"] == 1


def beside_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A script called sbatch comes first in PATH, with the real one as $SBATCH and $CALLS for notes."""
    real = shutil.which("sbatch")
    wrapper = folder / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!/bin/sh\nSBATCH={real} CALLS={folder}/calls\necho call >> $CALLS\n{script}\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")


def test_a_full_queue_costs_nothing(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job finds the limit on submitted jobs reached: SLURM's text, as such a limit needs an accounting database."""
    full = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    script = f"""[ $(wc -l < $CALLS) = 1 ] && exec $SBATCH "$@"
echo "sbatch: error: AssocMaxSubmitJobLimit
sbatch: error: Batch job submission failed: {full}" >&2; exit 1"""
    folder = freeze_sweep("benchmarks.names=[lab-basic]", "train.selection.mode=last", "cluster.detach=true")
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        with monkeypatch.context() as patched:
            beside_sbatch(tmp_path, patched, script)
            with pytest.raises(
                SubmitError, match=r"(?s)did not take.*job submit limit.*1 tasks are submitted; for the rest: .* retry"
            ):
                slurm.run(folder, lambda line: None)
        assert submitted_names(folder) == {"candidates", "selected"}
        assert len(cluster.call("squeue", "-h").splitlines()) == 1
        repair.retry(folder, lambda line: None)
        assert len(cluster.call("squeue", "-h").splitlines()) == 2
    finally:
        cluster.call("scontrol", "update", "partitionname=main", "state=up")


def test_ctrl_c_while_submitting_detaches(
    cluster: SlurmCluster, tmp_path: Path, prepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches all processes of the terminal while the first sbatch is at work: its job is taken, and noted."""
    typing = "import os, sys, time; os.kill(0, 2); time.sleep(0.3); os.execv(sys.argv[1], sys.argv[1:])"  # a shell would unblock it
    beside_sbatch(tmp_path, monkeypatch, f'exec {sys.executable} -c "{typing}" $SBATCH "$@"')
    cells = "train.selection.mode=last", "benchmarks.names=[lab-basic]", f"output_root={tmp_path / 'store'}", "progress=true"
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        done = subprocess.run(
            [sys.executable, "run.py", "-m", *DEBUG, *ON_SLURM, *cells],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            preexec_fn=AS_TYPED,
        )
        folder = run_folder.find(tmp_path / "store")
        assert (tmp_path / "calls").read_text().splitlines() == ["call"], done.stderr
        assert submitted_names(folder) == {"candidates", "selected"}, done.stderr
        assert len(cluster.call("squeue", "-h").splitlines()) == 1
    finally:
        cluster.call("scontrol", "update", "partitionname=main", "state=up")
    assert done.returncode == 130, done.stderr
    assert "Detached before all was submitted. What was submitted (1 tasks) goes on." in done.stderr
    for command in ("status", "retry", "cancel"):
        assert f"python -m cft_lab {command} {folder.path.name} --store" in done.stderr
    assert "same command" not in done.stderr


def test_the_code_is_frozen_before_local_stages_take_their_time(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    for part in ("cft_lab", "conf", "sweeps"):
        shutil.copytree(Path(slurm.__file__).parents[2] / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("cft_lab.sweeps.snapshot.PROJECT_ROOT", project)
    folder = freeze_sweep("cluster.local_stages=[data,teacher]", *DATA_ONLY)

    def edit(line: str) -> None:
        if line.startswith("here"):
            (project / "cft_lab" / "pipeline.py").write_text("raise SystemExit('the edited code ran')\n")

    slurm.submit(folder, edit)
    assert "the edited code" in (project / "cft_lab" / "pipeline.py").read_text()
    assert "the edited code" not in (folder.path / "code" / "cft_lab" / "pipeline.py").read_text()


def test_a_completed_stage_that_is_seen_late_is_not_lost(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, pretrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = freeze_sweep("method=base", "benchmarks.names=[lab-basic]")
    slurm.submit(folder)
    assert finish(cluster, folder).exit_code == EXIT_DONE
    generated = next(stage for stage in folder.plan.stages if stage.name == "generations")
    cluster.until(lambda: cluster.jobs()[submitted_jobs(folder)[generated.key].job][0] == "COMPLETED", "the job's end")
    for name in ("generations", "scores", "result"):
        shutil.rmtree(folder.store_root / name)
    status = status_of(folder)
    assert states(status) == {"base_model": "done", "generations": "running", "scores": "running", "result": "running"}
    assert slurm.submit(folder) == []
    monkeypatch.setattr("cft_lab.sweeps.submitted.VISIBLE_AFTER_S", 0)
    assert states(status_of(folder))["generations"] == "orphaned"
    assert len(slurm.submit(folder)) == 1


def test_one_task_leads_and_reaches_the_other_nodes(cluster: SlurmCluster, freeze_sweep: FreezeSweep, tmp_path: Path) -> None:
    """A training of two nodes: its process is on the first, and starts a step of its own on each."""
    from submitit import SlurmExecutor

    settings = freeze_sweep().plan.configs[0].cluster
    job = Job("train", "candidates", 2, (Task(("key",), frozenset()),))
    executor = SlurmExecutor(tmp_path / "logs")
    executor.update_parameters(**parameters(job, settings, tmp_path, None, None))
    nodes = "for node in $(scontrol show hostnames $SLURM_JOB_NODELIST); do "
    step = (
        'srun --overlap --nodes=1 --ntasks=1 --nodelist=$node sh -c "echo on \\$SLURMD_NODENAME with \\$CUDA_VISIBLE_DEVICES"; done'
    )
    started = executor.submit(partial(subprocess.check_call, ["sh", "-c", f"echo leads on $SLURMD_NODENAME; {nodes}{step}"]))
    cluster.until(lambda: cluster.jobs()[started.job_id][0] in ("COMPLETED", "FAILED"), "the job", 60)
    told = (tmp_path / "logs" / f"{started.job_id}_0_log.out").read_text().splitlines()
    assert [line for line in told if line.startswith(("leads", "on"))] == [
        "leads on 127.0.0.2",
        "on 127.0.0.2 with 0,1",
        "on 127.0.0.3 with 0,1",
    ]


def test_cancel_empties_the_queue_and_retry_goes_on(cluster: SlurmCluster, freeze_sweep: FreezeSweep) -> None:
    folder = freeze_sweep("cluster.detach=true", *DATA_ONLY)
    said: list[str] = []
    slurm.run(folder, said.append)
    assert f"python -m cft_lab status {folder.path.name} --store {folder.store_root}" in said[-1]
    assert status_of(folder).exit_code == EXIT_UNDER_WAY
    repair.cancel(folder, said.append)
    cluster.until(lambda: status_of(folder).exit_code == EXIT_BROKEN, "the end", 30)
    orphaned = [one for one in status_of(folder).stages.values() if one.state == "orphaned"]
    assert orphaned
    assert all("cancelled" in one.detail for one in orphaned)
    missing = len(to_make(folder.plan, folder.store_root))
    repair.retry(folder, said.append)
    assert f"for {missing} stages" in said[-2]
    assert status_of(folder).exit_code == EXIT_UNDER_WAY


def test_no_more_jobs_are_let_run_at_once_than_asked_for(cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None) -> None:
    folder = freeze_sweep("method=base,cft", "temperature=0,0.5", "cluster.max_jobs=1", "benchmarks.names=[lab-basic]")
    cluster.call("scontrol", "update", "partitionname=main", "state=down")
    try:
        jobs = list(dict.fromkeys(one.job for one in slurm.submit(folder)))
        scripts = [file.read_text() for file in sorted((folder.path / "slurm").glob("*_submission.sh"))]
        arrays = [line for script in scripts for line in script.splitlines() if line.startswith("#SBATCH --array")]
        assert arrays == ["#SBATCH --array=0-1%1"] * 2
        first_of_each = [job.partition("_")[0] for job in jobs if not job.endswith("_1")]
        waits = [cluster.call("squeue", "-h", "-j", job, "-o", "%E").splitlines()[0] for job in first_of_each]
        assert waits[0] == "(null)"
        for job, waiting in zip(first_of_each, waits[1:], strict=False):
            assert f":{job}" in waiting  # each is behind the one before it
        assert all("export HF_HUB_OFFLINE=1" in script for script in scripts)
    finally:
        cluster.call("scancel", "--user=root")
        cluster.call("scontrol", "update", "partitionname=main", "state=up")
