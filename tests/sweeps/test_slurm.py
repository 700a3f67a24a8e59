"""Sweeps on a real SLURM: submission, dependencies, arrays, resources, refusals, requeues, two people in one store."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from conftest import FreezeSweep
from slurm_cluster import SlurmCluster
from slurm_runs import check_granted, finish, made_in, states, until_running

from cft_lab.config import ConfigError
from cft_lab.sweeps import live, repair, slurm, stage_job
from cft_lab.sweeps.compute_job import JOBS
from cft_lab.sweeps.job_graph import Job, Task
from cft_lab.sweeps.outcomes import print_tables
from cft_lab.sweeps.plan import is_made, to_make
from cft_lab.sweeps.sbatch import parameters
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


def test_local_stages_that_stand_on_a_training_are_refused(cluster: SlurmCluster, freeze_sweep: FreezeSweep) -> None:
    folder = freeze_sweep("cluster.local_stages=[data,teacher]", "responses=self")  # the base model's, which is not there
    with pytest.raises(ConfigError, match=r"cluster.local_stages=\['data', 'teacher'\] stands on base_model"):
        slurm.submit(folder)
    assert submitted_jobs(folder) == {}


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
