"""Data sets in the hub's layout, through `datasets`: a hub id, a folder in the same layout, or a folder made by save_to_disk.

Folders are streamed from where they are; nothing is copied into the cache. Without a network (HF_HUB_OFFLINE=1) a hub id is read
from the hub's cache (`hf download --repo-type dataset ID`), else from what `datasets` prepared on an earlier run.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
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
_COMMIT = re.compile(r"@([0-9a-f]{40})/")


@dataclass(frozen=True)
class HubRows:
    """The parts of a data set, read one after another, and what is known of its version (revision: commit on the hub)."""

    parts: list[Any]
    version: dict[str, str]

    def __iter__(self) -> Iterator[Row]:
        for part in self.parts:
            yield from batched_rows(part)

    def count(self) -> int:
        """How many rows there are, by reading them all."""
        return sum(len(next(iter(batch.values()))) for part in self.parts for batch in part.iter(batch_size=_BATCH))


def open_hub(data: DataConfig) -> HubRows:
    """The rows of data.hub_id. Raises DataError naming the field and the remedy if they cannot be had."""
    hub_id = str(data.hub_id)
    _quiet_datasets()
    with explained(f"data.hub_id={hub_id}"):
        if Path(hub_id).expanduser().is_dir():
            return HubRows(_open_folder(Path(hub_id).expanduser(), data), {})
        if not offline():
            commit = _commit_online(hub_id, data.revision)
            return HubRows(_load(hub_id, data, commit), {"revision": commit})
        snapshot = cached_dataset(hub_id, data.revision)
        if snapshot is not None:
            return HubRows(_open_folder(snapshot, data), {"revision": snapshot.name})
        return _open_prepared(hub_id, data)


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
    """The snapshot folder of a data set in the hub's cache, named by its commit; None if it is not there or has no data."""
    repository = hub_cache() / f"datasets--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "")
    snapshot = repository / "snapshots" / commit
    # `datasets` leaves the card alone there when it keeps the data elsewhere
    return snapshot if commit and any(file.suffix in _DATA_SUFFIXES for file in snapshot.rglob("*")) else None


def prepared_dataset(hub_id: str) -> bool:
    """Whether `datasets` has prepared this data set in its own cache on an earlier run (in whatever revision)."""
    home = os.environ.get("HF_HOME", f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE", f"{home}/datasets")).expanduser()
    owner, _, name = hub_id.rpartition("/")
    snake = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)).lower()
    return any(cache.glob(f"{owner}___{snake}/*" if owner else f"{snake}/*"))


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


def _open_prepared(hub_id: str, data: DataConfig) -> HubRows:
    """What `datasets` keeps of an earlier online run; refused if it is of another revision than the one asked for."""
    import datasets

    fetch = f"`hf download --repo-type dataset {hub_id}{f' --revision {data.revision}' if data.revision else ''}`"
    try:
        part = datasets.load_dataset(hub_id, data.subset, split=data.split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.hub_id={hub_id} is not in the local cache {hub_cache()}, and HF_HUB_OFFLINE=1 forbids to fetch it "
            f"({_said(error)}): run {fetch} where there is a network, or set data.hub_id to a local folder in the same layout"
        ) from error
    sources: Mapping[str, Any] = part.info.download_checksums or {}
    commits = {match[1] for url in sources if (match := _COMMIT.search(url))}
    if data.revision is not None and commits != {data.revision}:
        kept = ", ".join(sorted(commits)) or "unknown"
        raise DataError(
            f"data.revision={data.revision} was asked for, but the prepared copy of {hub_id} is of revision {kept}: "
            f"run {fetch} where there is a network, or drop data.revision"
        )
    return HubRows([part], {"revision": commits.pop()} if len(commits) == 1 else {})
