"""Stores where a field of a record holds what it should not: the record is named, or the field is not read; the rest is told."""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_results import drawn_for, write_cell

from cft_lab.__main__ import main
from cft_lab.hydra_config import compose
from cft_lab.json_files import read_json, write_json
from cft_lab.results import open_store

HUGE = 10**400
VALUES = ("abc", ["abc"], {"abc": 1}, None, -1, math.nan, True, 1.7e308, HUGE)
RATE = {"count": 3, "n": 10, "share": 0.3, "interval": [0.1, 0.6]}
#: stage -> counts of a manifest
COUNTS: dict[str, dict[str, Any]] = {
    "candidates": {"step": 9, "too_long": 0, "supervised_tokens": 1000, "processes": 1, "device": "cpu"},
    "selected": {"step": 9},
    "base_model": {"tokens": 100, "device": "cpu"},
    "examples": {"examples": 10, "dropped": 1},
    "critiques": {"critiques": 10, "right": 4, "wrong": 5, "unparsed": 1, "tokens": 70, "quality": {"agreement": RATE}},
    "problems": {"problems": 10, "rows": 10, "whole_source": True},
}
#: fields of a cell that a report reads; the others are compared with today's, whatever they hold
READ = (
    *("cell.model.name", "cell.model.scale", "cell.method.name", "cell.data.name", "cell.responses.name", "cell.teacher.name"),
    *("cell.inference.name", "cell.temperature", "cell.seed", "cell.benchmarks.names", "cell.benchmarks.paths"),
)
#: what may be null
OPTIONAL = (
    *("cell.data.name", "cell.responses.name", "cell.teacher.name", "cell.benchmarks.paths", "supervised_tokens", "examples"),
    *("scores.0.majority", "scores.0.passed", "scores.0.paper_accuracy", "packages", "commit", "uncommitted_changes"),
    *(f"counts.{name}" for counts in COUNTS.values() for name in counts if name != "processes"),
    *("counts.quality.agreement", "counts.quality.agreement.share", "counts.quality.agreement.interval"),
)
#: what no report reads, and texts and yes-or-no that may be any
FREE = {
    "abc": (
        *("label", "commit", "counts.device", "scores.0.protocol", "cell.model.name", "cell.model.scale", "cell.method.name"),
        *("cell.inference.name", "cell.data.name", "cell.responses.name", "cell.teacher.name"),
    ),
    **dict.fromkeys(("-1", "1.7e+308", str(HUGE)), ("cell.temperature",)),
    "['abc']": ("cell.benchmarks.names",),
    "{'abc': 1}": ("counts", "config", "counts.quality"),
    "True": ("uncommitted_changes", "counts.whole_source"),
}
UNREAD = ("key", "config.", "upstream.", "packages.", "scores.0.sampling.", "counts.problems", "counts.quality.agreement.count")


def paths(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a record, inner ones too; of a cell its fields only."""
    if place:
        yield place
    if place[:1] == ("cell",) and len(place) > 1:
        return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        if place != ("scores",) or name == 0:  # one score is like another
            yield from paths(one, (*place, name))


def mutated(value: Any) -> Iterator[tuple[str, str, Any]]:
    """(place, value, record with it) for every place and value that is not the record's own."""
    for count, place in enumerate(paths(value)):
        unread = place[0] == "cell" and ".".join(map(str, place)) not in READ
        for new in VALUES[count % len(VALUES) :][:1] if unread else VALUES:
            changed = copy.deepcopy(value)
            at = changed
            for name in place[:-1]:
                at = at[name]
            if at[place[-1]] == new and type(at[place[-1]]) is type(new):
                continue
            at[place[-1]] = new
            yield ".".join(map(str, place)), str(new), changed


def may_stand(place: str, value: str) -> bool:
    """Whether a report may say nothing of it."""
    if place.startswith("cell.") and place not in READ:
        return True
    if place in UNREAD or any(place.startswith(name) for name in UNREAD):
        return True
    return place in OPTIONAL if value == "None" else place in FREE.get(value, ())


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with one whole cell of lab/table5, and the key of its result."""
    store = tmp_path_factory.mktemp("strange") / "store"
    config = compose("model=lab-qwen2", "benchmarks=lab", "data=lab-web", "method=cft")
    key = write_cell(store, config, drawn_for(config.benchmarks.names, "cft", 0.5))
    keys = read_json(store / "result" / key / "result.json")["keys"]
    for stage, counts in COUNTS.items():
        folder = store / stage / keys[stage]
        folder.mkdir(parents=True)
        upstream = {"problems": keys["problems"]} if stage == "critiques" else {}
        config_of = {"data.source": "hub", "data.hub_id": "x"} if stage == "problems" else {}
        told = {"stage": stage, "key": keys[stage], "label": stage, "created": "2026-01-02T03:04:05+0000", "seconds": 1.0}
        known = {"counts": counts, "config": config_of, "upstream": upstream, "commit": "abc", "packages": {"torch": "2"}}
        write_json(folder / "manifest.json", told | known | {"uncommitted_changes": False})
        (folder / "DONE").touch()
    return store, key


def strange_store(root: Path, good: Path, key: str) -> dict[str, str]:
    """The good store with a strange record for each mutation; the path of each -> what was done to it."""
    shutil.copytree(good, root)
    made = {}

    def add(stage: str, told: str, files: dict[str, Any]) -> str:
        new = hashlib.sha256(told.encode()).hexdigest()[:16]
        (root / stage / new).mkdir()
        for name, value in files.items():
            (root / stage / new / name).write_text(json.dumps(value))
        (root / stage / new / "DONE").touch()
        return new

    result, manifest = (read_json(good / "result" / key / name) for name in ("result.json", "manifest.json"))
    for place, value, record in mutated(result):
        made[f"result/{add('result', f'{place} {value}', {'result.json': record, 'manifest.json': manifest})}"] = f"{place}={value}"
    for place, value, record in mutated(manifest):
        new = add("result", f"manifest {place} {value}", {"result.json": result, "manifest.json": record})
        made[f"result/{new}"] = f"{place}={value}"
    for stage in COUNTS:
        for place, value, record in mutated(read_json(good / stage / result["keys"][stage] / "manifest.json")):
            new = add(stage, f"{stage} {place} {value}", {"manifest.json": record})
            made[f"{stage}/{new}"] = f"{place}={value}"
            if stage in ("candidates", "selected", "examples") and place.startswith("counts."):  # a page reads them by the result
                keys = result["keys"] | {stage: new}
                add("result", new, {"result.json": result | {"keys": keys}, "manifest.json": manifest})
    return made


@pytest.mark.slow
def test_nothing_strange_stops_a_report_and_what_cannot_be_used_is_named(
    cell: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    made = strange_store(store, *cell)
    assert len(made) > 800
    found = open_store(store)
    assert cell[1] in found.cells().index
    assert {len(frame.columns) > 5 for frame in (found.scores(), found.items(), found.costs(), found.critiques())} == {True}
    for key in found.cells().index:
        assert len(found.selection(key)) == len(found.training(key)) == 0
    named = {problem.path.rpartition("/")[0] for problem in found.problems}
    silent = [told for path, told in made.items() if path not in named]
    assert not [told for told in silent if not may_stand(*told.split("="))]
    assert all(problem.what and problem.remedy for problem in found.problems)

    assert main(["cells", "--store", str(store)]) == 1
    assert cell[1] in capsys.readouterr().out
    assert main(["report", "table1", "lab/table5", "--format", "html", "--store", str(store), "--out", str(tmp_path)]) == 0
    assert main(["report", "table1", "lab/table5", "--format", "md,tex,csv", "--store", str(store)]) == 0
    assert "and " in (said := capsys.readouterr().out)
    assert "more such records" in said


def test_a_result_without_its_manifest_is_named(cell: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(cell[0], tmp_path / "store")
    (tmp_path / "store" / "result" / cell[1] / "manifest.json").unlink()
    found = open_store(tmp_path / "store")
    assert not found.records
    (problem,) = found.problems
    assert str(problem).startswith(f"result/{cell[1]}/manifest.json: manifest.json is not there; delete the folder")
