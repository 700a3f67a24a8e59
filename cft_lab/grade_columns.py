"""Grades as columns: which item, which draw, what outcome; no texts.

A scores stage has `grades.jsonl`, which says everything, and `grades.parquet` beside it, which says this and is read a hundred
times faster. Stages that were made before it existed, or whose file is damaged, are read from their lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.json_files import read_records
from cft_lab.records import Grade, Outcome

if TYPE_CHECKING:
    import numpy as np

LINES, COLUMNS = "grades.jsonl", "grades.parquet"
OUTCOMES = tuple(Outcome)
_NONE = -1  # the code of an outcome that is not there: graded before the paper's grader existed


@dataclass(frozen=True)
class GradeColumns:
    """The grades of one benchmark, one place for each draw [draws]. `outcome` and `paper` are places in OUTCOMES; -1 is none."""

    items: tuple[str, ...]
    sample: np.ndarray
    outcome: np.ndarray
    paper: np.ndarray


def write_columns(folder: Path, columns: GradeColumns) -> None:
    """Writes the columns of a scores stage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pa.array([outcome.value for outcome in OUTCOMES], pa.string())

    def outcomes(codes: np.ndarray) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8(), mask=codes == _NONE), names)

    table = pa.table(
        {
            "item": pa.array(columns.items, pa.string()),
            "sample": pa.array(columns.sample, pa.int32()),
            "outcome": outcomes(columns.outcome),
            "paper": outcomes(columns.paper),
        }
    )
    pq.write_table(table, folder / COLUMNS)


def read_columns(folder: Path) -> GradeColumns:
    """The columns of a scores stage, from its lines if it has no columns, or unreadable ones.

    Raises OSError, ValueError, TypeError or KeyError if neither can be read.
    """
    if (folder / COLUMNS).exists():
        try:
            return _from_parquet(folder / COLUMNS)
        except (OSError, ValueError, KeyError):
            if not (folder / LINES).exists():
                raise
    return columns_of(read_records(folder / LINES, Grade))


def columns_of(grades: Sequence[Grade]) -> GradeColumns:
    """The columns of grades."""
    import numpy as np

    codes: dict[Outcome | None, int] = {outcome: place for place, outcome in enumerate(OUTCOMES)} | {None: _NONE}
    if strange := [grade.problem_id for grade in grades if not isinstance(grade.problem_id, str)]:
        raise TypeError(f"problem_id is {strange[0]!r}, not a text")
    return GradeColumns(
        tuple(grade.problem_id for grade in grades),
        np.array([grade.sample for grade in grades], np.int32),
        np.array([codes[grade.outcome] for grade in grades], np.int8),
        np.array([codes[grade.paper] for grade in grades], np.int8),
    )


def pooled(runs: Sequence[GradeColumns]) -> GradeColumns:
    """The grades of several runs on one benchmark, the draws of each numbered on from those of the run before it."""
    import numpy as np

    first = np.cumsum([0, *(run.sample.max(initial=-1) + 1 for run in runs)])
    return GradeColumns(
        tuple(item for run in runs for item in run.items),
        np.concatenate([run.sample + start for run, start in zip(runs, first[:-1], strict=True)]),
        np.concatenate([run.outcome for run in runs]),
        np.concatenate([run.paper for run in runs]),
    )


def _from_parquet(path: Path) -> GradeColumns:
    """Arrow's errors for what is no such file are ValueError, OSError and KeyError."""
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=["outcome", "paper"]) as file:
        table = file.read(use_threads=False).combine_chunks()
    return GradeColumns(
        tuple(table["item"].to_pylist()),
        table["sample"].to_numpy().astype(np.int32),
        _codes(table["outcome"]),
        _codes(table["paper"]),
    )


def _codes(column: Any) -> np.ndarray:
    import numpy as np

    encoded = column.combine_chunks()
    if hasattr(encoded, "chunks"):  # an empty column has no chunk to take
        return np.array([], np.int8)
    places = np.array([OUTCOMES.index(Outcome(name)) for name in encoded.dictionary.to_pylist()] + [_NONE], np.int8)
    indices = encoded.indices.fill_null(len(places) - 1).to_numpy()
    codes: np.ndarray = places[indices]
    return codes
