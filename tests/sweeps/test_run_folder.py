"""Run folders: what is frozen reads back to the very same, and later edits change nothing."""

import dataclasses
import json
from pathlib import Path

import pytest
from cells import DEBUG
from sweep_tools import planned

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.hydra_config import sweep_names
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.plan import Plan
from cft_lab.sweeps.run_folder import freeze, load, settled


@pytest.mark.parametrize("sweep", sweep_names())
def test_every_cell_of_every_table_reads_back_to_the_same_config_and_keys(sweep: str, tmp_path: Path) -> None:
    plan = planned(f"sweeps={sweep}", f"output_root={tmp_path}")
    folder = load(freeze(plan, sweep, ["run.py"]).path)
    assert folder.plan == plan
    for cell, config in zip(plan.cells, (folder.plan.configs[cell.config] for cell in plan.cells), strict=True):
        assert pipeline.plan(config).result.key == cell.result


def test_odd_values_come_back_with_their_types(tmp_path: Path) -> None:
    odd = ("data.lab.steps={1: 0.1, 3: 2}", "train.lr=3e-7", "inference.stop=['é','\\[END\\]']", "+cluster.options.exclude=n7")
    plan = planned(*DEBUG, *odd, f"output_root={tmp_path}")
    back = load(freeze(plan, "odd", []).path).plan.configs[0]
    assert back == plan.configs[0]
    assert back.data.lab is not None
    assert {type(step) for step in back.data.lab.steps} == {int}
    assert {type(weight) for weight in back.data.lab.steps.values()} == {float}


def test_paths_no_longer_depend_on_where_the_code_or_the_shell_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": "q", "solution": "s"}) + "\n")
    own = ("data=local", "data.path=mine.jsonl", "method=sft", "+benchmarks.paths.gsm8k=rows.jsonl")
    (config,) = planned(*DEBUG, *own).configs
    frozen = settled(config)
    assert frozen.data.path == str(tmp_path / "mine.jsonl")
    assert frozen.benchmarks.paths == {"gsm8k": str(PROJECT_ROOT / "rows.jsonl")}
    assert frozen.output_root == str(PROJECT_ROOT / "outputs")
    key = pipeline.plan(config).result.key
    monkeypatch.chdir("/")
    assert pipeline.plan(frozen).result.key == key
    assert pipeline.plan(config).result.key != key, "the relative path is another file here"


def test_a_run_folder_tells_what_was_asked_for(tmp_path: Path) -> None:
    plan = planned(*DEBUG, "sweeps=lab/table5,lab/table7", f"output_root={tmp_path}")
    folder = freeze(plan, "lab/table5+lab/table7", ["run.py", "-m"])
    assert folder.path.parent == tmp_path / "sweeps"
    assert folder.path.name.endswith("-lab-table5+lab-table7")
    assert folder.about["command"] == ["run.py", "-m"]
    assert folder.store_root == tmp_path
    (shared,) = {cell.config for cell in plan.cells if cell.row == "CFT, oracle"}
    written = json.loads((folder.path / "cells" / f"{shared:03d}.json").read_text())
    assert written["run"] == folder.path.name
    assert written["places"] == [
        {"sweep": "lab/table5", "row": "lab-web", "column": "CFT"},
        {"sweep": "lab/table7", "row": "CFT, oracle", "column": ""},
    ]


def test_two_sweeps_of_one_second_have_folders_of_their_own_and_the_newest_is_found(tmp_path: Path) -> None:
    plan = planned(*DEBUG, f"output_root={tmp_path}")
    folders = [freeze(plan, "grid", []).path for _ in range(3)]
    assert len(set(folders)) == 3
    assert run_folder.find(tmp_path).path == max(folders)
    assert [run_folder.find(tmp_path, path.name).path for path in folders] == folders
    assert run_folder.find(tmp_path, str(folders[0])).path == folders[0]
    with pytest.raises(ConfigError, match="no sweep whose name holds 'table9'"):
        run_folder.find(tmp_path, "table9")
    with pytest.raises(ConfigError, match="no sweep in .*start one with"):
        run_folder.find(tmp_path / "empty")


def test_a_sweep_is_found_by_its_name_before_those_that_hold_it(tmp_path: Path) -> None:
    plan = planned(*DEBUG, f"output_root={tmp_path}")
    paper, lab, both = (freeze(plan, name, []).path for name in ("table6", "lab/table6", "lab/table6+lab/table7"))
    for path in (paper, lab, both):  # started on different days
        path.rename(path.with_name(f"2026010{[paper, lab, both].index(path)}{path.name[8:]}"))
    name_of = {
        name: run_folder.find(tmp_path, name).path.name.split("-", 2)[2]
        for name in ("table6", "lab/table6", "lab-table6", "table7")
    }
    assert name_of == {"table6": "table6", "lab/table6": "lab-table6", "lab-table6": "lab-table6", "table7": both.name[16:]}
    assert run_folder.find(tmp_path, "lab/table6+lab/table7").path.name[16:] == both.name[16:]
    assert run_folder.find(tmp_path).path.name[16:] == both.name[16:]


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the run folder of a sweep"):
        load(tmp_path)
    path = freeze(planned(*DEBUG, f"output_root={tmp_path}"), "grid", []).path
    written = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(json.dumps(written | {"format": 0}))
    with pytest.raises(ConfigError, match=r"another version of cft_lab \(format 0"):
        load(path)
    (path / "plan.json").write_text(json.dumps(written)[:100])
    with pytest.raises(ConfigError, match="is not the run folder of a sweep"):
        load(path)


def test_a_config_of_another_version_is_refused_by_field(tmp_path: Path) -> None:
    path = freeze(planned(*DEBUG, f"output_root={tmp_path}"), "grid", []).path
    file = path / "cells" / "000.json"
    cell = json.loads(file.read_text())
    cell["config"]["train"]["momentum"] = 0.9
    file.write_text(json.dumps(cell))
    with pytest.raises(ConfigError, match="momentum"):
        load(path)


def test_settling_changes_no_other_field() -> None:
    plan: Plan = planned(*DEBUG, "sweeps=lab/table8")
    for config in plan.configs:
        frozen = settled(config)
        assert dataclasses.replace(frozen, output_root=config.output_root) == config
