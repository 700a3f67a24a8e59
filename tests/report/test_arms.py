"""Which results a table takes: seeds of one cell, no other settings, no other versions, and it says what it left out."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import BENCHMARKS, METHODS, config_of, drawn, drawn_for, edit, study_of, sweeps_folder, write_cell

from cft_lab.json_files import write_json
from cft_lab.pipeline import plan
from cft_lab.report.build import build_study
from cft_lab.report.render import render
from cft_lab.report.study import Study
from cft_lab.report.tables import AVG, SEEDS_NOTE, Report, ReportTable, Row
from cft_lab.results import open_store


@pytest.fixture
def report(tmp_path: Path) -> Callable[[], Report]:
    (tmp_path / "store").mkdir(exist_ok=True)
    return lambda: build_study(study_of(tmp_path / "store", sweeps_folder(tmp_path)), ["mine"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def table_of(report: Report) -> ReportTable:
    (table,) = report.tables
    assert isinstance(table, ReportTable)
    return table


def row_of(report: Report, label: str) -> Row:
    return next(row for row in table_of(report).rows if row.label == label)


def fill(store: Path, seed: int = 0) -> None:
    for method in METHODS:
        write_cell(store, config_of(method, seed=seed), drawn(f"{method}{seed}", 0.5))


def test_seeds_of_one_cell_are_averaged_by_item(store: Path, report: Callable[[], Report]) -> None:
    outcomes = [drawn("a", 0.4), drawn("b", 0.6), drawn("c", 0.5)]
    for seed, one in enumerate(outcomes):
        write_cell(store, config_of("cft", seed=seed), one)
    row = row_of(report(), "CFT")
    value = row.entries["lab-basic"].value
    assert value is not None
    assert (row.seeds, value.seeds, value.n_items) == ((0, 1, 2), 3, 60)
    assert value.mean == pytest.approx(sum(sum(one["lab-basic"]) for one in outcomes) / 180)


def test_a_greedy_base_model_counts_once_under_all_seeds_and_misses_none(store: Path, report: Callable[[], Report]) -> None:
    for seed in (0, 1):
        write_cell(store, config_of("base", seed=seed), drawn("base", 0.5))
        write_cell(store, config_of("cft", seed=seed), drawn(f"cft{seed}", 0.5))
    found = report()
    value = row_of(found, "Base").entries[AVG].value
    assert value is not None
    assert value.seeds == 1
    assert not [note for note in table_of(found).notes if "Base has no seed" in note]


def test_a_seed_that_other_arms_have_is_told_with_its_command(store: Path, report: Callable[[], Report]) -> None:
    fill(store)
    write_cell(store, config_of("cft", seed=4), drawn("cft4", 0.5))
    (note,) = [note for note in table_of(report()).notes if note.startswith("SFT has no seed")]
    command = f"python run.py benchmarks=lab-table8 model=lab-debug method=sft seed=4 output_root={store}"
    assert note == f"SFT has no seed 4 (not run): `{command}`"


def test_other_settings_are_refused_by_name_and_the_rest_is_reported(store: Path, report: Callable[[], Report]) -> None:
    fill(store)
    key = write_cell(store, config_of("cft", "train.lr=0.5"), drawn("other", 0.9))
    found = report()
    (note,) = [note for note in table_of(found).notes if "refused" in note]
    assert "train.lr=0.5 (not 0.001)" in note
    assert key in note
    mean = row_of(found, "CFT").entries["lab-basic"].value
    assert mean is not None
    assert mean.mean == pytest.approx(sum(drawn("cft0", 0.5)["lab-basic"]) / 60)


def test_a_place_that_has_only_other_settings_is_a_conflict_and_no_number(store: Path, report: Callable[[], Report]) -> None:
    write_cell(store, config_of("cft", "train.lr=0.5", "train.epochs=2"), drawn("other", 0.9))
    entry = row_of(report(), "CFT").entries[AVG]
    assert (entry.state, entry.value) == ("conflict", None)
    assert "train.lr=0.5 (not 0.001)" in str(entry.reason)
    assert "train.epochs=2" in str(entry.reason)


def test_a_field_that_was_asked_for_tells_cells_apart_and_refuses_nothing(store: Path, tmp_path: Path) -> None:
    fill(store)

    def asked() -> Report:
        return build_study(Study(open_store(store), overrides=["train.lr=0.5"], folder=sweeps_folder(tmp_path)), ["mine"])

    missing = row_of(asked(), "CFT").entries[AVG]
    assert (missing.state, missing.reason) == ("missing", None)
    write_cell(store, config_of("cft", "train.lr=0.5"), drawn("other", 0.9))
    found = asked()
    value = row_of(found, "CFT").entries["lab-basic"].value
    assert value is not None
    assert value.mean == pytest.approx(sum(drawn("other", 0.9)["lab-basic"]) / 60)
    assert not [note for note in table_of(found).notes if "refused" in note]


def test_fields_that_change_only_speed_do_not_matter(store: Path, report: Callable[[], Report]) -> None:
    write_cell(store, config_of("cft", "engine.batch_size=7", "train.resume_every_steps=3"), drawn("cft", 0.5))
    assert row_of(report(), "CFT").entries[AVG].state == "measured"


def test_todays_graders_win_over_those_of_older_results(store: Path, report: Callable[[], Report]) -> None:
    write_cell(store, config_of("cft"), drawn("old", 0.9), graders=1)
    write_cell(store, config_of("cft"), drawn("new", 0.3))
    value = row_of(report(), "CFT").entries["lab-basic"].value
    assert value is not None
    assert value.mean == pytest.approx(sum(drawn("new", 0.3)["lab-basic"]) / 60)


def test_results_of_older_graders_stand_in_where_all_are_and_it_is_said(store: Path, report: Callable[[], Report]) -> None:
    for method in METHODS:
        write_cell(store, config_of(method), drawn(method, 0.5), graders=1)
    table = table_of(report())
    assert {row.entries[AVG].state for row in table.rows} == {"measured"}
    assert sum("made by other versions than today's: stages scores" in note for note in table.notes) == len(METHODS)
    assert all(delta.estimate is not None for delta in table.deltas)


def test_different_graders_in_one_table_are_not_compared(store: Path, report: Callable[[], Report]) -> None:
    for method in METHODS:
        write_cell(store, config_of(method), drawn(method, 0.5), graders=1 if method == "cft" else None)
    table = table_of(report())
    states = {row.label: row.entries["lab-basic"].state for row in table.rows}
    assert states == {"Base": "measured", "SFT": "measured", "SFT-verified": "measured", "CFT": "conflict"}
    assert "graders are 1 where the rest of the table has" in str(table.rows[3].entries["lab-basic"].reason)
    estimates = {delta.label: delta.estimate for delta in table.deltas if delta.benchmark == AVG}
    assert estimates["CFT - best SFT"] is None
    assert estimates["SFT - Base"] is not None


def test_two_old_results_for_one_seed_are_refused_by_their_stages(store: Path, report: Callable[[], Report]) -> None:
    for graders in (0, 1):
        write_cell(store, config_of("cft"), drawn("old", 0.9), graders=graders)
    entry = row_of(report(), "CFT").entries["lab-basic"]
    assert entry.state == "conflict"
    assert "seed 0 has 2 results on lab-basic" in str(entry.reason)
    assert "scores/lab-basic" in str(entry.reason)


def test_a_record_of_an_older_version_without_a_field_is_matched_by_the_others(store: Path, report: Callable[[], Report]) -> None:
    key = write_cell(store, config_of("cft"), drawn("old", 0.9), graders=1)

    def older(row: dict[str, dict[str, object]]) -> object:
        del row["cell"]["inference.samples"]
        return row

    edit(store / "result" / key / "result.json", older)
    assert row_of(report(), "CFT").entries[AVG].state == "measured"


def test_an_empty_store_reports_what_to_run(report: Callable[[], Report]) -> None:
    found = report()
    assert "no finished result" in found.notes[0]
    assert {entry.state for row in table_of(found).rows for entry in row.entries.values()} == {"missing"}
    assert all("python run.py" in str(row.entries[AVG].command) for row in table_of(found).rows)


def test_a_corrupt_record_is_named_and_the_rest_is_reported(store: Path, report: Callable[[], Report]) -> None:
    fill(store)
    broken = write_cell(store, config_of("cft", seed=1), drawn("cft1", 0.5))
    (store / "result" / broken / "result.json").write_text('{"cell": ')
    found = report()
    (problem,) = found.problems
    assert f"result/{broken}/result.json: it is damaged" in problem
    assert row_of(found, "CFT").seeds == (0,)


def test_grades_that_are_not_those_of_the_score_are_no_numbers(store: Path, report: Callable[[], Report]) -> None:
    fill(store)
    scores = plan(config_of("cft")).result.upstream["lab-basic"].key
    (store / "scores" / scores / "grades.parquet").unlink()
    lines = (store / "scores" / scores / "grades.jsonl").read_text().splitlines(keepends=True)
    (store / "scores" / scores / "grades.jsonl").write_text("".join(lines[:-5]))
    found = report()
    entries = row_of(found, "CFT").entries
    assert [entries[name].state for name in (*BENCHMARKS, AVG)] == ["missing", "measured", "missing"]
    assert any(f"scores/{scores}" in problem and "are not those of its score" in problem for problem in found.problems)
    assert f"cannot be read: first delete scores/{scores} and result/" in str(entries["lab-basic"].reason)


def test_a_benchmark_that_a_seed_lost_is_told_with_what_makes_it_whole(store: Path, report: Callable[[], Report]) -> None:
    for seed in (0, 1, 2):
        fill(store, seed)
    config = config_of("cft", seed=1)
    planned = plan(config).result
    lost = planned.upstream["lab-basic"].key
    shutil.rmtree(store / "scores" / lost)
    found = report()
    counts = {name: entry.value.seeds for name, entry in row_of(found, "CFT").entries.items() if entry.value}
    assert counts == {"lab-basic": 2, "lab-applied": 3, AVG: 2}
    (note,) = [note for note in table_of(found).notes if "lacks" in note]
    told, _, command = note.partition(f": delete result/{planned.key}, then ")
    assert told == "CFT lacks lab-basic under seed 1, so that it and AVG are over fewer seeds"
    assert command == f"`python run.py benchmarks=lab-table8 model=lab-debug method=cft seed=1 output_root={store}`"
    line = next(line for line in render(found, "md").splitlines() if line.startswith("| CFT "))
    assert [place.strip().endswith("(2 seeds)") for place in line.split("|")[4:7]] == [True, False, True]
    shutil.rmtree(store / "result" / planned.key)  # as told
    write_cell(store, config, drawn("cft1", 0.5))  # as the command does
    assert not [note for note in table_of(report()).notes if "lacks" in note]


def test_what_seeds_vary_is_said_where_something_was_measured(store: Path, report: Callable[[], Report]) -> None:
    assert SEEDS_NOTE not in table_of(report()).notes
    fill(store)
    assert SEEDS_NOTE in table_of(report()).notes


def test_a_cell_that_failed_in_a_sweep_says_why(store: Path, report: Callable[[], Report]) -> None:
    trained = plan(config_of("cft")).trained
    assert trained is not None
    failures = store / "sweeps" / "20260101-000000-mine" / "failures"
    failures.mkdir(parents=True)
    write_json(failures / f"{trained.key}.json", {"error": "RuntimeError: the loss is not a number"})
    entry = row_of(report(), "CFT").entries[AVG]
    assert (entry.state, entry.value) == ("failed", None)
    assert "the loss is not a number (in candidates" in str(entry.reason)


def test_items_with_errors_are_left_out_and_counted(store: Path, report: Callable[[], Report]) -> None:
    outcomes = drawn("cft", 0.5)
    write_cell(store, config_of("cft"), outcomes, errors=(0, 1, 2))
    found = report()
    value = row_of(found, "CFT").entries["lab-basic"].value
    assert value is not None
    assert (value.n_items, value.errors) == (57, 3)
    assert value.mean == pytest.approx(sum(outcomes["lab-basic"][3:]) / 57)
    assert any("6 draws could not be measured" in note for note in table_of(found).notes)


def test_a_result_on_more_benchmarks_than_a_cell_asks_for_is_traced_on_those(store: Path, report: Callable[[], Report]) -> None:
    config = config_of("cft", "benchmarks=lab")
    write_cell(store, config, drawn_for(config.benchmarks.names, "cft", 0.5))
    found = report()
    row = row_of(found, "CFT")
    assert row.entries[AVG].state == "measured"
    (run,) = found.arms[str(row.arm)].runs
    assert [name for name in run.keys if name.startswith("scores/")] == [f"scores/{name}" for name in BENCHMARKS]


def test_every_measured_number_can_be_traced_to_its_record(store: Path, report: Callable[[], Report]) -> None:
    fill(store)
    found = report()
    for row in table_of(found).rows:
        trace = found.arms[str(row.arm)]
        (run,) = trace.runs
        assert (store / "result" / run.result).is_dir()
        assert all((store / "scores" / run.keys[f"scores/{name}"]).is_dir() for name in BENCHMARKS)
        assert run.commit == "abc"
        assert trace.command.startswith("python run.py")
