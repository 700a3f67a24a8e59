"""The commands that a report prints: run, they make what the report is about, in its store."""

import shlex
from pathlib import Path

import pytest
from made_results import METHODS, config_of, drawn, study_of, sweeps_folder, write_cell

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config
from cft_lab.hydra_config import Composer, initialized
from cft_lab.report.build import build, build_study
from cft_lab.report.claims import judge, read_claims
from cft_lab.report.commands import Commands
from cft_lab.report.render import claims_section, section
from cft_lab.report.study import Study
from cft_lab.results import open_store
from cft_lab.sweeps.expand import compose_all, expand


def configs(command: str) -> list[Config]:
    """The cells that a command line asks for."""
    python, file, *words = shlex.split(command)
    assert (python, file) == ("python", "run.py")
    many = words[:1] == ["-m"]
    with initialized():
        found = [config for _, config in compose_all(expand(words[many:]).cells, Composer())]
    assert many or len(found) == 1
    return found


def test_the_command_of_an_arm_makes_its_runs_and_no_others(tmp_path: Path) -> None:
    store = tmp_path / "a store"
    for method in METHODS:
        for seed in (0,) if method == "sft-verified" else (3,) if method == "sft" else (0, 2):
            write_cell(store, config_of(method, seed=seed), drawn(f"{method}{seed}", 0.5))
    report = build_study(study_of(store, sweeps_folder(tmp_path)), ["mine"])
    for trace in report.arms.values():
        made = configs(trace.command)
        assert {pipeline.plan(config).result.key for config in made} == {run.result for run in trace.runs}
        assert len(made) == len(trace.runs)
        assert {pipeline.output_root(config) for config in made} == {store}


def test_every_command_leads_to_the_store_and_keeps_the_overrides(tmp_path: Path) -> None:
    study = Study(open_store(tmp_path), overrides=("train.lr=0.001",))
    report = build_study(study, ["lab/table5", "table4"])
    claims = [claim for claim in read_claims() if claim.sweep in ("lab/table5", "table4")]
    shown = [section(table) for table in report.tables] + [claims_section(judge(study, claims))]
    commands = [command for one in shown for _, command in one.to_make]
    assert len(commands) == 4
    for command in commands:
        assert command.endswith(f"output_root={tmp_path}")
        assert " train.lr=0.001 " in command
        assert (" seed=0,1,2 " in command) == ("lab/" in command)
    (table, _) = report.tables
    assert {(config.train.lr, config.seed) for config in configs(table.command)} == {(0.001, seed) for seed in (0, 1, 2)}


def test_a_lab_cell_is_run_with_three_seeds_unless_they_do_not_matter(tmp_path: Path) -> None:
    report = build(open_store(tmp_path), ["lab/table2"])
    (table,) = report.tables
    commands = {row.label + row.column: row.entries["AVG"].command or "" for row in table.rows}  # type: ignore[union-attr]
    assert {config.seed for config in configs(commands["lab-qwen2CFT"])} == {0, 1, 2}
    assert [config.seed for config in configs(commands["lab-qwen2Base"])] == [0]


@pytest.mark.parametrize(
    ("store", "told"),
    [
        (PROJECT_ROOT / "outputs", "python run.py"),
        (PROJECT_ROOT / "stores" / "b", "python run.py output_root=stores/b"),
        (Path("/a/b"), "python run.py output_root=/a/b"),
    ],
)
def test_the_usual_store_needs_no_name(store: Path, told: str) -> None:
    assert Commands(store).default() == told
    (config,) = configs(Commands(store).default())
    assert pipeline.output_root(config) == store


STRANGE_NAMES = ["it's, a (b)=c", "a\\b [1]", "größe", "ends in \\", "ends in \\\\", "${seed}", "a\\${seed}", "a\\'b", "a$", "{b}"]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_any_name_of_a_store_survives_the_shell_and_hydra(tmp_path: Path, name: str) -> None:
    (config,) = configs(Commands(tmp_path / name).default())
    assert pipeline.output_root(config) == tmp_path / name
