"""What every notebook of this project begins with: the store, and the results that it is about."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cft_lab.results.api import Results, open_store

if TYPE_CHECKING:
    import pandas as pd

STORE_VARIABLE = "CFT_LAB_STORE"
_CHOICES = ("model", "method", "data", "responses", "teacher", "inference", "temperature")  # columns that tell arms apart


class NothingToShow(Exception):  # noqa: N818  (it is no failure: a notebook says it and ends)
    """Ends a notebook. Jupyter shows its sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def notebook_store(default: str = "../outputs") -> Results:
    """The store that the environment variable CFT_LAB_STORE names. Raises NothingToShow if it is not there, or has no result."""
    folder = os.environ.get(STORE_VARIABLE) or default
    try:
        results = open_store(folder)
    except FileNotFoundError:
        raise NothingToShow(
            f"There is no store at {folder}. Make one with `make lab`, or set {STORE_VARIABLE} to the output_root of your runs."
        ) from None
    if not results.records:
        told = "".join(f"\n  {problem}" for problem in results.problems)
        raise NothingToShow(
            f"The store at {folder} has no finished result yet. `make lab` makes two, "
            f"`python -m cft_lab status` says what has become of a sweep.{told}"
        )
    return results


def arm(results: Results, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of `cells()` that have these values in these columns. Raises NothingToShow if there is none."""
    cells = results.cells()
    if strange := [name for name in where if name not in cells.columns]:
        raise NothingToShow(f"{', '.join(strange)} is no column of cells(): choose from {', '.join(cells.columns)}")
    found = cells
    for name, value in where.items():
        found = found[found[name] == value]
    if found.empty:
        asked = ", ".join(f"{name}={value!r}" for name, value in where.items())
        there = "\n".join(f"  {label}" for label in cells["label"].drop_duplicates())
        raise NothingToShow(f"No result of {results.root} has {asked}. There are:\n{there}")
    return found


def one_arm(results: Results, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one arm: as `arm`, but raises NothingToShow if what fits differs in more than its seed, with what to choose."""
    found = arm(results, where)
    if found["label"].nunique() > 1:
        told = [name for name in _CHOICES if found[name].nunique(dropna=False) > 1]
        lines = "\n".join(f"  {label}" for label in found["label"].drop_duplicates())
        raise NothingToShow(
            f"{dict(where)} fits {found['label'].nunique()} arms; name one by {', '.join(told) or 'its label'} too:\n{lines}"
        )
    return found
