"""Scores and grades that are not what they say, one record at a time: it is named with its remedy, and the rest is reported."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_results import FAMILY_OF_ONE, config_of, drawn, drawn_for, edit, study_of, sweeps_folder, write_cell

from cft_lab import pipeline
from cft_lab.__main__ import main
from cft_lab.hydra_config import compose
from cft_lab.json_files import read_json, write_json
from cft_lab.report.build import build_study
from cft_lab.report.claims import Verdict, judge
from cft_lab.report.study import Study
from cft_lab.report.tables import Entry, Report, ReportTable
from cft_lab.results import open_store

SEEDS = (0, 1, 2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Base, SFT and CFT with three seeds."""
    for method in ("base", "sft", "cft"):
        for seed in SEEDS:
            write_cell(tmp_path / "store", config_of(method, seed=seed), drawn(f"{method}{seed}", 0.5))
    return tmp_path / "store"


@pytest.fixture
def study(store: Path, tmp_path: Path) -> Callable[[], Study]:
    return lambda: study_of(store, sweeps_folder(tmp_path))


def keys(method: str, seed: int) -> tuple[str, str, str]:
    """The keys of a cell's result, and of its scores and generations on lab-basic."""
    result = pipeline.plan(config_of(method, seed=seed)).result
    scores = result.upstream["lab-basic"]
    return result.key, scores.key, scores.upstream["generations"].key


def entry(report: Report, label: str, benchmark: str = "lab-basic") -> Entry:
    (table,) = report.tables
    assert isinstance(table, ReportTable)
    return next(row for row in table.rows if row.label == label).entries[benchmark]


def notes(report: Report) -> str:
    return "\n".join(report.tables[0].notes)


def verdict(study: Study) -> Verdict:
    (found,) = judge(study, FAMILY_OF_ONE)
    return found


def test_grades_of_other_items_than_its_other_seeds_leave_an_arm_without_a_value(store: Path, study: Callable[[], Study]) -> None:
    folder = store / "scores" / keys("sft", 1)[1]
    (folder / "grades.parquet").unlink()
    (folder / "grades.jsonl").write_text((folder / "grades.jsonl").read_text().replace('"lab-', '"x-'))
    report = build_study(study(), ["mine"])
    assert entry(report, "SFT").value is None
    assert "its 3 runs share 0 items of lab-basic" in str(entry(report, "SFT").reason)
    assert entry(report, "CFT").value is not None
    assert "SFT: its 3 runs share 0 items of lab-basic" in verdict(study()).reason


def test_a_verdict_over_fewer_seeds_says_which_are_lost(store: Path, study: Callable[[], Study]) -> None:
    whole = verdict(study())
    assert (whole.seeds, "lacks" in whole.reason) == (3, False)
    folder = store / "scores" / keys("sft", 1)[1]
    for name in ("grades.jsonl", "grades.parquet"):
        (folder / name).write_text("garbage")
    asked = study()
    found = verdict(asked)
    assert found.seeds == 2
    assert "SFT lacks lab-basic under seed 1, so that it and AVG are over fewer seeds: mine says what makes it." in found.reason
    assert [problem.path for problem in asked.results.problems] == [f"scores/{folder.name}"]


def test_a_verdict_on_grades_that_are_all_lost_says_what_to_delete(store: Path, study: Callable[[], Study]) -> None:
    for seed in SEEDS:
        shutil.rmtree(store / "scores" / keys("sft", seed)[1])
    found = verdict(study())
    assert found.word == "not run"
    assert re.search(r"SFT: the grades of lab-basic, lab-applied cannot be read: first delete result/\w+ and", found.reason)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("unparsed", 1, "unparsed 0 (not 1)"),
        ("truncated", 2, "truncated 0 (not 2)"),
        ("paper_accuracy", 1.0, "(not 1.0)"),
        ("paper_accuracy", None, "(not None)"),
    ],
)
def test_a_score_that_its_grades_do_not_bear_out_is_no_number_and_both_are_to_be_deleted(
    store: Path, study: Callable[[], Study], field: str, value: float | None, told: str
) -> None:
    result, scores, _ = keys("sft", 1)

    def damage(row: dict[str, Any]) -> dict[str, Any]:
        (score,) = (one for one in row["scores"] if one["benchmark"] == "lab-basic")
        score[field] = value
        return row

    edit(store / "result" / result / "result.json", damage)
    asked = study()
    found = entry(build_study(asked, ["mine"]), "SFT").value
    assert found is not None
    assert found.seeds == 2
    (problem,) = asked.results.problems
    assert told in problem.what
    assert problem.remedy == f"delete scores/{scores} and result/{result}, and run the cell again, or import it again"


@pytest.mark.parametrize(("accuracy", "interval"), [(0.99, [0.98, 1.0]), (0.3, [0.4, 0.5])])
def test_an_accuracy_that_its_own_counts_do_not_bear_out_is_refused_with_its_record(
    store: Path, accuracy: float, interval: list[float]
) -> None:
    result = keys("sft", 1)[0]

    def damage(row: dict[str, Any]) -> dict[str, Any]:
        row["scores"][0] |= {"accuracy": accuracy, "interval": interval}
        return row

    edit(store / "result" / result / "result.json", damage)
    found = open_store(store)
    assert result not in found.cells().index
    (problem,) = found.problems
    assert f"accuracy is {accuracy}" in problem.what


def test_graders_are_compared_also_where_nothing_says_which_items_there_were(store: Path, study: Callable[[], Study]) -> None:
    shutil.rmtree(store)
    for seed in SEEDS:
        write_cell(store, config_of("cft", seed=seed), drawn(f"cft{seed}", 0.5), graders=999 if seed == 1 else 1)
    lost = [keys("cft", seed)[2] for seed in SEEDS]
    for key in lost:
        (store / "generations" / key / "manifest.json").unlink()
    asked = study()
    found = entry(build_study(asked, ["mine"]), "CFT")
    assert found.state == "conflict"
    assert "graders are 999 where the rest of the table has 1" in str(found.reason)
    named = [str(problem) for problem in asked.results.problems]
    assert all(any(f"generations/{key}/manifest.json: it is not there" in line for line in named) for key in lost)


def test_a_stage_that_failed_once_and_is_a_record_now_has_not_failed(store: Path, study: Callable[[], Study]) -> None:
    result = keys("cft", 0)[0]
    trained = pipeline.plan(config_of("cft")).trained
    assert trained is not None
    write_json(_made(store / "sweeps" / "20260101-000000-mine" / "failures") / f"{trained.key}.json", {"error": "out of memory"})
    _made(store / "candidates" / trained.key)
    for seed in SEEDS:
        shutil.rmtree(store / "result" / keys("cft", seed)[0])
    assert not (store / "result" / result).exists()
    assert entry(build_study(study(), ["mine"]), "CFT").state == "failed"
    (store / "candidates" / trained.key / "pruned.json").write_text("{}")
    assert entry(build_study(study(), ["mine"]), "CFT").state == "missing"


def test_the_command_for_lost_places_can_be_copied_from_markdown(store: Path, study: Callable[[], Study]) -> None:
    from cft_lab.report.render import render

    shutil.rmtree(store / "scores" / keys("sft", 1)[1])
    text = render(build_study(study(), ["mine"]), "md")
    (line,) = [line for line in text.splitlines() if "SFT lacks lab-basic" in line]
    assert f"`python run.py benchmarks=lab-table8 model=lab-debug method=sft seed=1 output_root={store}`" in line


def test_claims_name_the_records_that_they_could_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose("model=lab-qwen2", "benchmarks=lab", "data=lab-forum", "method=cft")
    key = write_cell(tmp_path, config, drawn_for(config.benchmarks.names, "cft", 0.5))
    scores = read_json(tmp_path / "result" / key / "result.json")["keys"]["scores/lab-basic"]
    for file in (tmp_path / "scores" / scores).glob("grades.*"):
        file.write_text("garbage")
    assert main(["report", "claims", "--store", str(tmp_path)]) == 0
    assert f"cannot be used: scores/{scores}: it is damaged" in capsys.readouterr().out


def test_half_a_surrogate_in_a_record_becomes_a_question_mark(tmp_path: Path) -> None:
    store = tmp_path / "store"
    config = compose("model=lab-qwen2", "benchmarks=lab", "data=lab-web", "method=cft")
    key = write_cell(store, config, drawn_for(config.benchmarks.names, "cft", 0.5))
    manifest = store / "result" / key / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"label": "', '"label": "\\ud83d \\ud83d\\ude00'))
    label = open_store(store).costs().loc[key, "label"]
    assert label.startswith("? \N{GRINNING FACE}")
    strange = store / "result" / "bad\udcff"  # a name that is not UTF-8
    strange.mkdir()
    (strange / "DONE").touch()
    assert main(["report", "lab/table5", "--format", "html,md,csv", "--out", str(tmp_path / "out"), "--store", str(store)]) == 0
    assert "bad?" in (tmp_path / "out" / "lab-table5.md").read_text()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
