"""A stage in a process of its own: made from the run folder alone, failures on record, exit codes that tell the truth."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cells import DEBUG
from sweep_tools import planned

from cft_lab.config import PROJECT_ROOT
from cft_lab.json_files import read_json
from cft_lab.records import Result, from_row
from cft_lab.sweeps import stage_job
from cft_lab.sweeps.plan import PlannedStage, is_made
from cft_lab.sweeps.run_folder import RunFolder, freeze

SMALL = (*DEBUG, "benchmarks.names=[lab-long]")


def frozen(root: Path, *overrides: str) -> RunFolder:
    return freeze(planned(*SMALL, *overrides, f"output_root={root}"), "test", [])


def job(folder: RunFolder, *keys: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cft_lab.sweeps.stage_job", str(folder.path), *keys]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(line, capture_output=True, text=True, cwd=PROJECT_ROOT, env=env, input=stdin, check=False)


def stage(folder: RunFolder, name: str) -> PlannedStage:
    return next(stage for stage in folder.plan.stages if stage.name == name)


def test_a_cell_is_made_stage_by_stage_from_the_run_folder_alone(debug_model: Path, shared_store: Path) -> None:
    folder = frozen(shared_store, "method=base", "benchmarks.items=3")
    done = job(folder, *(stage.key for stage in folder.plan.stages))
    assert done.returncode == 0, done.stderr
    assert all(is_made(stage, shared_store) for stage in folder.plan.stages)
    result = from_row(Result, read_json(shared_store / "result" / folder.plan.cells[0].result / "result.json"))
    assert result.scores[0].n == 3
    again = job(folder, stage(folder, "result").key)
    assert (again.returncode, again.stderr) == (0, "")


def test_a_lost_upstream_stage_is_made_again_and_said(debug_model: Path, shared_store: Path) -> None:
    folder = frozen(shared_store, "method=base", "benchmarks.items=3")
    assert stage_job.make(folder, stage(folder, "result").key)
    for name in ("scores", "generations"):
        shutil.rmtree(shared_store / name / stage(folder, name).key)
    done = job(folder, stage(folder, "scores").key)
    assert done.returncode == 0
    assert f"gone generations  {stage(folder, 'generations').key}  is not in the store" in done.stderr
    assert is_made(stage(folder, "generations"), shared_store)


def test_a_failure_is_recorded_told_and_forgotten_once_the_stage_is_made(
    debug_model: Path, shared_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = frozen(shared_store, "method=sft-verified", "data.examples=90", "data.seed=7")
    examples, result = stage(folder, "examples"), stage(folder, "result")
    done = job(folder, examples.key, stage(folder, "problems").key)
    assert done.returncode == 1
    assert "failed examples" in done.stderr
    assert "Traceback" not in done.stderr
    assert is_made(stage(folder, "problems"), shared_store), "what comes after a failed stage is made all the same"
    failure = json.loads(folder.failure(examples.key).read_text())
    assert failure["name"] == "examples"
    assert failure["error"].startswith("DataError: data.examples=90 are wanted")
    assert failure["last_lines"][0].startswith("data.examples=90 are wanted")
    assert not folder.failure(result.key).exists()
    folder.failure(stage(folder, "problems").key).write_text("{}")
    assert job(folder, stage(folder, "problems").key).returncode == 0
    assert not folder.failure(stage(folder, "problems").key).exists()


def test_an_unforeseen_error_is_recorded_with_the_end_of_its_traceback(debug_model: Path, shared_store: Path) -> None:
    folder = frozen(shared_store, "method=base", "benchmarks.items=2")
    generated = stage(folder, "generations")
    blocked = shared_store / "generations" / f"{generated.key}.partial"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where a folder is to be")
    done = job(folder, generated.key)
    blocked.unlink()
    assert done.returncode == 1
    failure = json.loads(folder.failure(generated.key).read_text())
    assert failure["last_lines"][0].startswith("Traceback") or len(failure["last_lines"]) == 30
    assert "FileExistsError" in failure["last_lines"][-1]


def test_a_key_that_the_code_no_longer_gives_is_refused(debug_model: Path, shared_store: Path) -> None:
    folder = frozen(shared_store, "method=base", "benchmarks.items=2")
    file = folder.path / "cells" / "000.json"
    cell = json.loads(file.read_text())
    cell["config"]["inference"]["max_new_tokens"] = 13
    file.write_text(json.dumps(cell))
    done = job(folder, stage(folder, "generations").key)
    assert done.returncode == 1
    assert "cannot be made as it was planned: prompts, versions or data files have changed since" in done.stderr


def test_what_the_machine_lacks_is_told_before_the_stage_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = freeze(planned("model=qwen2.5-math-7b", f"output_root={tmp_path}"), "test", [])
    done = job(folder, stage(folder, "candidates").key)
    assert done.returncode == 1
    for part in ("needs a GPU", "WebInstructSub", "OPENAI_API_KEY"):
        assert part in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sweeps"]
    done = job(folder, stage(folder, "problems").key)
    assert "WebInstructSub" in done.stderr
    assert "needs a GPU" not in done.stderr, "the data want none"


def test_a_folder_that_is_none_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "cft_lab.sweeps.stage_job", str(tmp_path), "0123"], capture_output=True, text=True,
                          cwd=PROJECT_ROOT, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "is not the run folder of a sweep" in done.stderr


def test_a_serving_process_makes_what_it_is_told_and_logs_each_stage(debug_model: Path, shared_store: Path) -> None:
    folder = frozen(shared_store, "method=sft", "data.seed=8")
    keys = [stage(folder, name).key for name in ("problems", "responses")]
    done = job(folder, "--serve", stdin="".join(f"{key}\n" for key in [*keys, "0123"]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*(f"{key} made" for key in keys), "0123 failed"]
    assert f"make problems     {keys[0]}" in folder.log(keys[0]).read_text()
    assert "problems" not in folder.log(keys[1]).read_text()
    assert json.loads(folder.failure("0123").read_text())["log"] == str(folder.log("0123"))
