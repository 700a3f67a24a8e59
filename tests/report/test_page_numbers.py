"""Every number of the page can be followed to records, and comes out of them again."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_results import drawn_for, write_cell
from page_reader import Number, PageReader

from cft_lab.__main__ import main
from cft_lab.evaluation.statistics import item_interval, macro_interval
from cft_lab.hydra_config import compose
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Grade, Outcome
from cft_lab.report.build import LAB_TABLES, build_study
from cft_lab.report.claims import judge, read_claims
from cft_lab.report.page import render, write_page
from cft_lab.report.study import Study
from cft_lab.results import open_store

ACCURACIES = {"base": 0.45, "sft": 0.35, "sft-verified": 0.6, "sft-teacher": 0.55, "cft": 0.5}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arms of a column of lab table 2, two seeds each, with outcomes drawn by the test; some draws are errors."""
    root = tmp_path_factory.mktemp("store")
    for method, accuracy in ACCURACIES.items():
        for seed in (0, 1):
            config = compose("model=lab-qwen2", "benchmarks=lab", f"method={method}", f"seed={seed}")
            outcomes = drawn_for(config.benchmarks.names, method if method == "base" else f"{method}/{seed}", accuracy)
            write_cell(root, config, outcomes, errors=(3, 17) if method == "sft" else ())
    return root


@pytest.fixture(scope="module")
def page(store: Path) -> PageReader:
    study = Study(open_store(store))
    verdicts = judge(study, [claim for claim in read_claims() if claim.scale == "lab"])
    return PageReader(render(build_study(study, LAB_TABLES), verdicts, study.results))


def numbers_of(text: str) -> list[float]:
    return [float(word.replace(",", "")) for word in re.findall(r"[-+]?\d[\d,]*\.?\d*", text.replace("\N{MINUS SIGN}", "-"))]


def items_of(store: Path, keys: Sequence[str], *, paper: bool = False) -> dict[str, float]:
    """Item -> its mean over runs, from the grades; items with an error in any run are left out."""
    seen: dict[str, list[float | None]] = {}
    for key in dict.fromkeys(keys):  # runs that share a scores stage are one run
        for grade in read_records(store / "scores" / key / "grades.jsonl", Grade):
            outcome = grade.paper if paper else grade.outcome
            seen.setdefault(grade.problem_id, []).append(None if outcome is Outcome.ERROR else float(outcome is Outcome.CORRECT))
    return {item: sum(values) / len(values) for item, values in seen.items() if None not in values}  # type: ignore[arg-type]


def benchmarks_of(store: Path, page: PageReader, anchor: str, benchmark: str, over: Sequence[str] = ()) -> list[dict[str, float]]:
    """The items of each benchmark behind a number of an arm; for AVG those that it is over, or all that the page has."""
    if benchmark != "AVG":
        return [items_of(store, page.anchors[f"{anchor}-{benchmark}"].scores)]
    results = [read_json(store / "result" / key / "result.json") for key in page.anchors[f"{anchor}-AVG"].results]
    names = over or [score["benchmark"] for score in results[0]["scores"] if f"{anchor}-{score['benchmark']}" in page.ids]
    return [items_of(store, [result["keys"][f"scores/{name}"] for result in results]) for name in names]


def mean_of(benchmarks: Sequence[dict[str, float]], shared: Sequence[set[str]] | None = None) -> float:
    """The plain mean over benchmarks, of the items that are shared if some are not."""
    kept = [
        [value for item, value in items.items() if shared is None or item in shared[place]]
        for place, items in enumerate(benchmarks)
    ]
    return sum(sum(values) / len(values) for values in kept) / len(kept)


def recomputed(store: Path, page: PageReader, number: Number) -> list[float]:
    """The numbers that its text should show, in percent or points, from per-item grades; intervals of differences are left out."""
    if number.stat in ("difference", "effect"):
        arms = [
            (role, [benchmarks_of(store, page, arm, number.benchmark) for arm in arms])
            for role, arms in page.anchors[number.href].roles
        ]
        shared = [set.intersection(*map(set, columns)) for columns in zip(*(one for _, arm in arms for one in arm), strict=True)]
        means = [(role, sum(mean_of(arm, shared) for arm in group) / len(group)) for role, group in arms]
        [first] = [mean for role, mean in means if role == "first"]
        return [100 * (first - max(mean for role, mean in means if role == "rival"))]
    benchmarks = benchmarks_of(store, page, number.href.removesuffix(f"-{number.benchmark}"), number.benchmark, number.over)
    lists = [list(items.values()) for items in benchmarks]
    low, high = macro_interval(lists) if number.benchmark == "AVG" else item_interval(lists[0])
    return [100 * mean_of(benchmarks), 100 * low, 100 * high]


RECOMPUTED = ("accuracy", "difference", "effect")


def test_fifty_numbers_at_random_follow_from_the_grades_of_their_items(store: Path, page: PageReader) -> None:
    known = [number for number in page.numbers if number.stat in RECOMPUTED]
    assert {number.stat for number in known} == set(RECOMPUTED)
    for number in random.Random(7).sample(known, 50):
        expected = recomputed(store, page, number)
        assert numbers_of(number.text)[: len(expected)] == pytest.approx(expected, abs=0.0501), (number, expected)


def test_every_number_has_a_link_that_leads_somewhere(page: PageReader) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= set(page.ids)
    for number in page.numbers:
        assert number.href in page.ids, number
        if number.stat in RECOMPUTED:
            anchor = page.anchors[number.href]
            assert anchor.scores or anchor.results or anchor.roles, number


def test_supervised_tokens_and_rates_are_those_of_the_records(store: Path, page: PageReader) -> None:
    tokens = [number for number in page.numbers if number.stat == "supervised-tokens"]
    assert tokens
    for number in tokens:
        found = [read_json(store / "result" / key / "result.json") for key in page.anchors[number.href].results]
        assert numbers_of(number.text) == [found[0]["supervised_tokens"]]
    for number in page.numbers:
        if number.stat == "paper-grader" and number.benchmark != "AVG":
            items = items_of(store, page.anchors[number.href].scores, paper=True)
            assert numbers_of(number.text) == pytest.approx([100 * mean_of([items])], abs=0.0501)


def test_an_empty_store_gives_a_page_without_any_measured_number(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    study = Study(open_store(tmp_path / "store"))
    report = build_study(study, ["table1", "table2", "figure1", "lab/table2"])
    verdicts = judge(study, [claim for claim in read_claims() if claim.sweep in ("table2", "lab/table2")])
    file = write_page(report, verdicts, study.results, tmp_path / "out")
    text = file.read_text(encoding="utf-8")
    page = PageReader(text)
    assert file.name == "report.html"
    assert not page.numbers
    assert set(page.links) <= set(page.ids)
    assert "Nothing that this report asks for has been run" in text
    assert "python run.py" in text
    assert "not run" in text


def test_the_command_writes_a_page_where_it_was_asked_to(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["report", "lab/table6", "--store", str(store), "--format", "html", "--out"]
    assert main([*asked, str(tmp_path / "new" / "mine.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "mine.html")
    assert (tmp_path / "new" / "mine.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main([*asked, str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "report.html").exists()
    assert main(["report", "lab/table6", "--store", str(store), "--format", "md,html", "--out", str(tmp_path / "a.html")]) == 2
    assert "--format html" in capsys.readouterr().err
