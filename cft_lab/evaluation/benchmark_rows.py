"""Where a benchmark's rows lie, and how they are read: a local file or folder, the hub's cache, or the hub itself.

`locate` looks in this order, on disk only: `benchmarks.paths` of the config; the folder that CFT_LAB_BENCHMARKS names, for
<name>.jsonl, <name>.parquet or a folder <name> in the hub's layout; the hub's cache; the datasets library's cache. What it finds
comes with the hash of its content or with the hub's commit: whatever decided the place, the content decides the stage keys.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cft_lab.config import PROJECT_ROOT, DataError
from cft_lab.runtime import hub_cache

FOLDER_VARIABLE = "CFT_LAB_BENCHMARKS"
_SUFFIXES = (".jsonl", ".parquet")
_DATA_SUFFIXES = (*_SUFFIXES, ".json", ".csv")


@dataclass(frozen=True)
class HubData:
    """A data set on the hub. Without `configs` it has only one; several are read one after the other."""

    hub_id: str
    split: str = "test"
    configs: tuple[str, ...] = ()
    gated: bool = False

    @property
    def remedy(self) -> str:
        """How to get the rows into the hub's cache."""
        access = (
            f"ask for access at https://huggingface.co/datasets/{self.hub_id}, run `hf auth login`, then " if self.gated else ""
        )
        return f"{access}run `hf download {self.hub_id} --repo-type dataset` where there is a network"


@dataclass(frozen=True)
class Located:
    """Rows on this disk: a `file`, a `folder` in the hub's layout, or the datasets library's `prepared` folders, one a config."""

    form: str
    paths: tuple[Path, ...]
    content: str | None = None  # hash of what the user named
    commit: str | None = None  # the hub's commit of what lies in a cache


@dataclass
class Rows:
    """Rows with the place where each stood (a line or row number, after the config's name if there are several)."""

    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # why rows could not be read; never their text


def locate(name: str, hub: HubData, paths: Mapping[str, str]) -> Located | None:
    """Where the rows of a benchmark lie; None if they are not on this disk. Raises DataError if a named path does not exist."""
    named = paths.get(name)
    if named is not None:
        path = PROJECT_ROOT / Path(named).expanduser()
        if not path.exists():
            raise DataError(f"benchmarks.paths.{name}={named} does not exist: name a .jsonl or .parquet file, or a folder of such")
        return _local(f"benchmarks.paths.{name}={named}", path)
    for path in _in_folder(name):
        if path.exists():
            return _local(f"{FOLDER_VARIABLE}: {path}", path)
    return _in_hub_cache(hub) or _in_datasets_cache(hub)


def read(located: Located, hub: HubData) -> Rows:
    """All rows. Raises DataError if the files cannot be read at all."""
    if located.form == "file":
        return _read_file(located.paths[0])
    if located.form == "prepared":
        return _read_prepared(located.paths, hub)
    return _read_folder(located.paths[0], hub)


def download(hub: HubData) -> Rows:
    """The rows from the hub, over the network; they stay in the hub's cache. Raises DataError if the hub does not give them."""
    import datasets

    datasets.disable_progress_bars()
    try:
        parts = {config: datasets.load_dataset(hub.hub_id, config, split=hub.split) for config in hub.configs or (None,)}
    except Exception as error:  # each version of the hub's client has another HTTP library with its own errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{hub.hub_id} could not be had from the hub ({reason}): {hub.remedy}") from error
    return _from_tables({config: part.with_format("arrow")[:] for config, part in parts.items()})


def content_hash(path: Path) -> str:
    """A hash of a file's bytes, or of the names and bytes of a folder's visible files; each file is hashed once a process."""
    if path.is_file():
        return _file_hash(path, path.stat().st_mtime_ns, path.stat().st_size)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file.relative_to(path))]
    told = [
        f"{file.relative_to(path).as_posix()} {_file_hash(file, file.stat().st_mtime_ns, file.stat().st_size)}" for file in files
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


@functools.lru_cache(maxsize=1024)
def _file_hash(path: Path, modified_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _in_folder(name: str) -> list[Path]:
    """What may hold a benchmark in the folder that the environment names; folders of other projects write minerva_math."""
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return []
    names = dict.fromkeys((name, name.replace("-", "_")))
    return [Path(root).expanduser() / f"{stem}{suffix}" for stem in names for suffix in (*_SUFFIXES, "")]


def _local(field_name: str, path: Path) -> Located:
    path = path.resolve()
    if path.is_file() and path.suffix not in _SUFFIXES:
        raise DataError(f"{field_name} is not a {' or '.join(_SUFFIXES)} file: convert it, or name a folder in the hub's layout")
    return Located("file" if path.is_file() else "folder", (path,), content=content_hash(path))


def _in_hub_cache(hub: HubData) -> Located | None:
    """The snapshot of the hub's main branch, or the newest one where a library fetched it by commit and noted no branch."""
    repository = hub_cache() / f"datasets--{hub.hub_id.replace('/', '--')}"
    reference = repository / "refs" / "main"
    if reference.is_file():
        snapshots = [repository / "snapshots" / reference.read_text().strip()]
    else:
        snapshots = sorted(repository.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for snapshot in snapshots:
        files = [f.relative_to(snapshot).as_posix() for f in snapshot.rglob("*") if f.suffix in _DATA_SUFFIXES and f.exists()]
        if files and all(any(config in file for file in files) for config in hub.configs):
            return Located("folder", (snapshot,), commit=snapshot.name)
    return None


def _in_datasets_cache(hub: HubData) -> Located | None:
    """The newest folders that the datasets library prepared: <owner>___<name>/<config>/<version>/<commit>/, all of one commit."""
    home = os.environ.get("HF_HOME", f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE", f"{home}/datasets")).expanduser()
    owner, _, name = hub.hub_id.partition("/")
    root = cache / f"{owner}___{_snake_case(name)}"
    first = sorted(
        root.glob(f"{hub.configs[0] if hub.configs else '*'}/*/*/dataset_info.json"), key=lambda file: file.stat().st_mtime
    )
    for info in reversed(first):
        version, commit = info.parts[-3:-1]
        folders = [root / config / version / commit for config in hub.configs] or [info.parent]
        if all(any(folder.glob(f"*-{hub.split}*.arrow")) for folder in folders):
            return Located("prepared", tuple(folders), commit=commit)
    return None


def _snake_case(name: str) -> str:
    """How the datasets library writes a data set's name in its cache: OlympiadBench as olympiad_bench."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()


def _read_file(path: Path) -> Rows:
    return _read_jsonl(path) if path.suffix == ".jsonl" else _read_parquet(path)


def _read_jsonl(path: Path) -> Rows:
    """A line that is not a JSON object in UTF-8 costs that row; the others keep the places that they would have had."""
    found = Rows()
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for place, line in enumerate(lines):
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
            found.skipped.append(f"row {place} of {path.name} is not {what}")
            continue
        if isinstance(row, dict):
            found.rows.append((str(place), row))
        else:
            found.skipped.append(f"row {place} of {path.name} is not a JSON object")
    return found


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        return _from_tables({None: pyarrow.parquet.read_table(path)})
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}): fetch or write it again") from error


def _read_folder(folder: Path, hub: HubData) -> Rows:
    """A folder with <split>.jsonl or <split>.parquet is read as that file, any other by the datasets library."""
    for suffix in _SUFFIXES:
        if (folder / f"{hub.split}{suffix}").is_file():
            return _read_file(folder / f"{hub.split}{suffix}")
    import datasets

    datasets.disable_progress_bars()
    try:
        names = datasets.get_dataset_config_names(str(folder))
        wanted: Sequence[str | None] = hub.configs or (None,)
        if hub.configs and names == ["default"]:  # a copy without the README that names the configs
            wanted = (None,)
        # the library's cache tells files apart by their times, not by what they hold: a cache of its own is never stale
        with tempfile.TemporaryDirectory() as cache:
            parts = {
                config: datasets.load_dataset(str(folder), config, split=hub.split, cache_dir=cache, keep_in_memory=True)
                for config in wanted
            }
            return _from_tables({config: part.with_format("arrow")[:] for config, part in parts.items()})
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        asked = f"configs {', '.join(hub.configs)}, " if hub.configs else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{folder} does not hold {hub.hub_id} ({asked}split {hub.split}): {reason}; {hub.remedy}") from error


def _read_prepared(folders: Sequence[Path], hub: HubData) -> Rows:
    import datasets
    import pyarrow

    tables: dict[str | None, Any] = {}
    for folder in folders:
        files = sorted(folder.glob(f"*-{hub.split}*.arrow"))
        tables[folder.parts[-3]] = pyarrow.concat_tables(
            [datasets.Dataset.from_file(str(f)).with_format("arrow")[:] for f in files]
        )
    return _from_tables(tables if len(tables) > 1 else {None: next(iter(tables.values()))})


def _from_tables(tables: Mapping[str | None, Any]) -> Rows:
    """Rows of Arrow tables by config. Pictures stay the bytes that they are: nothing is decoded."""
    several = len(tables) > 1
    return Rows(
        [
            (f"{config}/{index}" if several else str(index), row)
            for config, table in tables.items()
            for index, row in enumerate(table.to_pylist())
        ]
    )
