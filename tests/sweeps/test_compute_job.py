"""What a job does with a run folder, in a process of its own but without SLURM."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FreezeSweep

from cft_lab.config import PROJECT_ROOT
from cft_lab.json_files import read_json, write_json
from cft_lab.sweeps import stage_job
from cft_lab.sweeps.compute_job import EXIT_REQUEUE, JOBS
from cft_lab.sweeps.plan import is_made
from cft_lab.sweeps.run_folder import PLAN, RunFolder

START = """
import sys
from pathlib import Path
from cft_lab.sweeps import compute_job
compute_job.VISIBLE_AFTER_S = float(sys.argv[2])
compute_job.run(Path(sys.argv[1]), sys.argv[4:], sys.argv[3] == "gathers")
"""


@pytest.fixture
def folder(freeze_sweep: FreezeSweep) -> RunFolder:
    return freeze_sweep("data.pool=40")


def keys(folder: RunFolder, *names: str) -> list[str]:
    return [next(stage.key for stage in folder.plan.stages if stage.name == name) for name in names]


def start(folder: RunFolder, *names: str, patience_s: float = 0.5, gathers: bool = False) -> subprocess.Popen[str]:
    how = "gathers" if gathers else "makes"
    command = [sys.executable, "-c", START, str(folder.path), str(patience_s), how, *keys(folder, *names)]
    return subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True)


def made(folder: RunFolder, name: str) -> bool:
    return is_made(next(stage for stage in folder.plan.stages if stage.name == name), folder.store_root)


def test_stages_are_made_in_order_and_once(folder: RunFolder) -> None:
    job = start(folder, "problems", "responses")
    _, told = job.communicate()
    assert job.returncode == 0, told
    assert made(folder, "responses")
    assert told.count(" make ") == 2
    again = start(folder, "problems", "responses")
    _, told = again.communicate()
    assert again.returncode == 0
    assert " make " not in told
    (about,) = [read_json(file) for file in (folder.path / JOBS).glob("*.json")]
    assert about["keys"] == keys(folder, "problems", "responses")


def test_an_upstream_that_is_seen_late_is_waited_for(folder: RunFolder) -> None:
    job = start(folder, "responses", patience_s=60)
    time.sleep(1)
    assert stage_job.make(folder, *keys(folder, "problems"))
    _, told = job.communicate()
    assert job.returncode == 0, told
    assert made(folder, "responses")


def test_an_upstream_that_is_gone_is_no_task_of_this_job(folder: RunFolder) -> None:
    job = start(folder, "responses", "critiques")
    _, told = job.communicate()
    assert job.returncode == 1
    assert not made(folder, "problems")
    (responses,) = keys(folder, "responses")
    assert "made before this job started, but not in the store" in read_json(folder.failure(responses))["error"]
    assert "python -m cft_lab retry" in told
    assert not folder.failure(*keys(folder, "critiques")).exists()  # not its fault


def test_a_job_that_gathers_makes_what_it_can(folder: RunFolder) -> None:
    assert stage_job.make(folder, *keys(folder, "problems"))
    job = start(folder, "critiques", "responses", gathers=True)  # the first would want the second
    assert job.communicate() is not None
    assert job.returncode == 0
    assert made(folder, "responses")
    assert not made(folder, "critiques")
    assert not list((folder.path / "failures").iterdir())


def test_a_directory_of_the_start_that_is_not_on_this_machine_is_no_failure(folder: RunFolder) -> None:
    plan = read_json(folder.path / PLAN)
    write_json(folder.path / PLAN, plan | {"directory": "/somewhere/on/the/login/node"})
    job = start(folder, "problems")
    _, told = job.communicate()
    assert job.returncode == 0, told
    assert "'/somewhere/on/the/login/node'): goes on in" in told
    assert made(folder, "problems")


def test_what_fails_before_the_first_stage_is_noted(folder: RunFolder) -> None:
    (folder.path / JOBS).write_text("a file where a folder belongs")
    job = start(folder, "problems")
    assert job.communicate() is not None
    assert job.returncode == 1
    assert "FileExistsError" in read_json(folder.failure(*keys(folder, "problems")))["error"]


@pytest.mark.parametrize("warning", [signal.SIGUSR2, signal.SIGTERM])
def test_a_warning_ends_it_with_the_code_that_asks_for_a_requeue(folder: RunFolder, warning: signal.Signals) -> None:
    job = start(folder, "responses", patience_s=60)  # waits for its upstream
    (first,) = keys(folder, "responses")
    while not (folder.path / JOBS / f"{first}.json").exists():
        time.sleep(0.05)
    job.send_signal(warning)
    _, told = job.communicate()
    assert job.returncode == EXIT_REQUEUE
    assert f"signal {warning.name}: stopping here" in told
    assert not list((folder.path / "failures").iterdir())


def test_failures_are_noted_and_the_exit_code_is_raw(folder: RunFolder) -> None:
    problems = next(stage for stage in folder.plan.stages if stage.name == "problems")
    (folder.store_root / "problems").mkdir(parents=True)
    (folder.store_root / "problems" / f"{problems.key}.partial").write_text("a file where a folder belongs")
    job = start(folder, "problems", "responses")
    assert job.communicate() is not None
    assert job.returncode == 1
    assert "FileExistsError" in read_json(folder.failure(problems.key))["error"]


def test_nothing_is_sent_from_a_compute_node(freeze_sweep: FreezeSweep) -> None:
    from cft_lab.sweeps.compute_job import _without_network

    config = freeze_sweep("tracking=wandb", "tracking.mode=online").plan.configs[0]
    assert config.tracking.mode == "online"
    assert _without_network(config).tracking.mode == "offline"
    assert Path(_without_network(config).output_root) == Path(config.output_root)
