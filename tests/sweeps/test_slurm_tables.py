"""Lab table 8 on SLURM, as a person would type it: ten cells of one trained model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cells import DEBUG
from conftest import ON_SLURM
from slurm_cluster import SlurmCluster
from slurm_runs import check_granted, made_in

from cft_lab.config import PROJECT_ROOT
from cft_lab.sweeps import run_folder
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
