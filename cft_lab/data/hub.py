"""Data sets in the hub's layout, through `datasets`: a hub id, a folder in the same layout, or a folder made by save_to_disk.

Folders are streamed from where they are; nothing is copied into a cache. Plain .jsonl files of a folder are read line by line by
our own reader, so that a bad line costs itself; all else is read by `datasets`, which gives everything up for one bad row. Without
a network (HF_HUB_OFFLINE=1) a hub id is read from the hub's cache, where `hf download --repo-type dataset ID` or an earlier run
without data.streaming put it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cft_lab.config import DataConfig, DataError
from cft_lab.data.files import batched_rows, explained, read_jsonl, said
from cft_lab.data.rows import Found
from cft_lab.runtime import hub_cache

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Part: TypeAlias = "Dataset | IterableDataset | JsonlFiles"

ALL_SUBSETS = "all"  # data.subset=all reads every configuration, one after another
_BATCH = 1000  # rows counted at once
_TIMEOUT_S = 30.0
_DATA_SUFFIXES = (".parquet", ".arrow", ".json", ".jsonl", ".csv", ".gz", ".zst")
_SHARD = re.compile(r"-\d{5}-of-(?P<many>\d{5})\.")


@dataclass(frozen=True)
class JsonlFiles:
    """The .jsonl files of one split of a folder."""

    folder: Path
    files: list[Path]

    def __iter__(self) -> Iterator[Found]:
        for file in self.files:
            name = str(file.relative_to(self.folder)) if file.is_relative_to(self.folder) else str(file)
            yield from read_jsonl(file, name)


@dataclass(frozen=True)
class HubRows:
    """The parts of the data set `name`, read one after another, and what is known of its version (revision: commit on the hub).

    Reading raises DataError where a file is broken or the connection is lost.
    """

    name: str
    parts: list[Part]
    version: dict[str, str]

    def __iter__(self) -> Iterator[Found]:
        number = 0
        with explained(self.name):
            for part in self.parts:
                if isinstance(part, JsonlFiles):
                    yield from part
                    continue
                for row in batched_rows(part):
                    number += 1
                    yield Found(f"row {number}", row)

    def count(self) -> int:
        """How many rows there are, usable or not, by reading them all."""
        with explained(self.name):
            return sum(_count(part) for part in self.parts)


def _count(part: Part) -> int:
    if isinstance(part, JsonlFiles):
        return sum(1 for _ in part)
    return sum(len(next(iter(batch.values()))) for batch in part.iter(batch_size=_BATCH))


def open_hub(data: DataConfig) -> HubRows:
    """The rows of data.hub_id. Raises DataError naming the field and the remedy if they cannot be had."""
    hub_id = str(data.hub_id)
    name, folder = f"data.hub_id={hub_id}", Path(hub_id).expanduser()
    _quiet_datasets()
    if folder.is_dir():
        with explained(name):
            return HubRows(name, _open_folder(folder, data), {})
    if not offline():
        commit = _commit_online(hub_id, data.revision)
        with explained(name):
            return HubRows(name, _load(hub_id, data, commit), {"revision": commit})
    snapshot = cached_dataset(hub_id, data.revision)
    if snapshot is None:
        raise DataError(f"{name}: {not_cached(hub_id, data.revision)}")
    name += f" in the local cache, perhaps fetched in part ({fetching(hub_id, data.revision)}),"
    with explained(name):
        _refuse_missing_shards(snapshot)
        return HubRows(name, _open_folder(snapshot, data), {"revision": snapshot.name})


def offline() -> bool:
    """Whether the hub must not be asked, by the hub's own environment variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached_dataset(hub_id: str, revision: str | None) -> Path | None:
    """The snapshot of a data set in the hub's cache, a folder named by its commit; None if it is not there or has no data.

    Without a revision it is the one that the cache calls main, or else the one that was fetched last.
    """
    repository = hub_cache() / f"datasets--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    if reference.is_file():
        commits = [reference.read_text().strip()]
    elif revision is not None:
        commits = [revision]
    else:
        commits = [path.name for path in sorted(repository.glob("snapshots/*"), key=lambda path: path.stat().st_mtime_ns)]
    snapshots = [repository / "snapshots" / commit for commit in commits]
    # the card alone, which `datasets` leaves there when it streams, is no data set
    with_data = [folder for folder in snapshots if any(file.suffix in _DATA_SUFFIXES for file in folder.rglob("*"))]
    return with_data[-1] if with_data else None


def fetching(hub_id: str, revision: str | None) -> str:
    """The remedy for a data set that is not on this machine."""
    at = f" --revision {revision}" if revision else ""
    return (
        f"run `hf download --repo-type dataset {hub_id}{at}` where there is a network, or set data.hub_id to a local folder in the "
        "same layout"
    )


def not_cached(hub_id: str, revision: str | None) -> str:
    """Why a hub id cannot be read without a network, with the remedy."""
    at = f" at revision {revision}" if revision else ""
    return f"it is not{at} in the local cache {hub_cache()}, and HF_HUB_OFFLINE=1 forbids to fetch it: {fetching(hub_id, revision)}"


def _refuse_missing_shards(folder: Path) -> None:
    """Raises DataError if a file says that it is one of so many and others are not there: fetching was interrupted."""
    families: dict[tuple[str, int], int] = {}
    for file in folder.rglob("*"):
        if match := _SHARD.search(str(file.relative_to(folder))):
            family = match.string[: match.start()], int(match["many"])
            families[family] = families.get(family, 0) + 1
    for (name, many), there in families.items():
        if there < many:
            raise DataError(f"{folder} has only {there} of the {many} files of {name}: its download was interrupted, repeat it")


def _quiet_datasets() -> None:
    """Silences the library's remarks about cards and caches, which stand between our own lines; errors are raised, not remarked."""
    from datasets.utils import logging

    logging.set_verbosity(logging.CRITICAL)


def _commit_online(hub_id: str, revision: str | None) -> str:
    """The commit that is read; asked for first, because `datasets` would try for minutes to reach a hub that is not there."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(hub_id, revision=revision, timeout=_TIMEOUT_S).sha
    except Exception as error:  # each version of the hub's client has another HTTP library with its own errors
        at = f" at revision {revision}" if revision else ""
        raise DataError(
            f"data.hub_id={hub_id}{at} cannot be reached on the hub ({said(error)}): check the name and the network; "
            "log in with `hf auth login` if it is gated; or set data.hub_id to a local folder in the same layout"
        ) from error
    return str(commit)


def _open_folder(folder: Path, data: DataConfig) -> list[Part]:
    import datasets

    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.Dataset):
            return [saved]
        if data.split not in saved:
            raise DataError(f"data.split={data.split} is not in {folder}: choose from {', '.join(map(str, saved))}")
        return [saved[data.split]]
    return _load(str(folder), data, None, folder)


def _load(path: str, data: DataConfig, revision: str | None, folder: Path | None = None) -> list[Part]:
    """The chosen configuration, or all of them, of a hub id or a folder, which is always streamed."""
    import datasets

    names = datasets.get_dataset_config_names(path, revision=revision)
    default = datasets.get_dataset_default_config_name(path, revision=revision)
    stream = data.streaming or folder is not None
    parts: list[Part] = []
    for name in _chosen(data, names, default):
        if folder is not None and (files := _plain_jsonl(folder, name, data.split)):
            parts.append(JsonlFiles(folder, files))
            continue
        try:
            parts.append(datasets.load_dataset(path, name, split=data.split, revision=revision, streaming=stream))
        except ValueError as error:
            if "split" not in str(error):
                raise
            raise DataError(f"data.split={data.split} is not in {path}, configuration {name}: {error}") from error
    return parts


def _plain_jsonl(folder: Path, name: str, split: str) -> list[Path]:
    """The files of a split, if all are .jsonl whose values need no conversion (no features on a card); [] otherwise."""
    import datasets

    builder = datasets.load_dataset_builder(str(folder), name)
    files = [Path(file) for file in (builder.config.data_files or {}).get(split, ())]
    plain = builder.info.features is None and all(file.suffix == ".jsonl" for file in files)
    return files if plain else []


def _chosen(data: DataConfig, names: list[str], default: str | None) -> list[str]:
    """The configurations to read, of those that there are."""
    if data.subset in names:
        return [str(data.subset)]
    if data.subset == ALL_SUBSETS:
        return names
    if data.subset is None and default is not None:
        return [default]
    had = "is not among its configurations" if data.subset else "does not say which of its configurations to read"
    raise DataError(
        f"data.subset={data.subset} {had}: data.hub_id={data.hub_id} has {', '.join(names)}; "
        f"name one, or {ALL_SUBSETS} for all of them"
    )
