"""Lab tables on SLURM, as a person would type them: table 8, ten cells of one trained model, and table 2, reduced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from cells import DEBUG
from conftest import ON_SLURM
from slurm_cluster import SlurmCluster
from slurm_runs import check_granted, made_in

from cft_lab.config import PROJECT_ROOT
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.snapshot import freeze_code
from cft_lab.sweeps.submitted import submitted_jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_lab_table_8_is_one_training_and_an_array(cluster: SlurmCluster, tmp_path: Path, prepared: None) -> None:
    sizes = "benchmarks.items=2", "benchmarks.names=[lab-basic]", "inference.max_rounds=2", "train.selection.mode=last"
    command = [sys.executable, "run.py", "-m", "sweeps=lab/table8", *DEBUG, *ON_SLURM, *sizes, f"output_root={tmp_path / 'store'}"]
    done = subprocess.run(
        [*command, "progress=true"], cwd=PROJECT_ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = run_folder.find(tmp_path / "store")
    names = {stage.key: stage.name for stage in folder.plan.stages}
    assert Counter(names[key] for key in made_in(folder)) == {
        "candidates": 1,
        "selected": 1,
        "generations": 10,
        "scores": 10,
        "result": 10,
    }
    jobs = submitted_jobs(folder)
    arrays = Counter(one.job.partition("_")[0] for key, one in jobs.items() if names[key] == "generations")
    assert list(arrays.values()) == [10]
    training = next(one.job for key, one in jobs.items() if names[key] == "candidates")
    script = (folder.path / "slurm" / f"{next(iter(arrays))}_submission.sh").read_text()
    assert f"#SBATCH --dependency=afterok:{training}\n" in script
    assert "#SBATCH --array=0-9%10\n" in script
    check_granted(folder, {"candidates": 2, "generations": 1})
    for row in ("Direct inference", "Single-pass self-critique", "Two-stage self-critique"):
        assert row in done.stdout
    assert "lab/table8: Lab twin of table 8" in done.stdout
    again = subprocess.run(
        [*command, "progress=true"], cwd=PROJECT_ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "submitted" not in again.stderr


@pytest.fixture
def with_reduced_table_2(tmp_path: Path) -> Path:
    """A copy of the code with a sweep file `reduced`: six cells of lab table 2, of two base models and three methods."""
    code = freeze_code(tmp_path)
    table = yaml.safe_load((code / "sweeps" / "lab" / "table2.yaml").read_text())
    kept = {"model": ["lab-llama", "lab-qwen2"], "method": ["base", "sft", "cft"]}
    labels = [line for line in table["labels"] if all(value in kept[name] for name, value in line["where"].items())]
    (code / "sweeps" / "reduced.yaml").write_text(yaml.safe_dump(table | {"grids": [kept], "labels": labels}))
    return code


def test_lab_table_2_reduced_shares_what_its_cells_have_in_common(
    cluster: SlurmCluster, tmp_path: Path, with_reduced_table_2: Path
) -> None:
    sizes = "benchmarks.items=2", "benchmarks.names=[lab-basic]", "train.selection.mode=last", "train.epochs=1"
    own = [override for override in DEBUG if not override.startswith("model=")]  # the table's models, hardly pretrained
    command = [sys.executable, "run.py", "-m", "sweeps=reduced", *own, *ON_SLURM, *sizes]
    done = subprocess.run(
        [*command, f"output_root={tmp_path / 'store'}", "progress=true"],
        cwd=with_reduced_table_2,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = run_folder.find(tmp_path / "store")
    names = {stage.key: stage.name for stage in folder.plan.stages}
    made = made_in(folder)
    assert set(made.values()) == {1}
    counts = Counter(names[key] for key in made)
    assert {name: counts[name] for name in ("base_model", "problems", "responses", "critiques", "candidates", "result")} == {
        "base_model": 2,
        "problems": 1,
        "responses": 1,
        "critiques": 1,
        "candidates": 4,
        "result": 6,
    }
    check_granted(folder, {"base_model": 2, "candidates": 2, "generations": 1})
    assert "Lab twin of table 2" in done.stdout
    for row in ("lab-llama, CFT", "lab-qwen2, SFT", "lab-qwen2, Base"):
        assert row in done.stdout
