"""What the page says of training examples and critiques: what each stage is made of, in words that tell stages apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.report.page_parts import number, whole
from cft_lab.report.tables import Report
from cft_lab.results import Results

ORACLES = ("oracle", "weak-oracle")  # the lab's teachers, which read steps


@dataclass(frozen=True)
class Origin:
    """What a stage stands on, as names: the data set, who wrote the responses, who judged or answered; empty if unknown."""

    data: str
    responses: str
    teacher: str


@dataclass(frozen=True)
class DataPart:
    """The examples that arms were trained on: how many, how many rows the method dropped; None where not recorded.

    `models` are the base models that were trained on them.
    """

    key: str
    method: str
    origin: Origin
    models: tuple[str, ...]
    examples: int | None
    dropped: int | None
    too_long: int | None


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval and the number of rows that it is a share of; None if not measured."""

    share: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class CritiquePart:
    """How good the critiques of one stage are."""

    key: str
    origin: Origin
    critiques: int | None
    right: int | None
    wrong: int | None
    unparsed: int | None
    agreement: Rate
    false_right: Rate
    false_wrong: Rate


@dataclass(frozen=True)
class KeyLine:
    """The record of a stage that numbers of this section come from. `upstream` has the keys that it stands on, by stage."""

    stage: str
    key: str
    created: str
    commit: str
    upstream: Mapping[str, str]


def data_parts(report: Report, results: Results) -> list[DataPart]:
    """The examples of every arm, each stage once."""
    models = {record.key: str(record.result.cell.get("model.name") or "") for record in results.records}
    runs = [run for trace in report.arms.values() for run in trace.runs]
    found = []
    for key in dict.fromkeys(run.keys["examples"] for run in runs if "examples" in run.keys):
        manifest = results.reader.manifest("examples", key)
        if manifest is None:
            continue
        own = [run for run in runs if run.keys.get("examples") == key]
        trained = results.reader.manifest("candidates", own[0].keys.get("candidates", "-"))
        found.append(
            DataPart(
                key,
                method=str((manifest.get("config") or {}).get("method") or manifest.get("label") or ""),
                origin=_origin(results, manifest),
                models=tuple(dict.fromkeys(filter(None, (models.get(run.result) for run in own)))),
                examples=manifest["counts"].get("examples"),
                dropped=manifest["counts"].get("dropped"),
                too_long=trained["counts"].get("too_long") if trained else None,
            )
        )
    return found


def critique_parts(results: Results) -> list[CritiquePart]:
    """Quality of every critiques stage of the store."""
    frame = results.critiques()
    return [
        CritiquePart(
            key=str(key),
            origin=_origin(results, results.reader.manifest("critiques", str(key)) or {}, teacher=str(row["teacher"])),
            critiques=whole(row["critiques"]),
            right=whole(row["right"]),
            wrong=whole(row["wrong"]),
            unparsed=whole(row["unparsed"]),
            agreement=_rate(row, "agreement"),
            false_right=_rate(row, "false_right"),
            false_wrong=_rate(row, "false_wrong"),
        )
        for key, row in zip(frame.index, frame.to_dict("records"), strict=True)
    ]


def key_lines(results: Results, data: Iterable[DataPart], critiques: Iterable[CritiquePart]) -> list[KeyLine]:
    """The stages of these parts."""
    found = []
    for stage, key in (*(("examples", part.key) for part in data), *(("critiques", part.key) for part in critiques)):
        told = results.reader.manifest(stage, key) or {"upstream": {}}
        upstream = {str(name): str(value) for name, value in told["upstream"].items() if value}
        found.append(KeyLine(stage, key, str(told.get("created", "")), str(told.get("commit") or "not recorded"), upstream))
    return found


def _origin(results: Results, manifest: Mapping[str, Any], teacher: str = "") -> Origin:
    upstream = manifest.get("upstream") or {}
    data, responses = _label(results, "problems", upstream.get("problems")), _responses(results, upstream.get("responses"))
    judged = _label(results, "critiques", upstream.get("critiques")) or _label(results, "answers", upstream.get("responses"))
    return Origin(data, responses, teacher or judged)


def _responses(results: Results, key: str | None) -> str:
    """Whose responses they are."""
    told = results.reader.manifest("responses", key or "-")
    if told is None:
        return "the teacher's" if _label(results, "answers", key) else ""
    kind = str((told.get("config") or {}).get("kind") or "")
    if kind == "self":
        base = _label(results, "base_model", told["upstream"].get("base"))
        return f"self-generated by {base}" if base else "self-generated"
    return "the data set's own" if kind == "reference" else str(told.get("label") or kind)


def _label(results: Results, stage: str, key: str | None) -> str:
    told = results.reader.manifest(stage, key or "-")
    return str(told.get("label") or "") if told else ""


def _rate(row: Mapping[Any, object], name: str) -> Rate:
    share, low, high = (number(row[f"{name}{part}"]) for part in ("", "_low", "_high"))
    return Rate(share, low, high, whole(row[f"{name}_n"]) or 0)
