"""Local files: rows of JSONL, Parquet and CSV, and the hash of what a file or folder holds.

JSONL and CSV are read line by line here, because `datasets` gives a whole file up for one bad line: a line that is cut short, is no
JSON object or holds invalid UTF-8 costs that line, and is reported with its number. The exception is a CSV file in which a quote is
not closed: it might swallow any number of rows, and nothing tells where the next one begins, so such a file is refused.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import DataError
from cft_lab.data.rows import Found, Row, RowError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

SUFFIXES = (".jsonl", ".parquet", ".csv")
_LARGEST_CSV_FIELD = 10_000_000  # characters; the csv module's own limit of 131,072 is too short for some solutions
_BATCH = 1000  # rows decoded at once; row by row is six times slower


def data_files(path: Path) -> list[Path]:
    """The readable files of a file or folder, sorted; hidden ones are left out. Empty if there are none."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    return [file for file in visible_files(path) if file.suffix in SUFFIXES]


def visible_files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted by path, but for what is hidden or lies in hidden folders."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def read_files(path: Path) -> Iterator[Found]:
    """The rows of a file or folder, files in sorted order. Raises DataError if a file is broken beyond single lines."""
    for file in data_files(path):
        yield from _READERS[file.suffix](file, file.name if file == path else str(file.relative_to(path)))


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


def batched_rows(part: Dataset | IterableDataset) -> Iterator[Row]:
    """The rows of a data set, decoded in batches."""
    for batch in part.iter(batch_size=_BATCH):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns what `datasets` and its parsers raise about data that cannot be read into a DataError that begins with `what`."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be read: {said(error)}") from error


def said(error: Exception) -> str:
    """An error of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def read_jsonl(file: Path, name: str) -> Iterator[Found]:
    """The rows of a JSONL file, which is called `name` where a row is quoted; blank lines are none."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield Found(f"{name}:{number}", _json_row(line, "utf-8-sig" if number == 1 else "utf-8"))


def _json_row(line: bytes, encoding: str) -> Row | RowError:
    try:
        row = json.loads(line.decode(encoding))
    except UnicodeDecodeError:
        return RowError("invalid UTF-8", line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return RowError("not JSON (cut short?)", line.decode("utf-8"))
    return row if isinstance(row, dict) else RowError("not a JSON object", row)


def _csv(file: Path, name: str) -> Iterator[Found]:
    csv.field_size_limit(_LARGEST_CSV_FIELD)
    columns: list[str] = []
    line = 1  # where the row begins
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:  # read_row refuses what is escaped
        reader = csv.reader(stream, strict=True)
        try:
            for values in reader:
                where, line = f"{name}:{line}", reader.line_num + 1
                if not columns:
                    columns = values
                elif values:
                    fits = len(values) == len(columns)
                    yield Found(where, dict(zip(columns, values, strict=True)) if fits else _unequal(values))
        except csv.Error as error:
            raise DataError(
                f"{file}: the row that begins in line {line} is not CSV ({error}): a quoted value must be closed, and a quote "
                "inside it doubled; where such a row ends is unknown, so nothing of the file is used: mend that row, or give .jsonl"
            ) from error


def _unequal(values: list[str]) -> RowError:
    return RowError("not as many values as columns", ",".join(values))


def _parquet(file: Path, name: str) -> Iterator[Found]:
    with explained(f"data.path={file}"):
        import datasets

        part = datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
        for number, row in enumerate(batched_rows(part), start=1):
            yield Found(f"{name}, row {number}", row)


_READERS = {".jsonl": read_jsonl, ".csv": _csv, ".parquet": _parquet}
