"""JSON on disk: single values, lists of records, and journals that outlive kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cft_lab.records import from_row, to_row

RecordT = TypeVar("RecordT")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the beginning of an escaped surrogate


class Journal:
    """An append-only file of JSON rows that outlives kill -9: each row reaches the operating system as it is added.

    A row torn by a kill is cut off on opening, so that the next one starts on a fresh line. Rows stay on disk and are
    found again by their place, so that a long journal costs no memory. Use as a context manager; leaving it syncs the file.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """`read_only` leaves the file as it is, torn row and all: another process may be writing it."""
        self._path = path
        self._file = path.open("rb" if read_only else "a+b")
        self._end = 0
        if read_only:
            return
        with path.open("rb") as file:
            for line in file:
                self._end += len(line) if line.endswith(b"\n") else 0
        self._file.truncate(self._end)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file.writable():
            os.fsync(self._file.fileno())
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> int:
        """Adds a row and returns its place."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="replace")  # lone surrogates are not UTF-8
        self._file.write(line)
        self._file.flush()
        place, self._end = self._end, self._end + len(line)
        return place

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every row with its place, oldest first. A line that a disk has spoiled is passed over: its row is made again."""
        place = 0
        with self._path.open("rb") as file:
            for line in file:
                row = None
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                if row is not None:
                    yield place, row
                place += len(line)

    def read(self, place: int) -> dict[str, Any]:
        """The row at a place that `append` or `rows` named."""
        self._file.seek(place)
        row: dict[str, Any] = json.loads(self._file.readline())
        return row


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that readers see the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """A value from its JSON. Half a surrogate pair, which no file could take, becomes a question mark."""
    value = json.loads(text)
    return _encodable(value) if _HALF.search(text) else value


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_encodable(one) for one in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(one) for name, one in value.items()}
    return value


def write_records(path: Path, records: Iterable[Any]) -> int:
    """Writes records as JSON lines and returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", errors="replace") as file:
        for record in records:
            file.write(json.dumps(to_row(record), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_records(path: Path, kind: type[RecordT]) -> list[RecordT]:
    """Reads what `write_records` wrote."""
    with path.open(encoding="utf-8") as file:
        return [from_row(kind, parse_json(line)) for line in file]
