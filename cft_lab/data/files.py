"""Local files: rows of JSONL, Parquet and CSV, and the hash of what a file or folder holds.

JSONL and CSV are read line by line here, because `datasets` gives a whole file up for one bad line: a line that is cut short, is no
JSON object or holds invalid UTF-8 costs that line, and is reported with its number.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from cft_lab.config import DataError
from cft_lab.data.hub import batched_rows, explained
from cft_lab.data.rows import Row, RowError

SUFFIXES = (".jsonl", ".parquet", ".csv")
_LARGEST_CSV_FIELD = 10_000_000  # characters; the csv module's own limit of 131,072 is too short for some solutions


def data_files(path: Path) -> list[Path]:
    """The readable files of a file or folder, sorted; hidden ones are left out. Empty if there are none."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    return [file for file in visible_files(path) if file.suffix in SUFFIXES]


def visible_files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted by path, but for what is hidden or lies in hidden folders."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def read_files(path: Path) -> Iterator[Row | RowError]:
    """The rows of a file or folder, files in sorted order; a RowError stands for a line that could not be read."""
    for file in data_files(path):
        yield from _READERS[file.suffix](file)


def content_sha256(path: Path) -> str:
    """sha256 over the names and contents of a file or of a folder's visible files. Raises DataError if the path does not exist."""
    if not path.exists():
        raise DataError(f"{path} does not exist: name a file or folder")
    if path.is_file():
        return _file_sha256(path, path.stat().st_size, path.stat().st_mtime_ns)
    digest = hashlib.sha256()
    for file in visible_files(path):
        status = file.stat()
        digest.update(f"{file.relative_to(path)}\n{_file_sha256(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=10_000)
def _file_sha256(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _jsonl(file: Path) -> Iterator[Row | RowError]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{file.name}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield RowError("invalid UTF-8", line.decode("utf-8", "replace"), where)
            except (ValueError, RecursionError):
                yield RowError("not JSON (cut short?)", line.decode("utf-8"), where)
            else:
                yield row if isinstance(row, dict) else RowError("not a JSON object", row, where)


def _csv(file: Path) -> Iterator[Row | RowError]:
    csv.field_size_limit(_LARGEST_CSV_FIELD)
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:  # read_row refuses what is escaped
        reader = csv.DictReader(stream)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RowError("not CSV", error, f"{file.name}:{reader.line_num}")
                continue
            if None in row or None in row.values():
                yield RowError("not as many values as columns", "", f"{file.name}:{reader.line_num}")
            else:
                yield row


def _parquet(file: Path) -> Iterator[Row | RowError]:
    with explained(f"data.path={file}"):
        import datasets

        yield from batched_rows(datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True))


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
