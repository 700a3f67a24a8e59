"""What is shown of a report: every format has its numbers, and no number that was not measured."""

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_results import FAMILY_OF_ONE, METHODS, config_of, drawn, study_of, sweeps_folder, write_cell

from cft_lab.report.build import build_study
from cft_lab.report.claims import Verdict, judge
from cft_lab.report.render import render
from cft_lab.report.tables import AVG, Entry, Report, ReportTable, Row, Value


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, tuple[Verdict, ...]]:
    """A store without the arm sft-verified."""
    folder = tmp_path_factory.mktemp("render")
    for method in METHODS:
        if method != "sft-verified":
            write_cell(folder / "store", config_of(method), drawn(method, 0.5))
    study = study_of(folder / "store", sweeps_folder(folder))
    return build_study(study, ["mine"]), judge(study, FAMILY_OF_ONE)


def paper_table(label: str = "a|b & <c>_%") -> Report:
    """A paper-scale table with one measured place, one with another grader, one missing, and names that are markup elsewhere."""
    value = Value(0.5, 0.4, 0.6, 100, 2, 1, 0.55, 0.02, 0.03, 0.01)
    entries = {
        "math": Entry(label, "", "math", "measured", value, 0.48, 0.02, cell="x"),
        AVG: Entry(label, "", AVG, "missing", None, 0.4, None, "python run.py method='cft'", cell="x"),
    }
    row = Row(label, "", "x", 1234567, (0, 1), entries)
    return Report("s", "v1", (ReportTable("t", "Title", "caption", "paper", "v1", ("math", AVG), (row,)),), {})


class Texts(HTMLParser):
    """The texts of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_markdown_tables_have_as_many_columns_in_every_line(made: tuple[Report, tuple[Verdict, ...]]) -> None:
    for report, verdicts in (made, (paper_table(), ())):
        text = render(report, "md", verdicts, rates=True)
        blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
        assert blocks
        for lines in blocks:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
            assert len(lines) > 2


def test_a_value_stands_with_interval_published_value_difference_and_rates() -> None:
    text = render(paper_table(), "md", rates=True)
    for told in ("50.0 [40.0, 60.0] (1 errors)", "48.0 (+2.0)", "55.0", "3.0 / 2.0", "1,234,567", "MATH, n=100", "not run"):
        assert told in text, told
    assert "3.0 / 2.0" not in render(paper_table(), "md")
    assert "nothing of this table was run" not in text


def test_what_is_missing_has_its_command_and_no_number(made: tuple[Report, tuple[Verdict, ...]]) -> None:
    report, verdicts = made
    text = render(report, "md", verdicts)
    (line,) = [line for line in text.splitlines() if line.startswith("| SFT-verified")]
    assert not re.search(r"\d", line)
    command = "python run.py -m benchmarks=lab-table8 model=lab-debug method=sft-verified seed=0,1,2"
    assert f"SFT-verified: not run: `{command} output_root={report.store}`" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| CFT - best SFT")]
    assert not re.search(r"\d", line)


def test_lab_tables_say_so_and_have_nothing_published(made: tuple[Report, tuple[Verdict, ...]]) -> None:
    text = render(made[0], "md")
    assert "Lab world" in text
    assert "Published" not in text


def test_csv_holds_the_numbers_themselves(made: tuple[Report, tuple[Verdict, ...]]) -> None:
    report, verdicts = made
    (table,) = report.tables
    assert isinstance(table, ReportTable)
    values, claims = render(report, "csv", verdicts).split("\n\n")
    rows = list(csv.DictReader(io.StringIO(values)))
    for row in table.rows:
        for entry in row.entries.values():
            (found,) = [r for r in rows if (r["kind"], r["row"], r["benchmark"]) == ("value", entry.row, entry.benchmark)]
            assert found["mean"] == ("" if entry.value is None else str(entry.value.mean))
            assert found["high"] == ("" if entry.value is None else str(entry.value.high))
    for delta in table.deltas:
        (found,) = [r for r in rows if (r["kind"], r["row"], r["benchmark"]) == ("difference", delta.label, delta.benchmark)]
        assert found["low"] == ("" if delta.low is None else str(delta.low))
    (verdict,) = csv.DictReader(io.StringIO(claims))
    assert verdict["verdict"] == verdicts[0].word


def test_html_is_escaped_markup_with_headings_of_rows_and_columns() -> None:
    text = render(paper_table(), "html")
    page = Texts()
    page.feed(text)
    assert "a|b & <c>_%" in page.cells
    assert "c" not in page.tags
    assert {"table", "caption", "thead", "tbody", "th", "td"} <= set(page.tags)
    assert '<th scope="row">' in text
    assert '<th scope="col">' in text
    assert 'data-state="missing"' in text


def test_latex_is_escaped() -> None:
    text = render(paper_table(), "tex")
    assert r"a|b \& <c>\_\%" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3


def test_latex_stays_within_its_comments_and_rows() -> None:
    report = dataclasses.replace(paper_table(), problems=("CUDA error\nCompile with `TORCH_USE_CUDA_DSA`\n\n[x]",))
    text = render(report, "tex")
    (line,) = [line for line in text.splitlines() if "CUDA error" in line]
    assert line == r"% cannot be used: CUDA error Compile with `TORCH\_USE\_CUDA\_DSA` [x]"
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and " & " in line]
    heads = [line for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False) if before == r"\toprule"]
    assert all(line.startswith("{}") for line in rows if line not in heads)  # a row that begins with [ would be an argument of \\


def test_problems_of_the_store_are_said_in_every_text() -> None:
    report = dataclasses.replace(paper_table(), problems=("result/x: it is damaged; run it again",))
    for format in ("md", "tex", "html"):
        assert "result/x: it is damaged" in render(report, format)


def test_a_difference_says_its_items_seeds_and_what_its_interval_covers(tmp_path: Path) -> None:
    for method in METHODS:
        for seed in (0, 1) if method != "base" else (0,):
            write_cell(tmp_path / "store", config_of(method, seed=seed), drawn(f"{method}{seed}", 0.4 + 0.2 * seed))
    study = study_of(tmp_path / "store", sweeps_folder(tmp_path))
    report, verdicts = build_study(study, ["mine"]), judge(study, FAMILY_OF_ONE)
    text = render(report, "md", verdicts)
    heads = [cell.strip() for line in text.splitlines() if line.startswith("| difference") for cell in line.split("|")]
    for line in (line for line in text.splitlines() if line.startswith(("| SFT - Base", "| CFT - best"))):
        told = dict(zip(heads, (cell.strip() for cell in line.split("|")), strict=True))
        assert (told["items"], told["seeds"], told["interval over"]) == ("120", "2", "items and seeds")
    assert "items and seeds, 120 items, 2 seeds of each trained arm" in text
    assert "adjusted by Holm" in text
    (row,) = [
        row for row in csv.DictReader(io.StringIO(render(report, "csv"))) if row["row"] == "SFT - Base" and row["benchmark"] == AVG
    ]
    assert row["covers"] == "items and seeds"


def test_a_verdict_from_one_run_says_so(made: tuple[Report, tuple[Verdict, ...]]) -> None:
    report, verdicts = made
    assert verdicts[0].qualified.endswith(", on one training run")
    for format in ("md", "tex", "html", "csv"):
        assert verdicts[0].qualified in render(report, format, verdicts)
