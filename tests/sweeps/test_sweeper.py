"""`python run.py -m`: the plugin as a person meets it, with tables of sweep files, bad input and Hydra's own sweeper."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import DEBUG

from cft_lab.config import PROJECT_ROOT


def run(*arguments: str, project: Path = PROJECT_ROOT, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, str(project / "run.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=env, check=False)


@pytest.fixture
def own_sweep() -> Iterator[str]:
    """The name of a sweep file that is there for one test."""
    name = f"test-{os.getpid()}"
    file = PROJECT_ROOT / "sweeps" / f"{name}.yaml"
    file.write_text("caption: c\ncells:\n  - {method: base}\n  - {method: sft, data.examples: 9000}\n  - {method: csft}\n")
    yield name
    file.unlink()


def test_two_tables_in_one_command_are_one_plan_and_two_printed_tables(debug_model: Path, shared_store: Path) -> None:
    small = (*DEBUG, "benchmarks.names=[lab-long]", "benchmarks.items=3", "progress=true")
    done = run("-m", "sweeps=lab/table6,lab/table7", *small, f"output_root={shared_store}")
    assert done.returncode == 0, done.stderr
    assert "sweep 6 cells, 5 of them distinct" in done.stderr
    first, second = done.stdout.split("lab/table7: Lab twin of table 7")
    assert "lab/table6: Lab twin of table 6" in first
    for label in ("Base", "Self-generated", "Reference"):
        assert any(line.startswith(f"│ {label} ") for line in first.splitlines())
    for label in ("SFT-verified", "CFT, weak oracle", "CFT, oracle"):
        assert any(line.startswith(f"│ {label} ") for line in second.splitlines())
    assert (
        done.stderr.count("make candidates") == len({line for line in done.stderr.splitlines() if "make candidates" in line}) <= 4
    )
    newest = max((shared_store / "sweeps").glob("*lab-table6+lab-table7"))
    plan = json.loads((newest / "plan.json").read_text())
    assert plan["command"][1:3] == ["-m", "sweeps=lab/table6,lab/table7"]
    assert len(plan["cells"]) == 6
    assert len(list((newest / "cells").iterdir())) == 5


def test_a_bad_cell_is_named_by_file_cell_and_field_and_nothing_is_started(own_sweep: str, tmp_path: Path) -> None:
    done = run("-m", f"sweeps={own_sweep}", "train.lr=7", f"output_root={tmp_path / 'store'}")
    assert done.returncode == 2
    for part in (
        f"sweeps/{own_sweep}.yaml, method=sft data.examples=9000: data.examples=9000 is more than data.pool=8000",
        f"sweeps/{own_sweep}.yaml, method=csft: In 'config': Could not find 'method/csft'",
        "train.lr=7.0 is out of range",
    ):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_cell_without_a_choice_is_named_by_file_cell_and_field(own_sweep: str, tmp_path: Path) -> None:
    (PROJECT_ROOT / "sweeps" / f"{own_sweep}.yaml").write_text("caption: c\ncells:\n  - {method: null, seed: 1}\n")
    done = run("-m", f"sweeps={own_sweep}", f"output_root={tmp_path / 'store'}")
    assert done.returncode == 2
    assert f"sweeps/{own_sweep}.yaml, method=null: method=null is no choice of the group method: choose from" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweeps=lab/table6"], ["sweeps=lab/table6 is a list of cells: add -m", "python run.py -m sweeps=lab/table6"]),
        (["-m", "sweeps=lab/table6", "hydra/sweeper=basic"], ["sweeps=lab/table6 is a list of cells", "no hydra/sweeper"]),
        (["-m", "sweeps=table66"], ["Could not find 'sweeps/table66'", "Available options in 'sweeps'", "table2"]),
        (["-m", "sweeps=lab/table6,lab/table66"], ["sweeps=lab/table66 is not a sweep file", "lab/table2"]),
        (["-m", "sweeps=lab/table2", "method=cft"], ["method is what the cells of sweeps/lab/table2.yaml differ in"]),
        (["-m", "method=sft", "train.lrr=1"], ["train.lrr is not a field", "did you mean train.lr?"]),
        (["-m", "method=foo,sft"], ["method/foo", "sft-verified"]),
        (["-m", "method=null"], ["Config group override must be a string", "name a choice of the group"]),
        (["-m", "method=sft", "cluster=slurm"], ["slurm"]),
    ],
)
def test_bad_input_is_one_clear_message(arguments: list[str], said: list[str], tmp_path: Path) -> None:
    done = run(*arguments, *DEBUG[1:], f"output_root={tmp_path / 'store'}")
    assert done.returncode == 2, done.stderr
    assert "Not started" in done.stderr
    for part in said:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store" / "sweeps").exists()


def test_hydras_own_sweeper_still_works(debug_model: Path, shared_store: Path) -> None:
    done = run("-m", "hydra/sweeper=basic", "method=base,sft", *DEBUG, f"output_root={shared_store}")
    assert done.returncode == 0, done.stderr
    assert "method=sft" in done.stdout.strip().splitlines()[-2]


def test_help_lists_the_sweep_files() -> None:
    done = run("--help")
    assert "sweeps: figure1, table2, table3, table4, table5, table6, table7, table8" in done.stdout
    assert "sweeps/lab: learning-rate, rehearsal, table2, table5, table6, table7, table8" in done.stdout


def test_the_plugin_is_found_where_the_package_is_installed(tmp_path: Path) -> None:
    """As setuptools packages it: a copy of the two packages in a folder of its own, and nothing of the project on the path."""
    import tomllib

    found = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert "hydra_plugins*" in found
    assert not (PROJECT_ROOT / "hydra_plugins" / "__init__.py").exists()
    site = tmp_path / "site"
    shutil.copytree(PROJECT_ROOT / "hydra_plugins", site / "hydra_plugins")
    script = (
        "from hydra.core.plugins import Plugins\nfrom hydra.plugins.sweeper import Sweeper\n"
        "print([c.__name__ for c in Plugins.instance().discover(Sweeper)])"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env, check=True)
    assert "CellSweeper" in done.stdout


def test_editing_the_configuration_after_the_start_changes_nothing(debug_model: Path, shared_store: Path, tmp_path: Path) -> None:
    """What is lost of a sweep is made again from its run folder, by a project whose conf/ was edited in between."""
    project = tmp_path / "project"
    for part in ("conf", "sweeps", "cft_lab", "hydra_plugins"):
        shutil.copytree(PROJECT_ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT_ROOT / "run.py", project)
    done = run("-m", "method=base", *DEBUG, "benchmarks.items=5", f"output_root={shared_store}", project=project, cwd=project)
    assert done.returncode == 0, done.stderr
    folder = max((shared_store / "sweeps").iterdir())
    plan = json.loads((folder / "plan.json").read_text())
    (result,) = [stage for stage in plan["stages"] if stage["name"] == "result"]
    before = (shared_store / "result" / result["key"] / "result.json").read_text()
    for stage in plan["stages"]:
        if stage["name"] in ("generations", "scores", "result"):
            shutil.rmtree(shared_store / stage["name"] / stage["key"])
    (project / "conf" / "inference" / "direct.yaml").write_text("name: two-stage\nmax_new_tokens: 3\n")
    (project / "conf" / "config.yaml").write_text("nonsense: [")
    line = [sys.executable, "-m", "cft_lab.sweeps.stage_job", str(folder), result["key"]]
    made = subprocess.run(line, capture_output=True, text=True, cwd=project, check=False)
    assert made.returncode == 0, made.stderr
    assert (shared_store / "result" / result["key"] / "result.json").read_text() == before
