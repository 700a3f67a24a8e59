"""Reads what is in a store without ever failing on one bad record: what cannot be read is told, the rest is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cft_lab.grade_columns import OUTCOMES, GradeColumns, read_columns
from cft_lab.json_files import read_json
from cft_lab.records import Outcome, Result, Score, from_row
from cft_lab.results.checks import check_manifest, check_result
from cft_lab.results.grades import CORRECT, ERROR, ItemScores, scores_of
from cft_lab.stages import RESULT
from cft_lab.store import DONE, MANIFEST, PRUNED

_STRANGE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
_AGAIN = "delete the folder and run the cell again, or import it again"
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """Something in a store that cannot be used: where, what is wrong, and what to do about it."""

    path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class CellRecord:
    """A finished cell: the key of its result, the result, and the manifest of its result stage."""

    key: str
    result: Result
    manifest: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The seed of training order and evaluation sampling."""
        return int(self.result.cell.get("seed", 0))


class StoreReader:
    """Everything is read when it is asked for, and once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._problems: dict[Problem, None] = {}
        self._manifests: dict[tuple[str, str], Mapping[str, Any] | None] = {}
        self._scores: dict[str, ItemScores | None] = {}
        self._known_items: dict[tuple[str, ...], tuple[str, ...]] = {}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be read so far."""
        return tuple(self._problems)

    def note(self, path: Path, what: str, remedy: str = _AGAIN) -> None:
        """Notes a problem, once."""
        shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        self._problems[Problem(str(shown).encode("utf-8", "replace").decode(), what, remedy)] = None

    def attempt(self, path: Path, read: Callable[[], T], remedy: str = _AGAIN) -> T | None:
        """What `read` returns; None, with a problem noted, if the file or its contents are strange."""
        try:
            return read()
        except _STRANGE as error:
            self.note(path, _told(error), remedy)
            return None

    @cached_property
    def records(self) -> tuple[CellRecord, ...]:
        """Every readable result, oldest first."""
        found = []
        for folder in sorted({mark.parent for name in (DONE, PRUNED) for mark in self.root.glob(f"result/*/{name}")}):
            manifest = self.manifest("result", folder.name)
            if manifest is None and not (folder / MANIFEST).exists():
                self.note(folder / MANIFEST, f"{MANIFEST} is not there")
                continue
            result = self.attempt(folder / RESULT, lambda folder=folder: _result(folder / RESULT))  # type: ignore[misc]
            if manifest is not None and result is not None:
                found.append(CellRecord(folder.name, result, manifest))
        return tuple(sorted(found, key=lambda record: (str(record.manifest["created"]), record.key)))

    def manifest(self, stage: str, key: str) -> Mapping[str, Any] | None:
        """The manifest of a stage; None if it is not there, or unreadable, which is noted."""
        place = (stage, key)
        if place not in self._manifests:
            path = self.root / stage / key / MANIFEST
            self._manifests[place] = self.attempt(path, lambda: _manifest(path)) if path.exists() else None
        return self._manifests[place]

    def item_scores(self, score: Score, key: str) -> ItemScores | None:
        """The items' scores of a scores stage; None, with a problem noted, if its grades cannot be read or are not its score's."""
        if key not in self._scores:
            folder = self.root / "scores" / key
            self._scores[key] = self.attempt(folder, lambda: self._checked(folder, score), self._remake(key))
        return self._scores[key]

    def _remake(self, key: str) -> str:
        """How scores are made again, and the results that have copied them: either may be what is damaged."""
        folders = [f"scores/{key}", *(f"result/{result}" for result in self._results_on.get(key, ()))]
        return f"delete {' and '.join(folders)}, and run the cell again, or import it again"

    @cached_property
    def _results_on(self) -> Mapping[str, list[str]]:
        """Scores key -> the results that name it."""
        found: dict[str, list[str]] = {}
        for record in self.records:
            for score in record.result.scores:
                found.setdefault(record.result.keys[f"scores/{score.benchmark}"], []).append(record.key)
        return found

    def _checked(self, folder: Path, score: Score) -> ItemScores:
        columns = read_columns(folder)
        found = scores_of(columns)
        graded, recorded = _told_grades(columns, found), _told_score(score)
        if unlike := [name for name, value in recorded.items() if not _same(value, graded[name])]:
            told = [f"{name} {graded[name]} (not {recorded[name]})" for name in unlike]
            raise ValueError(f"its grades are not those of its score: {', '.join(told)}")
        items = self._known_items.setdefault(found.items, found.items)  # one tuple for all cells: compared by `is`
        return found.with_items(items)

    def folder(self, stage: str, key: str) -> Path:
        """Where a stage lies."""
        return self.root / stage / key


def _manifest(path: Path) -> Mapping[str, Any]:
    told: Mapping[str, Any] = read_json(path)
    check_manifest(told, path.parent.parent.name)
    return told


def _result(path: Path) -> Result:
    result = from_row(Result, read_json(path))
    check_result(result)
    return result


def _told_score(score: Score) -> dict[str, float | None]:
    """What a score says that its grades say too."""
    names = ("correct", "unparsed", "truncated", "errors", "accuracy", "paper_accuracy")
    return {"n": score.n, **{name: getattr(score, name) for name in names}}


def _told_grades(columns: GradeColumns, scores: ItemScores) -> dict[str, float | None]:
    """The same from grades."""
    import numpy as np

    measured = scores.values[~np.isnan(scores.values)]
    paper = columns.paper[(columns.paper >= 0) & (columns.paper != ERROR)]
    return {
        "n": scores.draws,
        "correct": scores.correct,
        "unparsed": int((columns.outcome == OUTCOMES.index(Outcome.UNPARSED)).sum()),
        "truncated": int((columns.outcome == OUTCOMES.index(Outcome.TRUNCATED)).sum()),
        "errors": scores.errors,
        "accuracy": float(measured.mean()) if len(measured) else None,
        "paper_accuracy": float((paper == CORRECT).mean()) if len(paper) else None,
    }


def _same(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, abs_tol=1e-9)


def _told(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(str(error.filename)).name} is not there"
    if isinstance(error, TypeError) and "unexpected keyword" in str(error):
        return f"it was written by another version of cft_lab ({error})"
    if isinstance(error, TypeError) and "missing" in str(error):
        return f"it was written by another version of cft_lab, or is damaged ({error})"
    return f"it is damaged ({type(error).__name__}: {error})"
