"""A job in this process, in torchrun's children and on two "nodes": the same losses, one report, and nobody left behind."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import losses, make_base, make_job, rank_pids, start, wait_for

from cft_lab.config import DataError, TrainConfig
from cft_lab.tracking import read_metrics
from cft_lab.training.candidates import list_candidates
from cft_lab.training.job import TrainingJob, read_job, write_job
from cft_lab.training.launch import run_job, scheduled_nodes
from cft_lab.training.resume import resume_step
from cft_lab.training.watching import MetricsTail, post_mortem

STEPS = 18


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def run_here(job: TrainingJob) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    counts = run_job(job, report=lambda row: rows.append(dict(row)), say=lambda line: None, progress=False)
    return counts, rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole job in one process."""
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def golden(base: Path, alone: Path) -> list[float]:
    """The losses of the whole job in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        job = make_job(base, alone)
        counts, rows = run_here(job)
    assert (counts["step"], counts["steps"], counts["examples"]) == (STEPS, STEPS, 48)
    assert rows == read_metrics(job.folder)
    assert [row["step"] for row in rows if "candidate" in row] == [6, 12, 18]
    assert [folder.name for folder in list_candidates(job.folder)] == ["step-000006", "step-000012", "step-000018"]
    return losses(job.folder)


def told(lines: str, what: str) -> list[Any]:
    """What a run of run_training_job.py told, of one kind."""
    return [row[what] for row in map(json.loads, lines.splitlines()) if what in row]


def test_a_job_survives_its_file(base: Path, tmp_path: Path) -> None:
    job = replace(make_job(base, tmp_path, processes=2), until_step=4)
    write_job(job, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job


def test_two_processes_train_as_one_and_leave_nothing_behind(base: Path, alone: Path, golden: list[float], tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "run", processes=2)
    with start(job) as parent:
        ranks = wait_for(lambda: found if len(found := rank_pids(job.folder)) == 2 else None)
        out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, errors[-3000:]
    assert losses(job.folder) == pytest.approx(golden, rel=1e-5)
    assert told(out, "row") == read_metrics(job.folder)
    (counts,) = told(out, "counts")
    assert (counts["step"], counts["steps"], counts["processes"]) == (STEPS, STEPS, 2)
    assert [folder.name for folder in list_candidates(job.folder)] == ["step-000006", "step-000012", "step-000018"]
    last = [folder / "step-000018" for folder in (alone, job.folder)]
    for file in last[0].iterdir():
        if file.name != "model.safetensors":
            assert file.read_bytes() == (last[1] / file.name).read_bytes(), file.name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in last)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6) for name in ours)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert not (job.folder / "launch").exists()


@pytest.mark.slow
def test_two_nodes_on_one_machine_train_as_one_process_does(base: Path, golden: list[float], tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "run", processes=1, nodes=2)
    with start(job, "nodes") as parent:
        out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, (errors + out)[-3000:]
    assert losses(job.folder) == pytest.approx(golden, rel=1e-5)
    assert told(out, "counts")[0]["processes"] == 2


def test_a_job_goes_on_in_segments(base: Path, golden: list[float], tmp_path: Path) -> None:
    job = make_job(base, tmp_path)
    rows = []
    for until in (4, 12, None):
        counts, new = run_here(replace(job, until_step=until))
        rows += new
        assert counts["step"] == resume_step(tmp_path) == (until or STEPS)
    assert losses(tmp_path) == golden, "segments change no bit"
    assert rows == read_metrics(tmp_path)
    assert len(list_candidates(tmp_path)) == 3


def test_a_damaged_base_model_is_refused_by_name_at_once(base: Path, tmp_path: Path) -> None:
    shard = tmp_path / "model" / "model.safetensors"
    shard.parent.mkdir()
    for file in (base / "model").iterdir():
        (shard.parent / file.name).write_bytes(file.read_bytes()[: -1 if file.name == shard.name else None])
    with pytest.raises(DataError, match="model.safetensors has"):
        run_here(replace(make_job(base, tmp_path / "alone"), base=shard.parent))
    job = replace(make_job(base, tmp_path / "two", processes=2), base=shard.parent)
    with start(job) as parent:
        out, _ = parent.communicate(timeout=120)
    assert parent.returncode == 1
    assert "model.safetensors has" in told(out, "error")[0]
    assert not any("restart" in line for line in told(out, "said")), "starting again would not mend it"


def test_settings_that_do_not_work_in_several_processes_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="weights=bf16 with optimizer=adamw-8bit works in one process only"):
        run_here(make_job(base, tmp_path, processes=2, weights="bf16", precision="bf16", optimizer="adamw-8bit"))


def test_a_launcher_around_run_py_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="train.processes"):
        run_here(make_job(base, tmp_path))


def test_nodes_come_from_the_schedulers_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    assert [node.host for node in scheduled_nodes(TrainConfig())] == ["localhost"]
    with pytest.raises(DataError, match="train.nodes=2 needs a SLURM job"):
        scheduled_nodes(TrainConfig(nodes=2))
    scontrol = tmp_path / "scontrol"  # what SLURM's own prints, which is not on this machine
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-09]" ] && printf "gpu07\\ngpu08\\ngpu09\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[07-09]")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    nodes = scheduled_nodes(TrainConfig(nodes=2))
    assert [node.host for node in nodes] == ["gpu07", "gpu08"]
    step = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=12", "--cpu-bind=none", "--quit-on-interrupt")
    assert nodes[1].reach == (*step, "--nodelist=gpu08")
    with pytest.raises(DataError, match="this one has 3"):
        scheduled_nodes(TrainConfig(nodes=4))


def test_the_tail_of_metrics_reads_each_place_once(tmp_path: Path) -> None:
    from cft_lab.tracking import MetricsFile

    with MetricsFile(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.append({"step": step})
    tail = MetricsTail(tmp_path / "metrics.jsonl", resume_step=2)
    assert [row["step"] for row in tail.rows()] == [3]
    with MetricsFile(tmp_path, resume_step=2) as metrics:  # killed after step 3, resumed after step 2
        metrics.append({"step": 3})
        assert list(tail.rows()) == []
        metrics.append({"step": 4})
        assert [row["step"] for row in tail.rows()] == [4]
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"step"')
        torn.flush()
        assert list(tail.rows()) == []
        torn.write(": 5}\n")
    assert [row["step"] for row in tail.rows()] == [5]
    tail.close()


def test_a_launcher_that_says_nothing_of_ranks_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "launcher-0.log").write_text("python: No module named torch.distributed.run\n")
    assert "did not start" in post_mortem(tmp_path)
    assert "No module named torch.distributed.run" in post_mortem(tmp_path)
