"""Reads what is in a store without ever failing on one bad record: what cannot be read is told, the rest is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.records import Result


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
