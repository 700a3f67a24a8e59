"""The seeded draw: the `size` rows of a source that come first in an order which only seed and content decide.

Every row gets the rank sha256(seed, sha256(content)). Hashes of distinct contents behave like independent uniform
numbers, so the rows of lowest rank are a uniform sample without replacement, in a uniformly random order; a larger pool extends a
smaller one. Streaming, shards and the order of files change nothing, because a rank does not know where its row stood.
One pass; memory for `size` rows.
"""

from __future__ import annotations

import hashlib
import heapq
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cft_lab.data.rows import SourceRow

RefusalT = TypeVar("RefusalT")
ID_LENGTH = 16  # hex digits: 64 bits; among 10^5 rows two share an id with a chance of 3e-10


@dataclass(frozen=True)
class Drawn(Generic[RefusalT]):
    """The result: (id, row) in the order of their ranks, and what was met up to the last rank drawn.

    `duplicates` are further copies of drawn rows; `refused` has (id, refusal) of the rows that would have been drawn otherwise.
    """

    rows: list[tuple[str, SourceRow]]
    duplicates: int
    refused: list[tuple[str, RefusalT]]


def content_hash(row: SourceRow) -> str:
    """sha256 of question, solution and (where it is read) critique, in which Unicode form and blanks make no difference."""
    texts = [row.question, row.solution] + ([row.critique] if row.critique is not None else [])
    joined = "\x1f".join(" ".join(unicodedata.normalize("NFC", text).split()) for text in texts)
    return hashlib.sha256(joined.encode()).hexdigest()


class Draw(Generic[RefusalT]):
    """Takes rows in any order and keeps the `size` of lowest rank for which `refuse` returns None.

    `refuse` is asked only about rows that would be kept. What it says must follow from the row alone; then the result,
    counts included, does not depend on the order either.
    """

    def __init__(self, size: int, seed: int, refuse: Callable[[SourceRow], RefusalT | None]) -> None:
        self._size, self._seed, self._refuse = size, seed, refuse
        self._kept: dict[int, tuple[str, SourceRow]] = {}
        self._copies: dict[int, int] = {}
        self._refused: dict[int, tuple[str, RefusalT]] = {}
        self._worst_first: list[int] = []  # negated ranks of the kept rows, a heap

    def offer(self, row: SourceRow) -> None:
        """Considers one row."""
        content = content_hash(row)
        rank = int(hashlib.sha256(f"{self._seed}/{content}".encode()).hexdigest()[:32], 16)
        if rank in self._kept:
            self._copies[rank] = self._copies.get(rank, 0) + 1
            key, present = self._kept[rank]
            self._kept[rank] = key, min(present, row, key=repr)  # copies may differ in blanks or gold: any rule, but not the order
            return
        if rank in self._refused or (len(self._kept) == self._size and rank > -self._worst_first[0]):
            return
        key = content[:ID_LENGTH]
        refusal = self._refuse(row)
        if refusal is not None:
            self._refused[rank] = key, refusal
            return
        self._kept[rank] = key, row
        heapq.heappush(self._worst_first, -rank)
        if len(self._kept) > self._size:
            worst = -heapq.heappop(self._worst_first)
            del self._kept[worst]
            self._copies.pop(worst, None)

    def result(self) -> Drawn[RefusalT]:
        """What was drawn so far."""
        ranks = sorted(self._kept)
        last = ranks[-1] if len(ranks) == self._size else None
        refused = [item for rank, item in sorted(self._refused.items()) if last is None or rank < last]
        return Drawn([self._kept[rank] for rank in ranks], sum(self._copies.values()), refused)
