"""`train.preflight=true`: one plan, without a GPU, weights, a network or torch; measured where the store has what it takes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import small_disk

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config, DataError
from cft_lab.stages.training_plan import TrainingPlan, plan_training, print_plan
from cft_lab.store import Store
from cft_lab.training.fitting import gib

ComposeCell = Callable[..., Config]
SEVEN = ("model=qwen2.5-math-7b", "method=cft", "train.preflight=true")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """run.py in a process that cannot import torch, has no cache and sees no GPU."""
    script = (
        "import runpy, sys\n"
        "for name in ('torch', 'transformers', 'accelerate', 'datasets'):\n    sys.modules[name] = None\n"
        f"sys.argv = {['run.py', *arguments]!r}\n"
        "runpy.run_path('run.py', run_name='__main__')"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HOME": "/nowhere", "HF_HUB_CACHE": "/nowhere/hub"}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("overrides", "device"),
    [
        (("train.device_memory_gb=141", "train.device_tflops=989"), "1 GPU of 139.6 GiB"),
        (("train.device_memory_gb=80", "train.processes=8", "train.device_tflops=989"), "8 GPUs of 79.2 GiB"),
    ],
)
def test_a_plan_is_printed_for_the_machines_of_the_paper(tmp_path: Path, overrides: tuple[str, ...], device: str) -> None:
    done = run(*SEVEN, *overrides, f"output_root={tmp_path}")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for part in (device, "7.62 G parameters", "optimizer steps", "fits, peak", "gradients", "GPU-hours", "GB free", "[assumed: "):
        assert part in text, part
    assert "not checked: the tokenizer of Qwen/Qwen2.5-Math-7B is not here" in text
    assert len(done.stdout.splitlines()) < 45, "one screen"
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_what_cannot_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    done = run(*SEVEN, "train.device_memory_gb=24", "train.processes=1", f"output_root={tmp_path}")
    assert done.returncode == 2
    assert "DOES NOT FIT" in done.stdout
    for part in ("no setting makes it fit on 1 GPU", "what would fit: train.processes=8"):
        assert part in done.stderr


def test_without_a_gpu_the_need_is_printed_and_compared_with_nothing(tmp_path: Path) -> None:
    done = run(*SEVEN, f"output_root={tmp_path}")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "nothing to compare with: no GPU is here" in text
    assert "hours not estimated" in text
    assert "fits" not in text.lower()


def test_a_method_that_trains_nothing_has_no_plan() -> None:
    done = run("method=base", "train.preflight=true")
    assert done.returncode == 2
    assert "method=base trains nothing" in done.stderr


def planned(config: Config) -> TrainingPlan:
    return plan_training(config, pipeline.plan(config).trained, Store(pipeline.output_root(config)))


def test_before_anything_is_made_the_lab_cell_is_planned_from_assumptions(cell: ComposeCell, tmp_path: Path) -> None:
    plan = planned(cell(f"output_root={tmp_path}"))
    told = " ".join(" ".join(row) for row in plan.rows)
    assert "assumed: counted on" in told
    assert plan.problems == ()
    assert any(note.startswith("not checked: the tokenizer of lab-debug") for note in plan.notes)


def test_what_is_in_the_store_is_measured(cell: ComposeCell, capsys: pytest.CaptureFixture[str]) -> None:
    config = cell("method=cft", "seed=91")
    trained = pipeline.plan(config).trained
    assert trained is not None
    store = Store(pipeline.output_root(config), lambda line: None)
    for role in ("examples", "base"):
        store.ensure(trained.upstream[role])
    before = planned(config)
    told = " ".join(" ".join(row) for row in before.rows)
    assert "24 examples" in told
    assert "measured on the examples in the store" in told
    assert "prompt ids begin the ids of prompt and target together in 24 of 24 rows" in " ".join(before.notes)
    assert "the EOS is another token (<|endoftext|>)" in " ".join(before.notes)
    row = before.notes[-1]
    assert "⟦" in row
    assert row.endswith("<|im_end|>⟧")
    assert "Is this solution right?" in row
    print_plan(before)
    assert "a row of " in capsys.readouterr().out
    folder = store.ensure(trained)
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    steps = next(figure for what, figure, _ in before.rows if what == "steps")
    assert steps.startswith(f"{counts['steps']} optimizer steps")
    assert len(list(folder.glob("step-*"))) == int(steps.split("; ")[1].split(" ")[0])
    speed = next(row for row in planned(config).rows if row[0] == "time")
    assert "measured: " in speed[2]
    assert trained.key in speed[2]


def test_an_ordinary_training_says_its_plan_and_a_decoded_micro_batch_first(cell: ComposeCell) -> None:
    config = cell("method=cft", "seed=92")
    trained = pipeline.plan(config).trained
    assert trained is not None
    said: list[str] = []
    Store(pipeline.output_root(config), said.append).ensure(trained)
    told = said[next(i for i, line in enumerate(said) if "candidates" in line) :]
    for what, part in (("tokens", "24 examples, 24 sequences (0 too long"), ("steps", "2 optimizer steps"), ("memory", ": fits")):
        assert any(line.split()[0] == what and part in line for line in told), told
    (disk,) = (line for line in told if line.split()[0] == "disk")
    assert "GB free" in disk
    (batch,) = (line for line in told if "a micro-batch of " in line)
    assert "supervised and in ⟦⟧" in batch
    row = told[told.index(batch) + 1]
    assert "Is this solution right?" in row
    assert "<|im_end|>⟧<|im_start|>" in row, "sequences lie end to end"
    assert len("\n".join(told).splitlines()) < 40


def test_a_training_whose_disk_is_too_small_is_refused_before_it_starts(cell: ComposeCell, tmp_path: Path) -> None:
    """Before anything is made, by assumed lengths; and with its inputs made, by what they are."""
    with small_disk(tmp_path / "disk", "16m") as disk:
        config = cell("method=cft", f"output_root={disk}")
        trained = pipeline.plan(config).trained
        assert trained is not None
        store = Store(disk, lambda line: None)
        for above in trained.upstream.values():
            store.ensure(above)
        assert list(trained.lacks()) == []
        (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 500_000))
        (lacking,) = trained.lacks()
        assert f"GB of disk and 0.0005 GB are free at {disk}: set train.keep_candidates=2" in lacking
        with pytest.raises(DataError, match=r"GB of disk and 0\.000\d+ GB are free"):
            store.ensure(trained)
        assert not list(disk.glob("candidates/*/step-*"))
        (disk / "filler").unlink()
        store.ensure(trained)


def test_an_end_of_turn_that_is_no_token_is_refused(cell: ComposeCell) -> None:
    config = cell("method=cft", "seed=91")
    trained = pipeline.plan(config).trained
    store = Store(pipeline.output_root(config), lambda line: None)
    assert trained is not None
    store.ensure(trained.upstream["base"])
    config.model.end_of_turn = "<|eot_id|>"
    plan = plan_training(config, trained, store)
    assert plan.problems == ("model.end_of_turn='<|eot_id|>' is not a token of this tokenizer",)


def test_bytes_are_told_in_units_that_can_be_read() -> None:
    assert gib(3 * 2**30) == "3.0 GiB"
    assert gib(3 * 2**20) == "3.0 MiB"
