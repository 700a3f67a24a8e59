"""Arms with scores that a test draws, on trainings that it names, without a store."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from cft_lab.report.arms import Arm, Measured, Run
from cft_lab.report.measure import Measures
from cft_lab.results.grades import ItemScores

Cells = dict[tuple[str, str], Mapping[Any, Sequence[np.ndarray]]]  # (row, column) -> training -> scores by benchmark


def made(cells: Cells) -> tuple[Measures, dict[tuple[str, str], Arm], list[str]]:
    """What compares these cells, their arms, and the names of their benchmarks. A training None is an untrained base."""
    kept: dict[str, ItemScores] = {}
    arms = {}
    names: list[str] = []
    for (row, column), runs in cells.items():
        found = []
        for place, (training, benchmarks) in enumerate(runs.items()):
            measured = {}
            names = [f"b{number}" for number in range(len(benchmarks))]
            for name, values in zip(names, benchmarks, strict=True):
                key = f"{row}/{column}/{training}/{name}"
                kept[key] = ItemScores(items_of(len(values)), values, len(values), int(values.sum()), 0)
                measured[name] = Measured(of_any(), key, of_any(), {}, today=True)
            found.append(Run(place, measured, training))
        method = "base" if None in runs else "cft"
        cell, config = SimpleNamespace(row=row, column=column, label=f"{row} {column}"), SimpleNamespace()
        config.method = SimpleNamespace(name=method)
        arms[row, column] = Arm(f"{row}/{column}", of_any(cell), of_any(config), of_any(), runs=tuple(found))
    reader = SimpleNamespace(item_scores=lambda _, key: kept[key])
    return Measures(of_any(SimpleNamespace(reader=reader))), arms, names


@functools.cache
def items_of(count: int) -> tuple[str, ...]:
    return tuple(f"i{place}" for place in range(count))


def of_any(value: Any = None) -> Any:
    return value
