"""W&B offline, for real: what is written is read back from the run files."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import DEBUG

from cft_lab import pipeline
from cft_lab.config import Config
from cft_lab.json_files import read_json
from cft_lab.tracking import MetricsFile, read_metrics

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


def offline_runs(root: Path) -> dict[str, list[object]]:
    files = sorted(root.glob("tracking/wandb/offline-run-*/run-*.wandb"))
    return {file.stem.removeprefix("run-"): records(file) for file in files}


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
