"""`python -m cft_lab export FILE` and `import FILE`: results between stores, without weights.

An archive is a .tar.gz of small files: the manifest of every stage that a result stands on, results, scores, grades, curves,
metrics and first training examples; generations with --with-generations. Keys are addresses, so what a store has already is kept,
and what comes without its large files is a record: results that stand on it are whole, nothing new is built on it. Of benchmarks
whose texts must not be shown neither generations nor extracted answers are exported.

Exit codes: 0 done, 1 the archive is damaged or could not be written, and nothing has changed, 2 bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from gzip import GzipFile
from pathlib import Path

from cft_lab.commands.archive import FILES, INDEX, ArchiveError, install, unpacked
from cft_lab.commands.gc import Finished, recorded
from cft_lab.commands.listing import size_text
from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Grade, to_row
from cft_lab.stages import GENERATIONS, GRADES, RESULT
from cft_lab.store import MANIFEST, Store

SUFFIXES = (".tar.gz", ".tgz")


def add_export_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    command.add_argument("file", type=Path, metavar="FILE.tar.gz", help="archive to write; it must not exist yet")
    command.add_argument("--with-generations", action="store_true", help="also the texts that were graded")


def add_import_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `import`."""
    command.add_argument("file", type=Path, metavar="FILE.tar.gz", help="archive that `export` wrote")
    command.add_argument("--max-gb", type=float, default=20.0, help="refuses archives with more than this unpacked (default: 20)")


def run_export(options: argparse.Namespace) -> int:
    """Writes the archive."""
    file: Path = options.file
    if not file.name.endswith(SUFFIXES):
        return _bad(f"{file} does not end in {' or '.join(SUFFIXES)}, the only format that is written: name it so")
    if file.exists():
        return _bad(f"{file} is there already: remove it, or name another file")
    finished = {folder.name: (folder, manifest) for folder, manifest in Store(options.store).finished()}
    keys = recorded(finished)
    if not keys:
        return _bad(f"{options.store} has no finished result: there is nothing to export")
    contents = dict(_contents(finished, keys, _benchmarks(finished), options.with_generations))
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        _write(temporary, contents)
        temporary.rename(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        print(f"{file} could not be written: {error}", file=sys.stderr)
        return 1
    results = sum(name.startswith("result/") and name.endswith(RESULT) for name in contents)
    print(f"{file}: {results} results, with all that they stand on {len(keys)} stages, {size_text(file.stat().st_size)}")
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Reads the archive into the store, which is created if it is not there."""
    if not options.file.is_file():
        return _bad(f"{options.file} is not a file: name an archive that `python -m cft_lab export` wrote")
    options.store.mkdir(parents=True, exist_ok=True)
    try:
        with unpacked(options.file, options.store, round(options.max_gb * 1e9)) as folder:
            told = install(folder, options.store, options.file.name)
    except ArchiveError as error:
        print(f"Nothing was imported: {options.file}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.file} could not be imported whole: {error}; import it again after the cause is removed", file=sys.stderr)
        return 1
    print("\n".join(told))
    return 0


def _bad(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _benchmarks(finished: Finished) -> dict[str, str]:
    """The benchmark of every scores and generations stage that a result names, by key."""
    found = {}
    for folder, manifest in finished.values():
        if manifest["stage"] == "result":
            for name, key in read_json(folder / RESULT)["keys"].items():
                stage, _, benchmark = name.partition("/")
                if stage in ("scores", "generations"):
                    found[key] = benchmark
    return found


def _contents(
    finished: Finished, keys: Iterable[str], benchmarks: Mapping[str, str], with_generations: bool
) -> Iterator[tuple[str, Path | bytes]]:
    """Member name -> file, or content, upstream first."""
    order = list(FILES)
    stages = [finished[key] for key in keys if key in finished]
    for folder, manifest in sorted(stages, key=lambda item: (order.index(item[1]["stage"]), item[1]["key"])):
        stage, key = manifest["stage"], manifest["key"]
        private = key in benchmarks and BENCHMARKS[benchmarks[key]].private
        for name in (MANIFEST, *FILES[stage]):
            if (name == GENERATIONS and (private or not with_generations)) or not (folder / name).exists():
                continue
            yield f"{stage}/{key}/{name}", _without_texts(folder / name) if private and name == GRADES else folder / name


def _without_texts(grades: Path) -> bytes:
    """The grades of a private benchmark without what they quote."""
    rows = [to_row(grade) | {"extracted": None, "reason": None} for grade in read_records(grades, Grade)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _write(path: Path, contents: Mapping[str, Path | bytes]) -> None:
    """A gzipped tar whose first member says what follows. The same contents give the same bytes, but for the index's date."""
    files = {name: _described(content) for name, content in contents.items()}
    index = json.dumps({"format": 1, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "files": files}).encode()
    with (
        path.open("wb") as raw,
        GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in {INDEX: index, **contents}.items():
            member = tarfile.TarInfo(name)  # no owner, no time, no rights
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                continue
            member.size = content.stat().st_size
            with content.open("rb") as file:
                archive.addfile(member, file)


def _described(content: Path | bytes) -> dict[str, object]:
    if isinstance(content, bytes):
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with content.open("rb") as file:
        return {"bytes": content.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
