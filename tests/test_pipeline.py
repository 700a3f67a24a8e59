"""Whole cells at debug size, for real: pretraining, data, training, selection, evaluation, records."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config
from cft_lab.data.methods import METHODS, MIXES
from cft_lab.evaluation.statistics import wilson
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Generation, Grade, Outcome, Result, from_row

ComposeCell = Callable[..., Config]
STAGES_OF_CFT = {
    "base_model", "problems", "responses", "critiques", "examples", "candidates", "selected", "generations", "scores", "result",
}  # fmt: skip


def run(config: Config) -> tuple[Result, list[str]]:
    lines: list[str] = []
    return pipeline.run(config, lines.append), lines


def made(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines if line.strip().startswith("make")]


@pytest.mark.parametrize("method", sorted({**METHODS, **MIXES}))
def test_every_method_runs_end_to_end(cell: ComposeCell, method: str) -> None:
    few = ["data.examples=null"] if method == "cft-short" else []  # most critiques are longer than the responses
    config = cell(f"method={method}", *few)
    result, _ = run(config)
    assert [score.benchmark for score in result.scores] == config.benchmarks.names
    assert all(score.n == 4 and score.errors == 0 for score in result.scores)
    assert (result.supervised_tokens is None) is (method == "base")
    if few:
        assert result.examples is not None
        assert 0 < result.examples < 90
    else:
        assert result.examples == {"base": None, "mix": 48}.get(method, 24)
    again, lines = run(config)
    assert again == result
    assert made(lines) == []


@pytest.mark.parametrize("overrides", [("responses=self",), ("inference=single-pass",), ("inference=two-stage", "temperature=0.8")])
def test_self_responses_and_self_critique_run_end_to_end(cell: ComposeCell, overrides: tuple[str, ...], shared_store: Path) -> None:
    result, _ = run(cell("method=cft", *overrides))  # what this model writes is cut off: sft would not imitate it
    if "inference=two-stage" in overrides:
        key = result.keys["generations/lab-basic"]
        rows = read_records(shared_store / "generations" / key / "generations.jsonl", Generation)
        assert all(row.turns[0].purpose == "solve" and row.turns[1].purpose == "critique" for row in rows)
        assert all(len(row.turns) <= 16 for row in rows)


def test_scores_follow_from_the_recorded_grades_and_texts(cell: ComposeCell, shared_store: Path) -> None:
    result, _ = run(cell("method=sft"))
    for score in result.scores:
        folder = shared_store / "scores" / result.keys[f"scores/{score.benchmark}"]
        outcomes = [row.outcome for row in read_records(folder / "grades.jsonl", Grade)]
        assert score.correct == outcomes.count(Outcome.CORRECT)
        assert score.interval == wilson(score.correct, len(outcomes))
        manifest = read_json(folder / "manifest.json")
        texts = shared_store / "generations" / manifest["upstream"]["generations"] / "generations.jsonl"
        assert len(read_records(texts, Generation)) == score.n


def test_ten_cells_share_what_they_can(cell: ComposeCell, tmp_path: Path) -> None:
    lines: list[str] = []
    for method in ("base", "sft", "sft-verified", "sft-teacher", "cft"):
        for seed in (0, 1):
            pipeline.run(cell(f"method={method}", f"seed={seed}", f"output_root={tmp_path}"), lines.append)
    counts = {stage: made(lines).count(stage) for stage in {*made(lines)}}
    assert counts["base_model"] == counts["problems"] == counts["responses"] == counts["critiques"] == counts["answers"] == 1
    assert counts["examples"] == 4
    assert counts["candidates"] == counts["selected"] == 8
    assert counts["result"] == 9, "the base model decodes greedily: its two seeds are one result"


def test_several_draws_of_an_item(cell: ComposeCell, shared_store: Path) -> None:
    config = cell("method=base", "inference.samples=3", "temperature=1.0")
    result, _ = run(config)
    for score in result.scores:
        assert (score.n, score.samples) == (12, 3)
        assert score.majority is not None
        assert score.passed is not None
    rows = read_records(shared_store / "generations" / result.keys["generations/lab-basic"] / "generations.jsonl", Generation)
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row.problem_id, []).append(row.final_text)
    assert all(len(set(drawn)) == 3 for drawn in texts.values()), "every draw is a new one"
    single, _ = run(cell("method=base", "temperature=1.0"))
    first = read_records(shared_store / "generations" / single.keys["generations/lab-basic"] / "generations.jsonl", Generation)
    assert [row.final_text for row in first] == [row.final_text for row in rows if row.sample == 0]


def test_the_two_arms_of_a_pool_share_its_critiques(cell: ComposeCell) -> None:
    keys = [
        {stage.name: stage.key for stage in pipeline.plan(cell(f"method={method}")).result.walk()}
        for method in ("cft", "sft-verified")
    ]
    assert keys[0]["critiques"] == keys[1]["critiques"]
    assert keys[0]["examples"] != keys[1]["examples"]


def test_the_manifests_tell_where_a_result_comes_from(cell: ComposeCell, shared_store: Path) -> None:
    result, _ = run(cell("method=cft"))
    stages = list(pipeline.plan(cell("method=cft")).result.walk())
    assert {stage.name for stage in stages} == STAGES_OF_CFT
    for stage in stages:
        manifest = read_json(shared_store / stage.name / stage.key / "manifest.json")
        assert manifest["key"] == stage.key
        assert manifest["upstream"] == {role: above.key for role, above in stage.upstream.items()}
    candidates = read_json(shared_store / "candidates" / result.keys["candidates"] / "manifest.json")
    assert candidates["counts"]["threads"] == 2
    first = read_json(shared_store / "candidates" / result.keys["candidates"] / "first_example.json")
    assert first["prompt"].endswith("assistant\n")
    assert "Conclusion:" in first["supervised"]


def test_selection_takes_the_best_and_the_earlier_of_equals(cell: ComposeCell, shared_store: Path) -> None:
    result, _ = run(cell("method=cft"))
    folder = shared_store / "selected" / result.keys["selected"]
    curve = read_json(folder / "curve.json")
    assert [row["step"] for row in curve] == [2]
    assert read_json(folder / "manifest.json")["counts"]["step"] == min(
        row["step"] for row in curve if row["correct"] == max(r["correct"] for r in curve)
    )


def test_the_last_candidate_can_be_taken_without_validation(cell: ComposeCell, shared_store: Path) -> None:
    result, _ = run(cell("method=cft", "train.selection.mode=last", "train.save_every_steps=1"))
    counts = read_json(shared_store / "selected" / result.keys["selected"] / "manifest.json")["counts"]
    assert (counts["step"], counts["candidates"]) == (2, 2)


def test_a_shortfall_of_the_pool_is_an_error_before_training(cell: ComposeCell) -> None:
    with pytest.raises(ValueError, match=r"data.examples=90 are wanted, but the pool of 90 problems gives"):
        run(cell("method=sft-verified", "data.examples=90"))


def test_seeds_draw_apart_when_sampling(cell: ComposeCell, shared_store: Path) -> None:
    texts = []
    for seed in (0, 1):
        result, _ = run(cell("method=base", "temperature=0.9", f"seed={seed}"))
        folder = shared_store / "generations" / result.keys["generations/lab-basic"]
        texts.append([row.final_text for row in read_records(folder / "generations.jsonl", Generation)])
    assert texts[0] != texts[1]


COMMAND = [
    sys.executable, str(PROJECT_ROOT / "run.py"), "method=cft", "model=lab-debug", "train=debug", "data.pool=300",
    "data.examples=160", "benchmarks.items=40", "inference.max_new_tokens=24", "train.selection.max_new_tokens=24",
    "engine.batch_size=16", "model.lab.pretrain.optimization.resume_every_steps=10", "train.micro_batch_tokens=512",
    "model.lab.pretrain.optimization.cpu_threads=1", "train.cpu_threads=1", "engine.cpu_threads=1",
]  # fmt: skip


@pytest.mark.slow
def test_kill_9_at_three_random_moments_changes_nothing(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*COMMAND, f"output_root={whole}"], check=True, capture_output=True)
    rng = random.Random(11)
    kills = 0
    for stage in ("base_model", "candidates", "generations"):
        with subprocess.Popen([*COMMAND, f"output_root={killed}"], stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            for line in child.stderr:
                if line.split()[:2] in (["make", stage], ["resume", stage]):
                    break
            while stage == "base_model" and not list(killed.glob("base_model/*.partial/resume/step-*")):
                assert child.poll() is None, "it ended without a resume state"
                time.sleep(0.01)  # in the middle of pretraining, not while libraries are imported
            time.sleep(rng.uniform(0.0, 1.0))
            kills += child.poll() is None
            child.send_signal(signal.SIGKILL)
    subprocess.run([*COMMAND, f"output_root={killed}"], check=True, capture_output=True)
    assert kills == 3
    one, other = _fingerprint(whole), _fingerprint(killed)
    assert [name for name in one if one[name] != other.get(name)] == []
    assert one.keys() == other.keys()


def _fingerprint(root: Path) -> dict[str, object]:
    """Scores of the result and the bytes of every weight and grade in a store."""
    result = json.loads(next(root.glob("result/*/result.json")).read_text())
    files = [
        *root.glob("*/*/**/*.safetensors"),
        *root.glob("scores/*/grades.jsonl"),
        *root.glob("generations/*/generations.jsonl"),
    ]
    assert len(files) > 10
    return {"scores": result["scores"]} | {str(f.relative_to(root)): f.read_bytes() for f in files}


@pytest.mark.slow
def test_two_processes_with_the_same_cell_make_it_once(tmp_path: Path) -> None:
    command = [*COMMAND, "method=base", f"output_root={tmp_path}"]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    lines = "".join(err for _, err in said)
    assert lines.count("make base_model") == 1
    assert said[0][0].strip() == said[1][0].strip() != ""


@pytest.mark.slow
def test_ctrl_c_leaves_a_store_that_goes_on(tmp_path: Path) -> None:
    command = [*COMMAND, f"output_root={tmp_path}"]
    # whoever started the tests in the background had Ctrl-C ignored: the child must not inherit that
    as_typed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=as_typed) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if "candidates" in line:
                break
        time.sleep(1.0)
        os.kill(child.pid, signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "make base_model" not in again.stderr
    assert "lab-transfer" in again.stdout


def test_a_deleted_stage_folder_is_made_again(cell: ComposeCell, tmp_path: Path, shared_store: Path) -> None:
    root = tmp_path / "copy"
    run(cell("method=sft"))
    shutil.copytree(shared_store, root, symlinks=True)
    config = cell("method=sft", f"output_root={root}")
    before, _ = run(config)
    plan = pipeline.plan(config)
    for stage in plan.result.walk():
        if stage.name in ("result", "scores"):
            shutil.rmtree(root / stage.name / stage.key)
    after, lines = run(config)
    assert after == before
    assert set(made(lines)) == {"result", "scores"}


def test_a_record_says_nothing_of_the_cluster_and_old_ones_that_do_are_read(cell: ComposeCell) -> None:
    plain, on_cluster = cell(), cell("cluster=slurm", "cluster.setup=['export TOKEN=secret']", "+cluster.options.comment=secret")
    assert pipeline.describe(on_cluster) == pipeline.describe(plain)
    assert "secret" not in str(pipeline.describe(on_cluster))
    assert pipeline.describe(plain)["tracking.kind"] == "none"
    assert pipeline.plan(on_cluster).result.key == pipeline.plan(plain).result.key
    row = {"cell": {"seed": 0, "cluster.setup": ["module load cuda"]}, "keys": {}, "scores": []}
    row |= {"supervised_tokens": None, "examples": None}
    assert from_row(Result, row).cell["cluster.setup"] == ["module load cuda"]
