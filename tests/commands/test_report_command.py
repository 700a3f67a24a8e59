"""`python -m cft_lab report`: names, formats, versions, and bad input."""

import csv
import io
from pathlib import Path

import pytest

from cft_lab.__main__ import main
from cft_lab.json_files import write_json


def report(store: Path, *arguments: str) -> int:
    store.mkdir(exist_ok=True)
    return main(["report", *arguments, "--store", str(store)])


def test_all_of_an_empty_store_says_what_to_run(tmp_path: Path) -> None:
    assert report(tmp_path / "store", "all", "--format", "md,csv", "--out", str(tmp_path / "out")) == 0
    files = {file.name for file in (tmp_path / "out").iterdir()}
    for name in (*(f"table{number}" for number in range(1, 9)), "figure1", "lab-table2", "lab-table8", "claims"):
        assert {f"{name}.md", f"{name}.csv"} <= files
    table2 = (tmp_path / "out" / "table2.md").read_text()
    assert "has no finished result" in table2
    assert "python run.py -m sweeps=table2" in table2
    assert "79.4" in table2
    assert "base rows: published; protocol unstated" in table2
    lab = (tmp_path / "out" / "lab-table2.md").read_text()
    assert "Lab world" in lab
    assert "79.4" not in lab
    claims = (tmp_path / "out" / "claims.md").read_text()
    assert claims.count("not run") >= 30
    assert "replicated" not in claims


def test_csv_has_the_data_sets_and_says_its_notes_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    for name in ("bad", "worse"):
        (store / "result" / name).mkdir(parents=True)
        (store / "result" / name / "DONE").touch()
    assert report(store, "table1", "table6", "claims", "--format", "csv") == 0
    told = capsys.readouterr()
    tables, data_sets, claims = (list(csv.DictReader(io.StringIO(text))) for text in told.out.split("\n\n"))
    assert ("MetaMathQA", "395K", "") in [(row["name"], row["size"], row["counted"]) for row in data_sets]
    assert data_sets[0]["command"].startswith("python -m cft_lab table1 --count")
    assert {"covers", "supervised_tokens", "note", "command"} <= tables[0].keys()
    assert all(row["command"].startswith("python run.py") for row in (*claims, *tables) if row.get("kind") == "value")
    notes = told.err.splitlines()
    assert sum("cannot be used: result/" in note for note in notes) == 2
    assert any(note.startswith("table6: * base rows") for note in notes)
    assert report(store, "table1", "table6", "--format", "csv", "--out", str(tmp_path / "out")) == 0
    assert not capsys.readouterr().err
    with (tmp_path / "out" / "notes.csv").open(encoding="utf-8") as file:
        written = [": ".join(filter(None, (row["table"], row["note"]))) for row in csv.DictReader(file)]
    assert written == [note for note in notes if not note.startswith("claims")]
    assert (tmp_path / "out" / "table1.csv").read_text().count("\n") == len(data_sets) + 1


def test_the_version_of_the_paper_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for version in ("v1", "v4"):
        assert report(tmp_path / "store", "table2", "table4", "--version", version) == 0
        printed.append(capsys.readouterr().out)
    assert "arXiv 2501.17703 v4" in printed[1]
    assert "SimpleRL" in printed[1]  # a printed row that no cell answers to
    assert "SimpleRL" not in printed[0]


def test_printed_rows_on_other_benchmarks_stand_apart_with_their_averages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(tmp_path / "store", "table4", "--version", "v4") == 0
    text = capsys.readouterr().out
    (head,) = [line for line in text.splitlines() if "MATH-500" in line and "|" in line]
    columns = [name.strip() for name in head.split("|")]
    (line,) = [line for line in text.splitlines() if "SimpleRL-Zero, rl" in line and "|" in line]
    told = dict(zip(columns, (place.strip() for place in line.split("|")), strict=True))
    assert {name: told[name] for name in ("MATH-500", "AMC23", "AVG")} == {"MATH-500": "77.2", "AMC23": "62.5", "AVG": "48.9"}
    assert "GPQA" not in columns
    assert text.count("48.9") == 1
    assert "The paper's v4 has another table 4, on MATH-500, Minerva-Math, OlympiadBench, AIME24, AMC23" in text
    assert report(tmp_path / "store", "table3", "--version", "v4") == 0  # rStar-Math: some of the table's benchmarks
    assert "on other benchmarks" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "marked"),
    [
        ("table2", {"DeepSeek-Math-7B", "Qwen2.5-7B", "Qwen2.5-Math-7B"}),
        ("table3", {"Qwen2.5-Math-7B"}),
        ("table4", {"Qwen2.5-32B-Instruct"}),
        ("table5", set()),
        ("table6", {"Base"}),
        ("table7", set()),
        ("figure1", set()),
    ],
)
def test_models_that_a_table_trains_are_base_rows_and_other_released_ones_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, marked: set[str]
) -> None:
    assert report(tmp_path / "store", table, "--format", "csv", "--out", str(tmp_path)) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / f"{table}.csv").read_text(encoding="utf-8"))))
    assert {row["row"] for row in rows if "protocol unstated" in row["note"]} == marked
    capsys.readouterr()
    assert report(tmp_path / "store", table) == 0
    assert ("* base rows: published; protocol unstated" in capsys.readouterr().out) == bool(marked)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["table99"], "table99 is not a sweep file"),
        (["table2", "--format", "pdf"], "--format pdf is not known: choose from md, tex, csv, html"),
        (["lab/table6", "train.lr=1,2"], "one value, not several"),
        (["lab/table6", "nonsense=1"], "nonsense"),
        (["lab/table6", "seed=0"], "seed=0 is no override of a report: a report takes every seed of a store"),
        (["claims", "output_root=x"], "output_root=x is no override of a report: name the store with --store"),
        (["table2", "--format", "html", "--out", "/proc/here"], "--out /proc/here: /proc/here is no folder and cannot be made"),
        (["table2", "--out", __file__], "is no folder and cannot be made"),
        (["table2", "--format", "html", "--out", f"{__file__}/page.html"], "is no folder and cannot be made"),
    ],
)
def test_bad_input_is_named_and_nothing_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert report(tmp_path / "store", *arguments) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert not captured.out


def test_several_formats_go_into_one_folder_whatever_it_is_called(tmp_path: Path) -> None:
    for formats in ("html,md", "md,html"):
        out = tmp_path / f"{formats}.v4"
        assert report(tmp_path / "store", "table1", "--format", formats, "--out", str(out)) == 0
        assert {file.name for file in out.iterdir()} == {"report.html", "table1.md"}


def test_overrides_may_stand_behind_options_and_hold_for_claims_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    words = ["claims", "lab/table5", "--version", "v4", "train.lr=1e-4"]
    assert main(["report", "--store", str(tmp_path / "store"), *words]) == 0
    printed = capsys.readouterr().out
    assert "> Tables and claims are about cells that were asked for with `train.lr=1e-4`." in printed
    assert "> Published values, those of claims too, are of the paper's v4." in printed
    assert main(["report", "--store", str(tmp_path / "store"), *words, "--out", str(tmp_path)]) == 0
    for name in ("claims", "lab-table5"):
        assert "asked for with `train.lr=1e-4`" in (tmp_path / f"{name}.md").read_text()


def test_a_data_set_whose_manifest_says_no_config_is_not_counted(tmp_path: Path) -> None:
    folder = tmp_path / "problems" / ("a" * 16)
    folder.mkdir(parents=True)
    told = {"stage": "problems", "label": "x", "created": "2026-01-02T03:04:05+0000", "seconds": 1.0, "counts": {}, "upstream": {}}
    write_json(folder / "manifest.json", told)
    (folder / "DONE").touch()
    assert report(tmp_path, "table1") == 0


def test_a_store_that_is_no_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "table2", "--store", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
