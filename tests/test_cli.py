"""The command line as a person meets it: bad input, multirun, help."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cells import DEBUG

from cft_lab.config import PROJECT_ROOT

RUN = [sys.executable, str(PROJECT_ROOT / "run.py")]


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, cwd=cwd, env=env, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method=foo"], ["method/foo", "sft-verified"]),
        (["train.lrr=1"], ["train.lrr is not a field", "did you mean train.lr?"]),
        (["train.lr=abc"], ["train.lr", "abc"]),
        (["train.lr=7"], ["train.lr=7.0 is out of range", "from 1e-09 to 1"]),
        (["train.global_batch_size=0"], ["train.global_batch_size=0 is out of range", "at least 1"]),
        (["train.precision=fp8"], ["train.precision='fp8' is not allowed", "fp32, bf16, auto"]),
        (["temperature=-1"], ["temperature=-1.0 is out of range"]),
        (["method=cft", "teacher=none"], ["method=cft needs a teacher", "teacher=oracle"]),
        (["method=sft-teacher", "teacher=none"], ["method=sft-teacher needs a teacher"]),
        (["data.examples=9000"], ["data.examples=9000 is more than data.pool=8000"]),
        (["benchmarks.names=[lab-easy]"], ["benchmarks.names='lab-easy' is unknown", "lab-basic"]),
        (["benchmarks.names=[]"], ["benchmarks.names=[] is empty"]),
        (["benchmarks.names=[lab-long,lab-long]"], ["names a benchmark twice"]),
        (["+data.lab.families.office=1"], ["data.lab.families.office is not allowed"]),
        (["data.lab.families.chain=-1"], ["data.lab.families", "out of range"]),
        (["model.lab.heads=3"], ["model.lab.heads=3 must divide"]),
        (["model.hub_id=/nowhere"], ["exactly one of model.lab", "has model.lab (made here) and model.hub_id"]),
        (["model=qwen2.5-7b", "model.hub_id=/nowhere"], ["model.hub_id=/nowhere: no such folder, and no name of a hub repository"]),
        (["model.end_of_turn=foo"], ["model.end_of_turn='foo' is not in the lab tokenizer"]),
        (["train.selection.benchmark=lab-basic"], ["lab-basic is a test set", "lab-validation"]),
        (["train.selection.benchmark=math500", "benchmarks.names=[math]"], ["math500 is part of math", "math-train-clean"]),
        (["inference.samples=4"], ["inference.samples=4 draws the same text", "temperature=0"]),
        (["inference.stop=['']"], ["inference.stop=[''] has an empty string"]),
        (["+benchmarks.paths.lab-long=x.jsonl"], ["benchmarks.paths.lab-long is not a benchmark that is read from files", "gsm8k"]),
        (
            ["benchmarks.names=[aime24]", "+benchmarks.paths.aime24=/no/x.jsonl"],
            ["benchmarks.paths.aime24=/no/x.jsonl does not exist"],
        ),
        (["benchmarks.items=1"], ["benchmarks.items=1 is out of range", "at least 2"]),
        (["engine=vllm"], ["engine=vllm: the package vllm is not installed", "engine=transformers"]),
        (["mix_data=lab-forum"], ["mix_data is filled from the group data", "data@mix_data=NAME"]),
        (["-m", "mix_data=lab-forum,lab-web"], ["mix_data is filled from the group data", "data@mix_data=NAME"]),
        (["train.selection=clean"], ["train.selection has fields of its own", "train.selection.mode=..."]),
        (["tracking=wandb", "tracking.mode=online"], ["WANDB_API_KEY"]),
        (
            ["data.gold=boxed", "method.keep_critiques=agreeing"],
            ["method.keep_critiques=agreeing", "very solution that is critiqued"],
        ),
        (["data=metamath"], ["teacher=oracle reads only the lab world", "data=metamath"]),
        (["data.critiques=released"], ["data.critiques=released", "has no critiques"]),
        (["decontamination.benchmarks=[gsm9k]"], ["decontamination.benchmarks='gsm9k' is unknown"]),
        (["engine=openai"], ["engine.kind=openai does not fit model=lab-qwen2"]),
        (["method=mix", "mix_data.examples=9000"], ["mix_data.examples=9000 is more than mix_data.pool=8000"]),
        (["method=mix", "data@mix_data=webinstruct", "mix_data.hub_id=/no/where"], ["/no/where does not exist"]),
        (["teacher=local"], ["teacher.model has no value"]),
        (["teacher=local", "teacher.model=/no/model"], ["teacher.model=/no/model: neither a model folder"]),
        (["responses=engine", "responses.kind=openai", "responses.model=m"], ["OPENAI_API_KEY"]),
        (["teacher.base_url=http://me:pw@host/v1"], ["teacher.base_url"]),
        (["teacher.base_url=host:8000/v1"], ["teacher.base_url", "http"]),
        (["engine.base_url='http://host/v1?token=hush'"], ["engine.base_url='http://host/v1' goes on with ?"]),
        (
            ["-m", "teacher.base_url='http://a/v1?token=hush','http://me:hush@b/v1'"],
            ["teacher.base_url=(not shown): teacher.base_url='http://a/v1' goes on with ?"],
        ),
        (["teacher.api_key_env=sk-typed-in-the-wrong-place"], ["teacher.api_key_env"]),
        (["nosuchfield=1"], ["nosuchfield is not a field"]),
    ],
)
def test_bad_input_is_one_clear_message(arguments: list[str], said: list[str], tmp_path: Path) -> None:
    done = run(*arguments, f"output_root={tmp_path / 'store'}", WANDB_API_KEY="", OPENAI_API_KEY="", NETRC="/nowhere")
    assert done.returncode == 2
    assert "Not started" in done.stderr
    for part in said:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stdout + done.stderr, "what may be a key is not shown"
    assert not (tmp_path / "store").exists()


def test_the_plan_of_a_training_needs_no_folder_of_the_model() -> None:
    done = run("model=qwen2.5-7b", "model.hub_id=/nowhere", "train.preflight=true", "train.device_memory_gb=80")
    assert "the tokenizer of /nowhere is not here" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_paper_scale_model_is_refused_at_once_where_it_cannot_run(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("model=qwen2.5-math-7b", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1", OPENAI_API_KEY="")
    assert time.monotonic() - started < 10  # two seconds on a quiet machine; benchmarks/startup.py measures it
    assert done.returncode == 2
    for part in (
        "needs a GPU",
        "Qwen/Qwen2.5-Math-7B",
        str(tmp_path),
        "hf download",
        "WebInstructSub",
        "OPENAI_API_KEY",
        "benchmark math500",
    ):
        assert part in done.stderr
    for name in ("math", "minerva-math", "gsm8k", "olympiadbench", "aime24", "amc23", "math500"):
        assert f"benchmark {name}: its rows are neither in a local file nor in the hub's cache" in done.stderr
    assert "hf download openai/gsm8k --repo-type dataset" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("field", ["train.lrr=1", "train.lr=7"])
def test_the_traceback_comes_back_on_request(field: str) -> None:
    done = run(field, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_cached_paper_scale_model_passes_the_weights_check(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen2.5-Math-7B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    reference = snapshot.parents[1] / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text("abc")
    done = run("model=qwen2.5-math-7b", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1", OPENAI_API_KEY="")
    assert "needs a GPU" in done.stderr
    assert "its weights are not in the local cache" not in done.stderr
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors", "b": "missing.safetensors"}}')
    assert "its weights are not in the local cache" in run("model=qwen2.5-math-7b", HF_HUB_CACHE=str(tmp_path)).stderr


def test_the_paper_cell_is_composed_with_the_papers_values() -> None:
    done = run("model=qwen2.5-math-7b", "--cfg", "job")
    assert done.returncode == 0
    for line in (
        "hub_id: TIGER-Lab/WebInstructSub",
        "model: gpt-4o-2024-11-20",
        "name: math6",
        "lr: 5.0e-06",
        "global_batch_size: 512",
        "max_length: 2048",
        "epochs: 1",
        "mode: paper",
        "examples: 50000",
        "save_every_steps: 2",
    ):
        assert line in done.stdout
    for name in ("math", "minerva-math", "gsm8k", "olympiadbench", "aime24", "amc23"):
        assert f"- {name}\n" in done.stdout


def test_paper_groups_can_still_be_overridden() -> None:
    done = run("model=qwen2.5-math-7b", "data=lab-web", "teacher=weak-oracle", "train.lr=1e-6", "--cfg", "job")
    assert done.returncode == 0
    for line in ("name: lab-web", "name: weak-oracle", "lr: 1.0e-06"):
        assert line in done.stdout


def test_help_shows_the_groups() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "method: base, cft, cft-short, mix, sft, sft-teacher, sft-verified" in done.stdout


def test_a_grid_runs_from_any_directory_and_ends_with_one_table(tmp_path: Path, debug_model: Path, shared_store: Path) -> None:
    done = run("-m", "method=base,sft", "seed=0,1", *DEBUG, f"output_root={shared_store}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    table = done.stdout.strip().splitlines()
    assert sum("method=base" in line for line in table) >= 1
    assert all(name in done.stdout for name in ("lab-basic", "lab-applied", "lab-long", "lab-transfer", "AVG", "seed sd"))
    assert "method=sft" in table[-2], "the accuracy table comes last"


def test_nothing_is_started_if_a_cell_is_refused(debug_model: Path, tmp_path: Path) -> None:
    done = run("-m", "method=cft,base", "teacher=none", *DEBUG, f"output_root={tmp_path / 'store'}")
    assert done.returncode == 2
    assert "Not started" in done.stderr
    assert "method=cft: method=cft needs a teacher" in done.stderr
    assert "method=base:" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_what_the_machine_lacks_for_a_cell_is_told_before_any_starts(debug_model: Path, tmp_path: Path) -> None:
    arguments = ("model=lab-debug,qwen2.5-math-7b", "seed=0,1", "method=base", f"output_root={tmp_path / 'store'}")
    done = run("-m", *arguments, HF_HUB_CACHE=str(tmp_path), OPENAI_API_KEY="")
    assert done.returncode == 2
    assert done.stderr.count("needs a GPU") == 1, "cells that differ in their seed lack the same"
    assert "model=qwen2.5-math-7b: model=qwen2.5-math-7b needs a GPU" in done.stderr
    assert "model=lab-debug:" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_failing_cell_is_shown_as_failed(debug_model: Path, shared_store: Path) -> None:
    done = run("-m", "method=sft-verified,base", *DEBUG, "data.examples=90", f"output_root={shared_store}")
    assert done.returncode == 1
    assert "FAILED method=sft-verified: DataError: data.examples=90 are wanted" in done.stdout
    assert "failed examples" in done.stderr
    assert "Traceback" not in done.stderr
    assert "run the same command again" in done.stderr
    assert "lab-basic" in done.stdout


def test_a_single_failing_cell_is_told_without_a_table(debug_model: Path, shared_store: Path) -> None:
    done = run("method=sft-verified", *DEBUG, "data.examples=90", f"output_root={shared_store}")
    assert done.returncode == 1
    assert "Stopped: data.examples=90 are wanted" in done.stderr
    assert "Traceback" not in done.stderr


def test_stages_lists_what_was_made(debug_model: Path, shared_store: Path, tmp_path: Path) -> None:
    run("method=base", *DEBUG, f"output_root={shared_store}")
    command = [sys.executable, "-m", "cft_lab", "stages", "--store"]
    done = subprocess.run([*command, str(shared_store)], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert debug_model.parent.name in done.stdout
    assert "base_model" in done.stdout
    errors = [sys.executable, "-m", "cft_lab", "lab-errors", "--store", str(shared_store)]
    told = subprocess.run(errors, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout
    assert "base lab-debug" in told
    assert all("right=" in line and "arithmetic=" in line for line in told.splitlines())
    refused = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert refused.returncode == 2
    assert "is not a folder" in refused.stderr


def test_grades_lists_where_the_graders_disagree(debug_model: Path, shared_store: Path) -> None:
    run("method=base", *DEBUG, f"output_root={shared_store}")
    stages = [sys.executable, "-m", "cft_lab", "stages", "--json", "--stage", "scores", "--store", str(shared_store)]
    listed = subprocess.run(stages, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout.splitlines()
    key = json.loads(listed[0])["key"]
    grades = [sys.executable, "-m", "cft_lab", "grades", key, "--store", str(shared_store)]
    told = subprocess.run([*grades, "--show", "truncated"], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout
    assert "4 graded" in told or "12 graded" in told
    assert "strict truncated  paper truncated" in told
