"""W&B offline, for real: what is written is read back from the run files."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cells import DEBUG

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config, TrackingConfig
from cft_lab.hydra_config import Composer, initialized
from cft_lab.json_files import read_json
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.expand import compose_all, expand
from cft_lab.sweeps.plan import Plan, make_plan
from cft_lab.tracking import MetricsFile, Placement, Tracker, placement, read_metrics

ComposeCell = Callable[..., Config]


def records(run_file: Path) -> list[object]:
    """Every record of an offline run, by W&B's own reader of its own file format."""
    from wandb.proto import wandb_internal_pb2 as pb

    found = []
    data = run_file.read_bytes()
    place = 7  # file header
    payload = b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]
        payload += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(payload)
            found.append(record)
            payload = b""
    return found


def steps_of(run: Sequence[Any]) -> list[int]:
    """The steps of a run's history."""
    return [r.history.step.num for r in run if r.WhichOneof("record_type") == "history"]


def logged(run: Sequence[Any], name: str) -> list[float]:
    """The values of one name in a run's history."""
    histories = [r.history for r in run if r.WhichOneof("record_type") == "history"]
    items = [item for history in histories for item in history.item]
    return [json.loads(item.value_json) for item in items if (item.key or "/".join(item.nested_key)) == name]


def about(run: Sequence[Any]) -> Any:
    """The record of the run itself."""
    return next(r.run for r in run if r.WhichOneof("record_type") == "run")


def freeze(root: Path, *arguments: str) -> Plan:
    """A sweep of debug cells, frozen in a store as it is when it is submitted."""
    with initialized():
        asked = expand([*DEBUG, *arguments, f"output_root={root}"])
        plan, problems = make_plan(compose_all(asked.cells, Composer()))
    problems.refuse(len(asked.cells))
    run_folder.freeze(plan, asked.name, [])
    return plan


def offline_runs(root: Path) -> dict[str, list[object]]:
    """Records of each run. wandb's own process writes for a moment after a run has ended, an `exit` last unless it was killed."""
    files = sorted(root.glob("tracking/wandb/offline-run-*/run-*.wandb"))
    while not all(ended(records(file)) or time.time() - file.stat().st_mtime > 5 for file in files):
        time.sleep(0.1)
    return {file.stem.removeprefix("run-"): records(file) for file in files}


def ended(run: Sequence[Any]) -> bool:
    return any(record.WhichOneof("record_type") == "exit" for record in run)


@pytest.mark.slow
def test_train_and_cell_runs_are_written_once_with_stage_keys_as_ids(cell: ComposeCell, tmp_path: Path) -> None:
    config = cell("method=sft", "tracking=wandb", f"output_root={tmp_path}")
    result = pipeline.run(config, lambda line: None)
    runs = offline_runs(tmp_path)
    train, finished = result.keys["candidates"], pipeline.plan(config).result.key
    assert set(runs) == {train, finished}
    steps = [r.history for r in runs[train] if r.WhichOneof("record_type") == "history"]  # type: ignore[attr-defined]
    names = {item.key or "/".join(item.nested_key) for history in steps for item in history.item}
    assert {"train/loss", "train/lr", "train/tokens_per_s", "train/candidate"} <= names
    assert len(steps) == len({row["step"] for row in read_metrics(tmp_path / "candidates" / train)})
    config_items = {
        item.key or "/".join(item.nested_key): item.value_json
        for r in runs[finished]
        if r.WhichOneof("record_type") == "run"  # type: ignore[attr-defined]
        for item in r.run.config.update  # type: ignore[attr-defined]
    }
    assert config_items["train_run"] == f'"{train}"'
    assert config_items["method.name"] == '"sft"'
    scored = {
        item.key or "/".join(item.nested_key)
        for r in runs[finished]
        if r.WhichOneof("record_type") == "history"  # type: ignore[attr-defined]
        for item in r.history.item  # type: ignore[attr-defined]
    }
    assert {f"{name}/accuracy" for name in config.benchmarks.names} | {"selection/accuracy"} <= scored
    assert any(name.startswith("samples/") for name in scored)
    pipeline.run(config, lambda line: None)
    assert len(list(tmp_path.glob("tracking/wandb/offline-run-*"))) == 2, "a reused cell is not logged again"
    assert read_json(tmp_path / "tracking" / f"{train}-offline-cft-lab.json")["run_id"] == train


@pytest.mark.slow
def test_a_training_made_without_tracking_is_sent_later(cell: ComposeCell, tmp_path: Path) -> None:
    pipeline.run(cell("method=sft", f"output_root={tmp_path}"), lambda line: None)
    assert not (tmp_path / "tracking").exists()
    result = pipeline.run(cell("method=sft", "tracking=wandb", f"output_root={tmp_path}"), lambda line: None)
    assert result.keys["candidates"] in offline_runs(tmp_path)


_TRACKED = """  # CODESECRET
import sys
from pathlib import Path
from cft_lab.config import TrackingConfig
from cft_lab.tracking import Tracker
tracker = Tracker(TrackingConfig(kind="wandb"), Path(sys.argv[1]))
with tracker.train_run("0" * 16, {"seed": 0}) as log:
    log({"step": 1, "loss": 1.0})
tracker.cell_run("1" * 16, {"seed": 0}, {"AVG": 1.0}, {}, [], "0" * 16, created="2026-01-02")
"""


def test_what_wandb_could_collect_by_itself_stays_out(tmp_path: Path) -> None:
    repository, root = tmp_path / "repository", tmp_path / "store"
    repository.mkdir()
    (repository / "run.py").write_text(_TRACKED)
    (repository / "slurm.yaml").write_text("setup: []")
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=me", "-c", "user.email=me@host", "commit", "--quiet", "--message", "all"],
        ["remote", "add", "origin", "https://GITSECRET:x-oauth-basic@host/me/repository"],
    ):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    (repository / "slurm.yaml").write_text("setup: [export KEY=DIFFSECRET]")
    command = [sys.executable, "run.py", str(root), "cluster.setup=[export KEY=ARGSECRET]"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "WANDB_SAVE_CODE": "true"}
    subprocess.run(command, cwd=repository, env=environment, check=True)
    assert set(offline_runs(root)) == {"0" * 16, "1" * 16}
    written = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    for secret in (b"ARGSECRET", b"GITSECRET", b"DIFFSECRET", b"CODESECRET"):
        assert [file for file, content in written.items() if secret in content] == [], secret


@pytest.mark.slow
def test_what_was_made_again_replaces_what_was_sent(cell: ComposeCell, tmp_path: Path) -> None:
    config = cell("method=sft", "tracking=wandb", f"output_root={tmp_path}")
    trained, finished = pipeline.run(config, lambda line: None).keys["candidates"], pipeline.plan(config).result.key

    def segments(key: str) -> list[list[Any]]:
        offline_runs(tmp_path)  # waits for the last record
        return [records(file) for file in sorted(tmp_path.glob(f"tracking/wandb/offline-run-*-{key}/*.wandb"))]

    for name in ("candidates", "selected", "generations", "scores", "result"):
        shutil.rmtree(tmp_path / name)
    pipeline.run(config, lambda line: None)
    assert (len(segments(trained)), len(segments(finished))) == (2, 2)
    rows = read_metrics(tmp_path / "candidates" / trained)
    assert logged(segments(trained)[1], "train/tokens_per_s") == [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    pipeline.run(config, lambda line: None)
    assert (len(segments(trained)), len(segments(finished))) == (2, 2), "and once"

    for marker in (tmp_path / "tracking").glob("*.json"):  # as older versions wrote them
        marker.write_text(json.dumps({name: value for name, value in read_json(marker).items() if name != "made"}))
    pipeline.run(config, lambda line: None)
    assert (len(segments(trained)), len(segments(finished))) == (2, 2)


def test_tracking_none_needs_no_wandb(shared_store: Path, debug_model: Path) -> None:
    script = (
        "import sys; sys.modules['wandb'] = None\n"
        "from cft_lab import pipeline\nfrom cft_lab.hydra_config import compose\n"
        f"overrides = {[*DEBUG, f'output_root={shared_store}', 'method=base']!r}\n"
        "print(len(pipeline.run(compose(*overrides), lambda line: None).scores))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"


def test_metrics_past_the_resume_step_are_dropped(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.append({"step": step, "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with MetricsFile(tmp_path, resume_step=2) as metrics:
        metrics.append({"step": 3, "loss": 0.5})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_the_place_of_a_stage_is_that_of_all_cells_that_stand_on_it(tmp_path: Path) -> None:
    plan = freeze(tmp_path, "sweeps=lab/table5,lab/table7")
    tables: dict[str, set[str]] = {}
    for cell in plan.cells:
        tables.setdefault(cell.result, set()).add(cell.sweep)
    shared = [key for key, names in tables.items() if len(names) == 2]
    assert shared, "a cell that belongs to both"
    for cell in plan.cells:
        found = placement(tmp_path, cell.result)
        assert found.group == "lab/table5+lab/table7"
        assert {f"table:{cell.sweep}", f"row:{cell.row}"} <= set(found.tags)
    assert {"table:lab/table5", "table:lab/table7"} <= set(placement(tmp_path, shared[0]).tags)
    base = next(stage.key for stage in plan.stages if stage.name == "base_model")
    assert {tag for tag in placement(tmp_path, base).tags if tag.startswith("row:")} == {
        f"row:{cell.row}" for cell in plan.cells if cell.row
    }
    assert placement(tmp_path, "0" * 16) == Placement(None, ())


def test_a_later_sweep_names_the_group_and_adds_its_tags(tmp_path: Path) -> None:
    first = freeze(tmp_path, "sweeps=lab/table8")
    trained = next(stage.key for stage in first.stages if stage.name == "candidates")
    time.sleep(1.1)  # run folders are named by their second
    freeze(tmp_path, "seed=0", "method=cft")
    found = placement(tmp_path, trained)
    assert found.group == "grid"
    assert "table:lab/table8" in found.tags
    assert {"column:T=0.0", "column:T=0.1", "column:T=0.3", "column:T=0.6"} <= set(found.tags)
    plan = tmp_path / "sweeps" / "20990101-000000-broken" / "plan.json"
    plan.parent.mkdir()
    plan.write_text("{")
    assert placement(tmp_path, trained) == found, "a run folder that cannot be read stops no training"
    name = "n" * 300
    plan.write_text(
        json.dumps(
            {
                "name": name,
                "stages": [],
                "cells": [{"result": trained, "sweep": name, "row": "", "column": ""}],
            }
        )
    )
    found = placement(tmp_path, trained)
    assert (len(found.group or ""), max(map(len, found.tags))) == (128, 64), "what W&B takes"


@pytest.mark.slow
def test_a_requeued_run_of_a_sweep_is_one_run_of_two_segments(shared_store: Path, debug_model: Path, tmp_path: Path) -> None:
    with Tracker(TrackingConfig(kind="wandb"), tmp_path).train_run("0" * 16, {}) as log:
        log({"step": 1, "loss": 1.0})  # this process has a wandb helper now, which what it starts must not share
    assert "WANDB_SERVICE" in os.environ
    root = tmp_path / "store"
    base = debug_model.parent
    shutil.copytree(base, root / "base_model" / base.name)
    long = ["method=sft", "tracking=wandb", "train.epochs=40", "train.save_every_steps=1000", "train.resume_every_steps=4"]
    long.append("train.selection.mode=last")
    plan = freeze(root, *long)
    (trained,) = [stage.key for stage in plan.stages if stage.name == "candidates"]
    command = [sys.executable, str(PROJECT_ROOT / "run.py"), *DEBUG, *long, f"output_root={root}"]
    metrics = root / "candidates" / f"{trained}.partial" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as killed:
        while killed.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 10):
            time.sleep(0.02)
        killed.kill()
    assert not (root / "candidates" / trained).exists()
    assert list(metrics.parent.glob("resume*")), "it goes on from a state, and not from the beginning"
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    segments = sorted(root.glob(f"tracking/wandb/offline-run-*-{trained}/run-*.wandb"))
    assert len(segments) == 2
    second = records(segments[1])
    rows = read_metrics(root / "candidates" / trained)
    assert sorted(set(steps_of(second))) == sorted({row["step"] for row in rows}), "it holds the run from its first step on"
    assert (about(second).run_id, about(second).run_group) == (trained, "grid")
    for run_id, run in offline_runs(root).items():
        assert about(run).run_group == "grid", run_id
