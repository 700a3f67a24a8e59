"""The notebooks, executed on a small store of real cells: what they show is what the API says."""

from __future__ import annotations

import shutil
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from cells import DEBUG
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT
from cft_lab.hydra_config import compose
from cft_lab.report.build import build
from cft_lab.results import Results, open_store
from cft_lab.results.notebook import NothingToShow, arm, notebook_store, one_arm

NOTEBOOKS = PROJECT_ROOT / "notebooks"
NAMES = ("01_a_cell", "02_tables_and_claims", "03_error_analysis", "04_critique_quality")
#: enough items and tokens that the arms solve a few, not the same ones
OVERRIDES = (*DEBUG, "benchmarks.items=40", "inference.max_new_tokens=100", "train.cpu_threads=1", "engine.cpu_threads=1")
SWEEP = """
caption: Arms of the notebooks
benchmarks: lab
grids:
  - method: [base, sft, cft]
labels:
  - {where: {method: base}, row: Base}
  - {where: {method: sft}, row: SFT}
  - {where: {method: cft}, row: CFT}
deltas:
  - {label: CFT - SFT, first: {method: cft}, rivals: {method: sft}}
"""


@pytest.fixture(scope="module")
def small_store(shared_store: Path, debug_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with base, sft and cft, two seeds each."""
    root = tmp_path_factory.mktemp("notebooks") / "store"
    base = debug_model.parent
    shutil.copytree(base, root / "base_model" / base.name)
    for method in ("base", "sft", "cft"):
        for seed in (0, 1):
            config = compose(*OVERRIDES, f"output_root={root}", f"method={method}", f"seed={seed}")
            pipeline.run(config, lambda line: None)
    return root


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def execute(name: str, store: Path, monkeypatch: pytest.MonkeyPatch, choices: str | None = None) -> list[Any]:
    """The outputs of a notebook, in order; `choices` replaces its cell of choices."""
    book = read(name)
    (chosen,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    chosen.source = chosen.source if choices is None else choices
    for variable, value in {"CFT_LAB_STORE": str(store), "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(variable, value)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    found = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in found if output.get("name") == "stderr"], "no warnings"
    return found


class _Rows(HTMLParser):
    """The texts of the data cells of all tables, by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        self._open = tag == "td" or (self._open and tag not in ("th", "tr"))

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "tr")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data.strip()


def table(outputs: list[Any], *columns: str, without: str = "nothing") -> list[list[str]]:
    """The data cells of the one shown DataFrame that has these columns, and not the other."""
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    named = [{column for column in (*columns, without) if f"<th>{column}</th>" in html} for html in tables]
    (found,) = [html for html, names in zip(tables, named, strict=True) if names == set(columns)]
    parser = _Rows()
    parser.feed(found)
    return [row for row in parser.rows if row]


def markdown(outputs: list[Any]) -> str:
    return "\n".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))


def plots(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_notebooks_are_kept_without_outputs() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES:
        book = read(name)
        nbformat.validate(book)  # type: ignore[no-untyped-call]
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code), f"clear the outputs of {name}"
        assert set(book.metadata) == {"kernelspec", "language_info"}, name


def test_notebooks_stand_on_the_api_only() -> None:
    for name in NAMES:
        source = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
        lines = [line for line in source.splitlines() if "cft_lab" in line]
        assert lines, name
        assert all(line.startswith(("from cft_lab.results", "from cft_lab.report")) for line in lines), name
        assert "open(" not in source
        assert "read_json" not in source


@pytest.mark.slow
def test_a_cell(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = execute("01_a_cell", small_store, monkeypatch, 'CELL = {"method": "cft", "seed": 1}\nSAMPLES = 1')
    results = open_store(small_store)
    key = results.cells().query("method == 'cft' and seed == 1").index[0]
    scores = results.scores().query("result == @key")
    shown = table(outputs, "accuracy", "low", "high", "paper_accuracy")
    assert [[float(text) for text in row[2:5]] for row in shown] == [
        pytest.approx(row, abs=1e-6) for row in scores[["accuracy", "low", "high"]].to_numpy().tolist()
    ]
    losses = [float(row[1]) for row in table(outputs, "step", "loss", "grad_norm")]
    assert losses == pytest.approx(results.training(key).loss.iloc[[0, -1]].tolist(), abs=1e-6)
    assert len(table(outputs, "selected", "correct")) == len(results.selection(key))
    assert plots(outputs) == 3
    for benchmark in scores.benchmark:
        draw = results.texts(key, benchmark).iloc[0]
        assert f"**{draw['item']}** ({draw.subject}): {draw.outcome}, gold `{draw.gold}`" in markdown(outputs)
        assert f"{draw.question}\n\n{draw.text}\n```" in markdown(outputs)


@pytest.mark.slow
def test_a_base_model_has_neither_training_nor_selection(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = markdown(execute("01_a_cell", small_store, monkeypatch, 'CELL = {"method": "base"}\nSAMPLES = 0'))
    assert "No training stands behind this result" in told
    assert "No checkpoint was selected" in told


@pytest.mark.slow
def test_tables_and_claims(small_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = dict(override.split("=", 1) for override in OVERRIDES)
    common = "".join(f"  {name}: '{value}'\n" for name, value in settings.items())
    (tmp_path / "mine.yaml").write_text(f"{SWEEP}common:\n{common}")
    choices = f'from pathlib import Path\nTABLES = ["mine"]\nOPTIONS = {{"folder": Path("{tmp_path}")}}'
    outputs = execute("02_tables_and_claims", small_store, monkeypatch, choices)
    (made,) = build(open_store(small_store), ["mine"], folder=tmp_path).tables
    entries = [entry for row in made.rows for entry in row.entries.values()]  # type: ignore[union-attr]
    assert {entry.state for entry in entries} == {"measured"}
    shown = table(outputs, "benchmark", "mean", "errors")
    for row, entry in zip(shown, entries, strict=True):
        value = entry.value  # type: ignore[union-attr]
        assert row[1:4:2] == [entry.row, entry.benchmark]
        assert [float(text) for text in row[4:]] == pytest.approx(
            [value.mean, value.low, value.high, value.n_items, value.seeds, value.errors], abs=1e-6
        )
    differences = table(outputs, "benchmark", "state", "reason")
    for row, delta in zip(differences, made.deltas, strict=True):  # type: ignore[union-attr]
        assert [float(text) for text in row[4:7]] == pytest.approx([delta.estimate, delta.low, delta.high], abs=1e-6)
    claims = table(outputs, "statement", "verdict")
    assert {row[2] for row in claims} == {"not run"}, "these cells are those of no table of the paper"
    runs = table(outputs, "arm", "result", "commit")
    assert {row[2] for row in runs} == set(open_store(small_store).cells().index)


def shares(results: Results, method: str) -> dict[tuple[str, str], float]:
    """Item -> the share of an arm's draws that are correct, counted one by one."""
    draws = defaultdict(list)
    for row in results.items(list(results.cells().query("method == @method").index)).itertuples():
        draws[row.benchmark, row.item].append(row.outcome == "correct")
    return {item: sum(found) / len(found) for item, found in draws.items()}


@pytest.mark.slow
def test_error_analysis(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = 'FIRST, SECOND, TEXTS = {"method": "sft"}, {"method": "cft"}, 4'
    outputs = execute("03_error_analysis", small_store, monkeypatch, choices)
    results = open_store(small_store)
    first, second = shares(results, "sft"), shares(results, "cft")
    flipped = {item: second[item] - first[item] for item in first if first[item] != second[item]}
    assert flipped, "the two arms of this test solve different items"
    shown = {(row[0], row[1]): row for row in table(outputs, "item", "change", "gold")}
    assert {item: float(row[6]) for item, row in shown.items()} == pytest.approx(flipped)
    counts = table(outputs, "items", "gained", "lost", without="subject")
    for benchmark, counted in zip(results.cells().benchmarks.iloc[0], counts, strict=True):
        own = [change for (name, _), change in flipped.items() if name == benchmark]
        assert [int(text) for text in counted[-2:]] == [sum(change > 0 for change in own), sum(change < 0 for change in own)]
    told = markdown(outputs)
    assert f"### gained: {sum(change > 0 for change in flipped.values())} items" in told
    for benchmark, item in flipped:
        question = results.questions(benchmark).loc[item]
        assert shown[benchmark, item][2] == question.subject
        key = results.cells().query("method == 'cft'").index[0]
        text = results.texts(key, benchmark, [item]).iloc[0]
        assert text.text in told
        assert question.question in told


def test_the_choices_of_a_notebook_name_one_arm_each_of_the_lab_study() -> None:
    """The defaults are for `make lab` and the lab study, whose cells have many arms of one method."""
    (chosen,) = [cell for cell in read("03_error_analysis").cells if "parameters" in cell.metadata.get("tags", ())]
    names: dict[str, Any] = {}
    exec(chosen.source, names)  # noqa: S102  (a cell of our own)
    fields = {"model": "model.name", "temperature": "temperature"}
    for choice in (names["FIRST"], names["SECOND"]):
        asked = [f"{name}={value}" for name, value in choice.items()]
        described = pipeline.describe(compose(*asked))
        assert {name: described[fields.get(name, f"{name}.name")] for name in choice} == choice


@pytest.mark.slow
def test_critique_quality(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = execute("04_critique_quality", small_store, monkeypatch)
    results = open_store(small_store)
    ((key, quality),) = results.critiques().iterrows()
    assert plots(outputs) == 1
    texts = results.critique_texts(str(key))
    counts = [[int(text) for text in row] for row in table(outputs, "All")]
    assert counts[-1][-1] == len(texts) == quality["critiques"]
    assert counts[-1][:2] == [quality["right"], quality["wrong"]]
    agreeing = ((texts.response_outcome == "correct") == texts.verdict).sum()
    assert f"### agrees with the grade: {agreeing}" in markdown(outputs)
    assert texts.critique.iloc[0] in markdown(outputs)


@pytest.mark.slow
def test_a_notebook_on_an_empty_store_ends_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CellExecutionError, match="has no finished result yet") as ended:
        execute("04_critique_quality", tmp_path, monkeypatch)
    assert "Traceback" not in ended.value.traceback


def test_the_store_and_the_arm_of_a_notebook(small_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CFT_LAB_STORE", str(small_store))
    results = notebook_store()
    assert set(arm(results, {"method": "sft"}).seed) == {0, 1}
    with pytest.raises(NothingToShow, match="has method='mix'. There are:\n  lab-debug base\n"):
        arm(results, {"method": "mix"})
    assert len(one_arm(results, {"method": "sft"})) == 2
    with pytest.raises(NothingToShow, match="fits 3 arms; name one by method too:\n  lab-debug base\n"):
        one_arm(results, {"model": "lab-debug"})
    with pytest.raises(NothingToShow, match="colour is no column"):
        arm(results, {"colour": 1})
    monkeypatch.setenv("CFT_LAB_STORE", str(tmp_path / "nowhere"))
    with pytest.raises(NothingToShow, match="There is no store at .*nowhere.*make lab"):
        notebook_store()
    (tmp_path / "result" / "abc").mkdir(parents=True)
    for name in ("manifest.json", "DONE", "result.json"):
        (tmp_path / "result" / "abc" / name).write_text("{")
    monkeypatch.setenv("CFT_LAB_STORE", str(tmp_path))
    with pytest.raises(NothingToShow, match="no finished result yet.*\n  result/abc/manifest.json: it is damaged"):
        notebook_store()
