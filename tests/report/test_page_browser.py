"""The page in a real browser: silent, offline, readable on a phone, in the dark and on paper; hostile texts stay texts."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, opened
from cells import DEBUG
from page_reader import PageReader
from playwright.sync_api import Browser

from cft_lab import pipeline
from cft_lab.hydra_config import compose
from cft_lab.json_files import read_records, write_records
from cft_lab.records import Generation
from cft_lab.report.build import build
from cft_lab.report.claims import CONTRADICTED, NOT_RUN, NOT_SEPARABLE, REPLICATED, Claim, Place, Verdict
from cft_lab.report.page import render, write_page
from cft_lab.report.page_parts import curve_groups
from cft_lab.report.page_plots import temperature_plots
from cft_lab.report.page_samples import sample_items
from cft_lab.report.tables import AVG, Report, ReportTable
from cft_lab.results import open_store

pytestmark = pytest.mark.browser

TABLE2 = """
caption: Arms of a test
benchmarks: lab-table8
common: {model: lab-debug}
grids:
  - method: [base, sft, sft-verified, cft]
labels:
  - {where: {model: lab-debug}, row: lab-debug}
  - {where: {method: base}, column: Base}
  - {where: {method: sft}, column: SFT}
  - {where: {method: sft-verified}, column: SFT-verified}
  - {where: {method: cft}, column: CFT}
deltas:
  - {label: CFT - SFT, first: {method: cft}, rivals: {method: sft}}
"""
TABLE8 = """
caption: Temperatures of a test
benchmarks: lab-table8
common: {model: lab-debug, method: cft}
grids:
  - {inference: [direct], temperature: [0.0, 0.6]}
  - {inference: [two-stage], temperature: [0.6]}
labels:
  - {where: {inference: direct}, row: Direct inference}
  - {where: {inference: two-stage}, row: Two-stage self-critique}
  - {where: {temperature: 0.0}, column: T=0.0}
  - {where: {temperature: 0.6}, column: T=0.6}
"""
OWN_DATA = """
caption: Data of one's own
benchmarks: lab
common: {model: lab-debug, data: local, data.path: mine.jsonl}
grids:
  - method: [sft]
labels:
  - {where: {method: sft}, row: SFT}
"""
SMALL = (*DEBUG, "model.lab.pretrain.tokens=20_000")
REASON = "0.0 points; it would take 7 seeds of each trained arm to separate 1.0 points, four times in five."
RUN = (
    ("method=base",),
    ("method=sft",),
    ("method=cft",),
    ("method=cft", "temperature=0.6"),
    ("method=cft", "temperature=0.6", "inference=two-stage"),
)
HOSTILE = (
    "<script>window.hacked = 1; alert(1)</script></pre></svg></style><img src=x onerror=alert(2)>"
    "<b id=hacked>bold</b>{{ 7*7 }}{% raw %}\u202e\x00&lt;script&gt; $x^2$ ]]> --> http://example.com/beacon.png"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real debug cells."""
    root = tmp_path_factory.mktemp("store")
    for overrides in RUN:
        pipeline.run(compose(*SMALL, f"output_root={root}", "benchmarks=lab-table8", *overrides), lambda line: None)
    return root


@pytest.fixture(scope="module")
def report(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build_from(store, tmp_path_factory.mktemp("tables"))


def build_from(store: Path, folder: Path, table2: str = TABLE2) -> Report:
    (folder / "lab").mkdir()
    (folder / "lab" / "table2.yaml").write_text(table2)
    (folder / "lab" / "table8.yaml").write_text(TABLE8)
    return build(open_store(store), ["lab/table2", "lab/table8"], overrides=SMALL, folder=folder)


def verdicts(report: Report) -> list[Verdict]:
    """A verdict of each kind, about arms of the report."""
    arms = tuple(report.arms)
    words = {
        REPLICATED: (0.02, 0.01, 0.03),
        CONTRADICTED: (-0.02, -0.03, -0.01),
        NOT_SEPARABLE: (0.0, -0.2, 0.2),
        NOT_RUN: (None,) * 3,
    }
    found = []
    for place, (word, (estimate, low, high)) in enumerate(words.items()):
        claim = Claim(
            f"claim-{place}", f"Claim number {place}", "lab", "lab/table2", "greater", AVG, (Place("a"),), ((Place("b"),),)
        )
        found.append(Verdict(claim, word, estimate, low, high, 0.99, first=arms[:1], rivals=((arms[1],),), command="python run.py"))
        found[-1] = dataclasses.replace(found[-1], reason=REASON if word == NOT_SEPARABLE else "")
    paper = Claim("of-the-paper", "A claim of the paper", "paper", "table2", "greater", AVG, (Place("c"),), ((Place("d"),),))
    return [Verdict(paper, NOT_RUN, reason="c is not measured"), *found]


@pytest.fixture(scope="module")
def page_file(store: Path, report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(report, verdicts(report), open_store(store), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_the_page_is_silent_offline_and_complete(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, said):
        assert said == []
        assert page.locator("script").count() == 0
        assert page.locator("h1").count() == 1
        for section in ("claims", "tables", "figure-1", "temperature", "training", "data", "cost", "samples", "provenance"):
            assert page.locator(f"h2#{section}").is_visible(), section
        assert page.locator("#tables ~ * table, #tables ~ table, section:has(#tables) table").count() >= 4
        for table in page.locator("table:not(.keys)").all():
            assert table.locator("caption").inner_text().strip()
        for head in page.locator("th").all():
            assert head.get_attribute("scope") in ("col", "row", "rowgroup")
        words = page.locator(".claim .badge").all_inner_texts()
        assert [word.split(maxsplit=1)[1] for word in words] == [NOT_RUN, REPLICATED, CONTRADICTED, NOT_SEPARABLE, NOT_RUN]
        assert page.locator(".sample").count() >= 3


def test_plots_are_drawn_and_described(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        for section, least in (("temperature", 3), ("training", 2)):
            plots = page.locator(f"section:has(> h2#{section}) svg[role=img]")
            assert plots.count() >= least, section
            for plot in plots.all():
                box = plot.bounding_box()
                assert box is not None
                assert min(box["width"], box["height"]) > 80
                assert plot.locator("title").first.text_content()
                assert plot.locator("desc").first.text_content()
                title, description = (plot.get_attribute("aria-labelledby") or "").split()
                assert page.locator(f"[id='{title}']").count() == page.locator(f"[id='{description}']").count() == 1
                assert plot.locator("path").count() > 3
                assert "#0a0b" not in plot.inner_html(), "a colour that the page does not know"


def test_what_was_chosen_and_what_was_published_is_drawn(browser: Browser, page_file: Path, store: Path) -> None:
    with opened(browser, page_file) as (page, _):
        assert page.locator("h2#figure-1 ~ figure .strip svg[role=img]").count() >= 9
        told = page.locator("svg[aria-labelledby^=selection] desc").all_text_contents()
        assert told
        assert all("chosen at" in one for one in told)
    (row,) = temperature_plots(build(open_store(store), ["table8"]))
    assert row.note.startswith("Nothing of it was run here")
    math = next(panel for panel in row.panels if ">MATH<" in panel)
    assert "Direct inference: published 79.4 at 0, 78.8 at 0.1, 77.5 at 0.3, 75.2 at 0.6" in math


def test_no_arm_stands_alone_beside_its_curves(store: Path, tmp_path: Path) -> None:
    for name, methods in (("table2", {"cft": "CFT"}), ("table7", {"sft": "SFT", "cft": "Other"})):
        labels = [f"  - {{where: {{method: {method}}}, row: {label}}}\n" for method, label in methods.items()]
        written = f"caption: c\nbenchmarks: lab-table8\ncommon: {{model: lab-debug}}\ngrids:\n  - method: [{', '.join(methods)}]\n"
        (tmp_path / f"{name}.yaml").write_text(f"{written}labels:\n{''.join(labels)}")
    report = build(open_store(store), ["table2", "table7"], overrides=SMALL, folder=tmp_path)
    first, second = curve_groups(report, open_store(store))
    assert [curve.label for curve in first.curves] == ["CFT"]
    assert [curve.label for curve in second.curves] == ["SFT", "Other"]


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_strips_show_label_side_and_value_on_any_screen(browser: Browser, page_file: Path, width: int) -> None:
    with opened(browser, page_file, width) as (page, _):
        strips = page.locator("section:has(> h2#claims) .strip:not(.axis)").all()
        assert len(strips) == 3
        for strip, told, word in zip(strips, ("+2.0", "-2.0", "+0.0"), (REPLICATED, CONTRADICTED, NOT_SEPARABLE), strict=True):
            drawing = strip.locator("svg[role=img]").first
            description = drawing.get_attribute("aria-label") or ""
            assert description.startswith(f"a \N{MINUS SIGN} b: {told} points [")
            assert f"claimed: above 0, {word}" in description
            assert "a \N{MINUS SIGN} b" in strip.inner_text()
            assert f"claimed: above 0; {word}" in strip.inner_text()
            for part in (drawing, drawing.locator(".claimed"), drawing.locator(".reach"), drawing.locator(".mark")):
                box = part.bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width


def test_each_scale_has_its_own_tally_and_finding(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        paper, lab = page.locator(".finding").all()
        assert "The paper's claims: 0 of 1 judged here." in paper.inner_text()
        assert "Nothing is said here about the paper's models" in paper.inner_text()
        assert paper.locator(".badge").count() == 0
        assert "Claims about the lab world: 3 of 4 judged here" in lab.inner_text()
        assert lab.locator(".count").count() == 3
        assert REASON in page.locator("#c-claim-2").inner_text(), "what would settle it"
        assert page.locator("#c-claim-0 [data-stat=effect]").get_attribute("href") == "#pc-claim-0"
        assert page.locator("#pc-claim-0 [data-role=first] a[href^='#p-']").count() == 1


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_only_tables_scroll_sideways(browser: Browser, page_file: Path, width: int) -> None:
    with opened(browser, page_file, width) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for table in page.locator("table").all():
            assert table.evaluate("one => getComputedStyle(one.parentElement).overflowX") == "auto"
            assert table.evaluate("one => one.parentElement.tabIndex") == 0, "not to be reached with the keyboard"


#: every visible text with a contrast below 4.5 (WCAG 2.1, 1.4.3), and how many texts there are
CONTRAST = """() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b };
  const ground = one => { const layers = [];
    for (let e = one; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]) };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = []; let seen = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), one = walker.currentNode.parentElement;
    if (!text || !one.checkVisibility() || one.closest('title, desc, style, .skip')) continue;
    const style = getComputedStyle(one), back = ground(one);
    const front = over(parse(one.closest('svg') ? style.fill : style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    seen += 1;
    if (ratio < 4.5) low.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return {low, seen, background: getComputedStyle(document.body).backgroundColor};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser: Browser, page_file: Path, scheme: str) -> None:
    with opened(browser, page_file, scheme=scheme) as (page, _):
        found = page.evaluate(CONTRAST)
        assert found["seen"] > 200
        assert found["low"] == []
        assert (found["background"] == "rgb(255, 255, 255)") == (scheme == "light")


def test_on_paper_it_is_black_on_white_without_navigation(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file, scheme="dark") as (page, _):
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert page.evaluate(CONTRAST)["low"] == []


def test_paper_has_what_is_folded_away_on_a_screen(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        whole = page.pdf(format="A4")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
        key = page.locator("#provenance ~ details td code").first
        assert not key.evaluate("one => one.checkVisibility()")
        folded = page.pdf(format="A4")
        assert folded.startswith(b"%PDF")
        assert len(re.findall(rb"/Type\s*/Page\b", folded)) == len(re.findall(rb"/Type\s*/Page\b", whole))
        page.emulate_media(media="print")
        parts = page.locator("details > :not(summary)")
        assert parts.count() > 10
        assert all(part.evaluate("one => one.checkVisibility()") for part in parts.all())


def test_headings_do_not_jump(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(one => Number(one.tagName[1]))")
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_rows_of_data_and_critiques_can_be_told_apart_and_lead_to_their_stages(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        tables = page.locator("table.origins")
        assert tables.count() == 2
        for table in tables.all():
            assert table.evaluate("one => one.parentElement.scrollWidth <= one.parentElement.clientWidth"), "cut off at 1280"
            names = [row.inner_text() for row in table.locator("tbody tr").all()]
            assert len(set(names)) == len(names)
            for link in table.locator("a[data-stat]").all():
                line = page.locator(f"[id='{(link.get_attribute('href') or '#')[1:]}']")
                assert line.locator("code").count() >= 2
        data, critiques = tables.all()
        assert "the data set's own\toracle\tlab-debug" in data.inner_text()
        assert "lab-web\tthe data set's own" in critiques.inner_text()
        assert "a right answer reached by a wrong step it calls wrong" in page.locator("section:has(> h2#data)").inner_text()


def test_protocols_stand_side_by_side_with_all_their_turns(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        title = page.locator("h3", has_text="Table 8, T=0.6").first
        shown = title.locator("xpath=following-sibling::div[@class='samples'][1]")
        assert shown.locator("h4").all_inner_texts() == ["Direct inference", "Two-stage self-critique"]
        second = shown.locator(".sample").nth(1)
        turns = second.locator("details p").all_inner_texts()
        assert turns[:2] == ["1, solve", "2, critique"]
        assert f"All {len(turns)} turns" in second.inner_text()
        assert second.locator("details pre").count() == len(turns)


def test_a_sweep_of_ones_own_has_its_plot_and_no_sections_of_the_paper(browser: Browser, store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE2)
    results = open_store(store)
    report = build(results, ["mine"], overrides=SMALL, folder=tmp_path)
    file = write_page(report, (), results, tmp_path / "mine.html")
    with opened(browser, file) as (page, _):
        assert page.locator("#figure-1, #temperature").count() == 0
        assert page.locator("#t-mine ~ figure .strip svg[role=img]").count() == 3
        assert page.locator("#t-mine").inner_text() == "Lab world: mine"


def test_lab_models_on_other_data_are_not_called_the_lab_world(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "mine.yaml").write_text(OWN_DATA)
    (table,) = build(open_store(tmp_path / "store"), ["mine"], folder=tmp_path).tables
    assert table.title == "mine, lab models"
    assert table.notes[0].startswith("Tiny models of the lab world, trained on local and tested on lab-basic, ")
    assert not any("procedurally made" in note for note in table.notes)


def test_a_number_leads_to_the_line_that_it_stands_on(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
        number = page.locator("a[data-stat=accuracy][data-benchmark=lab-basic]").first
        number.click()
        line = page.locator(f"[id='{(number.get_attribute('href') or '#')[1:]}']")
        assert line.is_visible(), "the browser opens the details around a target"
        assert "scores/lab-basic" in line.inner_text()


def test_hostile_texts_are_shown_and_do_nothing(browser: Browser, store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "store"
    shutil.copytree(store, mine, ignore=shutil.ignore_patterns("base_model", "step-*", "*.lock", "model"))
    for file in mine.glob("generations/*/generations.jsonl"):
        rows = [dataclasses.replace(row, final_text=HOSTILE) for row in read_records(file, Generation)]
        write_records(file, rows)
    label = "</title></svg><script>alert(3)</script>{{ 7*7 }} $x_1$"
    report = build_from(mine, tmp_path, TABLE2.replace("column: CFT}", f"column: '{label}'}}"))
    report = dataclasses.replace(report, problems=(HOSTILE,), notes=(HOSTILE,))
    file = write_page(report, verdicts(report), open_store(mine), tmp_path / "page.html")
    with opened(browser, file) as (page, said):
        assert said == []
        assert page.locator("script, img, #hacked").count() == 0
        assert page.evaluate("window.hacked === undefined")
        shown = page.locator(".sample pre").first.inner_text()
        assert "<script>window.hacked = 1; alert(1)</script></pre></svg>" in shown
        assert "{{ 7*7 }}{% raw %}" in shown
        assert page.locator("th", has_text=label).first.is_visible()
        assert page.locator(".strip-label", has_text="<script>alert(3)</script>").count()


def test_printed_rows_on_other_benchmarks_stand_apart(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    results = open_store(tmp_path / "store")
    report = build(results, ["table2", "table3", "table4", "table5"], "v4")
    rows = [row for table in report.tables if isinstance(table, ReportTable) for row in table.others]
    assert rows
    text = render(report, (), results)
    assert text.count("Printed rows on other benchmarks, which no cell answers to") == len(
        [table for table in report.tables if isinstance(table, ReportTable) and table.others]
    )
    PageReader(text)


def test_private_texts_are_never_drawn(store: Path, report: Report) -> None:
    table = report.tables[0]
    assert isinstance(table, ReportTable)
    results = open_store(store)
    assert list(sample_items(dataclasses.replace(report, tables=(table,)), results))
    private = dataclasses.replace(table, benchmarks=("gpqa-diamond", AVG))
    assert not list(sample_items(dataclasses.replace(report, tables=(private,)), results))


def test_the_page_is_well_formed(page_file: Path) -> None:
    page = PageReader(page_file.read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= set(page.ids)
