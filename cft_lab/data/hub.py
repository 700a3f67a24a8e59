"""Data sets in the hub's layout, through `datasets`: a hub id, a folder in the same layout, or a folder made by save_to_disk.

Folders are streamed from where they are; nothing is copied into a cache. Without a network (HF_HUB_OFFLINE=1) a hub id is read from
the hub's cache, where `hf download --repo-type dataset ID` or an earlier run without data.streaming put it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.config import DataConfig, DataError
from cft_lab.data.rows import Row
from cft_lab.runtime import hub_cache

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

ALL_SUBSETS = "all"  # data.subset=all reads every configuration, one after another
_BATCH = 1000  # rows decoded at once; row by row is six times slower
_TIMEOUT_S = 30.0
_DATA_SUFFIXES = (".parquet", ".arrow", ".json", ".jsonl", ".csv", ".gz", ".zst")
_SHARD = re.compile(r"-\d{5}-of-(?P<many>\d{5})\.")


@dataclass(frozen=True)
class HubRows:
    """The parts of the data set `name`, read one after another, and what is known of its version (revision: commit on the hub).

    Reading raises DataError where a file is broken or the connection is lost.
    """

    name: str
    parts: list[Any]
    version: dict[str, str]

    def __iter__(self) -> Iterator[Row]:
        with explained(self.name):
            for part in self.parts:
                yield from batched_rows(part)

    def count(self) -> int:
        """How many rows there are, by reading them all."""
        with explained(self.name):
            return sum(len(next(iter(batch.values()))) for part in self.parts for batch in part.iter(batch_size=_BATCH))


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
        raise DataError(f"{what} cannot be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


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
            f"data.hub_id={hub_id}{at} cannot be reached on the hub ({_said(error)}): check the name and the network; "
            "log in with `hf auth login` if it is gated; or set data.hub_id to a local folder in the same layout"
        ) from error
    return str(commit)


def _open_folder(folder: Path, data: DataConfig) -> list[Any]:
    import datasets

    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.Dataset):
            return [saved]
        if data.split not in saved:
            raise DataError(f"data.split={data.split} is not in {folder}: choose from {', '.join(map(str, saved))}")
        return [saved[data.split]]
    return _load(str(folder), data, None, streaming=True)


def _load(path: str, data: DataConfig, revision: str | None, streaming: bool | None = None) -> list[Any]:
    """The chosen configuration, or all of them, of a hub id or a folder."""
    import datasets

    names = datasets.get_dataset_config_names(path, revision=revision)
    default = datasets.get_dataset_default_config_name(path, revision=revision)
    stream = data.streaming if streaming is None else streaming
    parts = []
    for name in _chosen(data, names, default):
        try:
            parts.append(datasets.load_dataset(path, name, split=data.split, revision=revision, streaming=stream))
        except ValueError as error:
            if "split" not in str(error):
                raise
            raise DataError(f"data.split={data.split} is not in {path}, configuration {name}: {error}") from error
    return parts


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
