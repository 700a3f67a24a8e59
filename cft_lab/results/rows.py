"""One row of each DataFrame, from the records of a store; the columns are those that `api.Results` names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cft_lab.json_files import parse_json
from cft_lab.records import Generation, Grade, Problem, Score
from cft_lab.results.checks import RATES
from cft_lab.results.store_reader import CellRecord

#: column of `cells` -> field of the config
_FIELDS = {
    "model": "model.name",
    "method": "method.name",
    "data": "data.name",
    "responses": "responses.name",
    "teacher": "teacher.name",
    "inference": "inference.name",
    "temperature": "temperature",
    "seed": "seed",
    "scale": "model.scale",
}
_LABELS = ("model.name", "method.name")  # what every label has
#: config choices that a label has if cells differ in them
_CHOICES = {
    **{f"{name}.name": name for name in ("data", "responses", "teacher", "inference")},
    "temperature": "temperature",
}
_OF_EVERY_METHOD = ("inference.name", "temperature")  # the base model was trained on nothing, by nobody
_UNTOLD = ("seed", "output_root", "progress", "benchmarks.names")  # what no label has
CELL_COLUMNS = (
    *("result", "label", *_FIELDS),
    *("examples", "supervised_tokens", "accuracy", "benchmarks", "created", "commit"),
)
SCORE_COLUMNS = (
    *("result", "benchmark", "scores", "n", "samples", "accuracy", "low", "high"),
    *("paper_accuracy", "majority", "passed", "unparsed", "truncated", "errors"),
)
_TRAININGS = ("base_model", "candidates")  # their counts of tokens are of what they were trained on
COST_COLUMNS = (
    *("key", "stage", "label", "created", "seconds", "device", "gpus", "gpu_hours", "usd"),
    *("tokens", "prompt_tokens", "trained_tokens", "supervised_tokens", "results"),
)
TEXT_COLUMNS = (
    *("item", "sample", "question", "gold", "text", "finish", "turns"),
    *("extracted", "outcome", "paper_outcome", "subject", "level"),
)
CRITIQUE_COLUMNS = (
    *("key", "teacher", "problems", "critiques", "right", "wrong", "unparsed"),
    *(f"{rate}{part}" for rate in RATES for part in ("", "_low", "_high", "_n")),
)


def differing(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which cells differ, besides those that labels never tell."""
    names = dict.fromkeys(name for cell in cells for name in cell)
    return [
        name
        for name in names
        if name not in _UNTOLD and len({json.dumps(cell.get(name), sort_keys=True, default=str) for cell in cells}) > 1
    ]


def labels(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each cell: model, method, the choices in which the cells differ, and what differs between cells of one name."""
    told = [name for name in _CHOICES if name in differing(cells)]
    named = [_label(cell, told) for cell in cells]
    for name in {name for name in named if named.count(name) > 1}:
        places = [place for place, other in enumerate(named) if other == name]
        rest = differing([cells[place] for place in places])
        for place in places:
            named[place] = " ".join([name, *(f"{field}={cells[place].get(field)}" for field in rest)])
    return named


def _label(cell: Mapping[str, Any], told: Sequence[str]) -> str:
    kept = [name for name in told if cell.get("method.name") != "base" or name in _OF_EVERY_METHOD]
    return " ".join([str(cell.get(name)) for name in _LABELS] + [f"{_CHOICES[name]}={cell.get(name)}" for name in kept])


def cell_row(record: CellRecord, label: str) -> dict[str, Any]:
    """A row of `cells`."""
    result = record.result
    values = [score.accuracy for score in result.scores]
    known = [value for value in values if value is not None]
    return {
        "result": record.key,
        "label": label,
        **{column: result.cell.get(name) for column, name in _FIELDS.items()},
        "examples": result.examples,
        "supervised_tokens": result.supervised_tokens,
        "accuracy": math.fsum(known) / len(known) if known and len(known) == len(values) else None,
        "benchmarks": tuple(score.benchmark for score in result.scores),
        "created": record.manifest["created"],
        "commit": record.manifest.get("commit"),
    }


def score_row(record: CellRecord, score: Score) -> dict[str, Any]:
    """A row of `scores`."""
    low, high = score.interval or (None, None)
    return {
        "result": record.key,
        "scores": record.result.keys[f"scores/{score.benchmark}"],
        "low": low,
        "high": high,
    } | {name: getattr(score, name) for name in SCORE_COLUMNS if name not in ("result", "scores", "low", "high")}


def cost_row(key: str, manifest: Mapping[str, Any], results: int) -> dict[str, Any]:
    """A row of `costs`."""
    counts, seconds = manifest["counts"], float(manifest["seconds"])
    device, trains = counts.get("device"), manifest["stage"] in _TRAININGS
    gpus = None if device is None else 0 if device == "cpu" else int(counts.get("processes", 1))
    return {
        "key": key,
        **{name: manifest[name] for name in ("stage", "label", "created")},
        "seconds": seconds,
        "device": device,
        "gpus": gpus,
        "gpu_hours": None if gpus is None else gpus * seconds / 3600,
        "usd": counts.get("cost_usd"),
        "tokens": None if trains else counts.get("tokens"),
        "trained_tokens": counts.get("tokens") if trains else None,
        **{name: counts.get(name) for name in ("prompt_tokens", "supervised_tokens")},
        "results": results,
    }


def text_row(row: Generation, grade: Grade | None, question: Problem | None) -> dict[str, Any]:
    """A row of `texts`."""
    return {
        "item": row.problem_id,
        "sample": row.sample,
        "question": question.question if question else None,
        "gold": question.answer if question else None,
        "text": row.final_text,
        "finish": row.finish,
        "turns": len(row.turns),
        "extracted": grade.extracted if grade else None,
        "outcome": grade.outcome.value if grade else None,
        "paper_outcome": grade.paper.value if grade and grade.paper else None,
        "subject": question.subject if question else None,
        "level": question.level if question else None,
    }


def critique_row(key: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `critiques`."""
    counts = manifest["counts"]
    row = {"key": key, "teacher": manifest["label"], "problems": manifest["upstream"]["problems"]}
    row |= {name: counts.get(name) for name in ("critiques", "right", "wrong", "unparsed")}
    for rate in RATES:
        told = (counts.get("quality") or {}).get(rate) or {"share": None, "interval": None, "n": 0}
        low, high = told["interval"] or (None, None)
        row |= {rate: told["share"], f"{rate}_low": low, f"{rate}_high": high, f"{rate}_n": told["n"]}
    return row


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [parse_json(line) for line in file]
