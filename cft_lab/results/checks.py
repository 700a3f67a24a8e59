"""Whether what parses as JSON is a record: fields of the right types, counts that can be, shares between 0 and 1.

Every function raises ValueError with the field and its value. What is checked is what a report reads.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from cft_lab.records import Generation, Result, Sampling, Score

_KEY = re.compile(r"[0-9a-f]{1,64}")  # it becomes a path
_HINTS = {kind: typing.get_type_hints(kind) for kind in (Result, Score, Sampling)}
_CELL: Mapping[str, Any] = {
    **dict.fromkeys(("model.name", "model.scale", "method.name", "inference.name"), str),
    **dict.fromkeys(("data.name", "responses.name", "teacher.name"), str | None),
    "temperature": float,
    "seed": int,
    "benchmarks.names": list[str],
    "benchmarks.paths": dict[str, str] | None,
}
_MANIFEST: Mapping[str, Any] = {
    **dict.fromkeys(("stage", "label", "created"), str),
    "seconds": float,
    "counts": dict,
    "upstream": dict[str, str],
}
_MANIFEST_MAY_HAVE: Mapping[str, Any] = {
    "config": dict,
    "packages": dict[str, str] | None,
    "commit": str | None,
    "uncommitted_changes": bool | None,
}
_COUNTS: Mapping[str, Any] = {
    **dict.fromkeys(("tokens", "prompt_tokens", "supervised_tokens"), int | None),
    **dict.fromkeys(("critiques", "right", "wrong", "unparsed", "examples", "dropped", "too_long", "step", "rows"), int | None),
    "processes": int,
    "cost_usd": float | None,
    "device": str | None,
    "whole_source": bool | None,
    "quality": dict | None,
}
_MOST = 10**15  # of anything that is counted or measured here: beyond it a number is damaged
RATES = ("agreement", "false_right", "false_wrong")  # of critiques: counts.quality
_RATE: Mapping[str, Any] = {"share": float | None, "interval": list[float] | None, "n": int}


def check_result(result: Result) -> None:
    """Checks a result and its scores."""
    _refuse(_misfits(result))
    _refuse(f"cell.{name} is missing" for name in ("model.name", "method.name") if name not in result.cell)
    _refuse(_unlike(result.cell, _CELL, "cell."))
    _refuse(f"the key of {name} is {key!r}" for name, key in result.keys.items() if not _KEY.fullmatch(key))
    numbers = {"supervised_tokens": result.supervised_tokens, "examples": result.examples, "seed": result.cell.get("seed")}
    _refuse(_out_of_range(numbers))
    names = [score.benchmark for score in result.scores]
    _refuse(f"it has {names.count(name)} scores on {name}" for name in names if names.count(name) > 1)
    for score in result.scores:
        for stage in ("scores", "generations"):
            if f"{stage}/{score.benchmark}" not in result.keys:
                raise ValueError(f"it has a score on {score.benchmark} without the key of its {stage} stage")
        _refuse(f"its score on {score.benchmark}: {told}" for told in _strange_score(score))


def check_manifest(told: Any, stage: str) -> None:
    """Checks the manifest of a stage."""
    if not isinstance(told, dict):
        raise ValueError("it is no manifest of a stage")
    _refuse(f"{name} is missing" for name in _MANIFEST if name not in told)
    _refuse(_unlike(told, {**_MANIFEST, **_MANIFEST_MAY_HAVE}))
    if told["stage"] != stage:
        raise ValueError(f"it is the manifest of a stage {told['stage']}")
    datetime.fromisoformat(told["created"])  # ValueError
    counts = told["counts"]
    _refuse(_unlike(counts, _COUNTS, "counts."))
    _refuse(_out_of_range({"seconds": told["seconds"], **{f"counts.{name}": counts.get(name) for name in _COUNTS}}))
    if counts.get("whole_source") and (counts.get("rows") is None or "config" not in told):
        raise ValueError("counts.rows is missing, or config")
    quality = counts.get("quality") or {}
    for name in RATES:
        if name in quality:
            _refuse(_strange_rate(quality[name], f"counts.quality.{name}"))


def check_rows(rows: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows that have numbers under these names: a `step`, which is finite; a `loss`, which may be none where a training diverged;
    `correct` of `n`.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of rows")
    for place, row in enumerate(rows):
        _refuse(
            f"row {place}: {name} is {_short(row.get(name))}, not a number"
            for name in names
            if not isinstance(row.get(name), (int, float)) or isinstance(row[name], bool)
        )
        _refuse(f"row {place}: {told}" for told in _out_of_range({name: row[name] for name in names if name != "loss"}))
        if "loss" in names and math.isfinite(row["loss"]):
            _refuse(f"row {place}: {told}" for told in _out_of_range({"|loss|": abs(row["loss"])}))
        if "n" in names and not 0 < row["n"] >= row["correct"]:
            raise ValueError(f"row {place}: correct is {_short(row['correct'])} of n={_short(row['n'])}")
    return rows


def check_texts(generation: Generation) -> None:
    """Checks what is shown of a generation: its texts."""
    turns = [turn.completion.text for turn in generation.turns]
    _refuse(f"a text is {_short(text)}, not str" for text in (generation.final_text, *turns) if not isinstance(text, str))


def _strange_rate(rate: Any, name: str) -> Iterator[str]:
    if not isinstance(rate, dict) or not rate.keys() >= _RATE.keys():
        yield f"{name} is {_short(rate)}"
        return
    yield from _unlike(rate, _RATE, f"{name}.")
    low, high = rate["interval"] or (0.0, 1.0)
    if not 0 <= rate["n"] < _MOST or not 0 <= low <= high <= 1 or not (rate["share"] is None or 0 <= rate["share"] <= 1):
        yield f"{name} is {_short(rate)}"


def _strange_score(score: Score) -> Iterator[str]:
    counts = ("n", "correct", "unparsed", "truncated", "errors")
    yield from _out_of_range({name: getattr(score, name) for name in counts})
    if sum(getattr(score, name) for name in counts[1:]) > score.n or not 1 <= score.samples <= max(score.n, 1):
        yield f"counts do not add up: {', '.join(f'{name}={getattr(score, name)}' for name in (*counts, 'samples'))}"
    for name in ("accuracy", "majority", "passed", "paper_accuracy"):
        value = getattr(score, name)
        if value is not None and not 0 <= value <= 1:
            yield f"{name} is {value}, not a share"
    if (score.accuracy is None) != (score.interval is None) or (score.accuracy is None and score.n > score.errors):
        yield f"accuracy is {score.accuracy}, its interval {score.interval}"
    if score.interval is not None and score.accuracy is not None:
        if not 0 <= score.interval[0] <= score.accuracy <= score.interval[1] <= 1:
            yield f"accuracy is {score.accuracy}, its interval {score.interval}"
        if score.samples == 1 and not math.isclose(score.accuracy * (score.n - score.errors), score.correct, abs_tol=1e-6):
            yield f"accuracy is {score.accuracy}, where {score.correct} of {score.n - score.errors} are correct"


def _refuse(problems: Iterator[str]) -> None:
    if (first := next(problems, None)) is not None:
        raise ValueError(first)


def _out_of_range(numbers: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that are negative, beyond all measure, or none."""
    return (
        f"{name} is {_short(value)}"
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and not 0 <= value < _MOST
    )


def _unlike(values: Mapping[str, Any], kinds: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Fields that are there and not of their kind."""
    for name, kind in kinds.items():
        if name in values and not fits(values[name], kind):
            yield f"{prefix}{name} is {_short(values[name])}, not {_name(kind)}"


def _misfits(record: Any, prefix: str = "") -> Iterator[str]:
    """Fields of a record, and of the records in it, that are not of their annotated types."""
    for name, kind in _HINTS[type(record)].items():
        value = getattr(record, name)
        if isinstance(value, tuple) and value and all(dataclasses.is_dataclass(one) for one in value):
            for place, one in enumerate(value):
                yield from _misfits(one, f"{prefix}{name}[{place}].")
        elif dataclasses.is_dataclass(value):
            yield from _misfits(value, f"{prefix}{name}.")
        elif not fits(value, kind):
            yield f"{prefix}{name} is {_short(value)}, not {_name(kind)}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type. A float is finite, and may be an int; a bool is no number."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin is types.UnionType:
        return any(fits(value, one) for one in parts)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, parts[1]) for one in value.values())
    if origin is list:
        return isinstance(value, list) and all(fits(one, parts[0]) for one in value)
    if origin is tuple:
        kinds = parts if parts[-1] is not Ellipsis else parts[:1] * (len(value) if isinstance(value, tuple) else 0)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
