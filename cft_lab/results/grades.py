"""Scores of items from grades: the unit of every interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cft_lab.grade_columns import OUTCOMES, GradeColumns
from cft_lab.records import Outcome

if TYPE_CHECKING:
    import numpy as np

CORRECT, ERROR = OUTCOMES.index(Outcome.CORRECT), OUTCOMES.index(Outcome.ERROR)


@dataclass(frozen=True)
class ItemScores:
    """One run on one benchmark. `values` [items] is the share of an item's draws that are correct.

    An item with an error among its draws was not measured: its value is NaN. `draws`, `correct` and `errors` count
    draws.
    """

    items: tuple[str, ...]
    values: np.ndarray
    draws: int
    correct: int
    errors: int

    def with_items(self, items: tuple[str, ...]) -> ItemScores:
        """The same with an equal tuple of items."""
        return replace(self, items=items)


def scores_of(columns: GradeColumns) -> ItemScores:
    """The items' scores, in the order in which items first appear."""
    import numpy as np

    correct, error = columns.outcome == CORRECT, columns.outcome == ERROR
    if columns.sample.any():  # several draws of an item
        places: dict[str, int] = {}
        index = np.array([places.setdefault(item, len(places)) for item in columns.items], np.int64)
        items = tuple(places)
    else:
        items, index = columns.items, np.arange(len(columns.items))
        if len(set(items)) != len(items):
            raise ValueError("an item has two grades of the same draw")

    draws = np.bincount(index, minlength=len(items))
    values = np.bincount(index, correct.astype(float), len(items)) / np.maximum(draws, 1)
    values[np.bincount(index, error.astype(float), len(items)) > 0] = np.nan
    return ItemScores(items, values, len(columns.items), int(correct.sum()), int(error.sum()))
