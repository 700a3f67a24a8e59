"""`python -m cft_lab prefetch [SWEEP|OVERRIDE]...`: fetches into the hub's cache what cells need, where there is a network.

Models (weights and tokenizers), data sets and benchmarks of every cell that is asked for. What is in the cache, or in local files,
is used as it is: a newer version on the hub would change keys, so of a version that is there only what is missing is fetched.
Afterwards jobs find everything with HF_HUB_OFFLINE=1; with that set, this command only looks.

Exit codes: 0 everything is there (with --dry-run: there, or can be fetched), 1 something cannot be had, 2 bad input.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cft_lab.commands.listing import size_text
from cft_lab.config import Config, ConfigError, DataError, WriterConfig
from cft_lab.data.files import said
from cft_lab.data.hub import cached_dataset, offline
from cft_lab.data.methods import needs_teacher, parts
from cft_lab.data.sources import missing_source
from cft_lab.evaluation.benchmark_rows import locate
from cft_lab.evaluation.benchmarks import BENCHMARKS, HUB_BENCHMARKS
from cft_lab.hydra_config import Composer, explain, initialized
from cft_lab.runtime import cached_snapshot, hub_cache
from cft_lab.sweeps.expand import compose_all, expand

#: what is loaded of a model's repository: config, tokenizer, template, and weights in one format
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_NO_MODEL_FILES = ("*/*", "consolidated*")  # second copies of the weights, in formats of others
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Need:
    """A repository of the hub that cells need, for `uses`. `there` finds its snapshot in the cache (None if it is not there).

    `kind` is the hub's: model or dataset.
    """

    kind: str
    hub_id: str
    revision: str | None
    uses: tuple[str, ...]  # in words
    there: Callable[[], Path | None]
    gated: bool = False

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.hub_id}{f' at {self.revision}' if self.revision else ''} ({', '.join(self.uses)})"

    def joined(self, other: Need) -> Need:
        """One need for both of the same repository: what each of them finds there must be there."""
        if other.uses[0] in self.uses:
            return self
        there = self.there
        return replace(self, uses=self.uses + other.uses, there=lambda: there() and other.there(), gated=self.gated or other.gated)

    @property
    def page(self) -> str:
        """Where a person can read about it, and accept its terms."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.hub_id}"

    def takes(self, file: str) -> bool:
        """Whether a file of the repository is fetched."""
        if self.kind == "dataset":
            return True
        allowed = any(fnmatch.fnmatch(file, pattern) for pattern in _MODEL_FILES)
        return allowed and not any(fnmatch.fnmatch(file, pattern) for pattern in _NO_MODEL_FILES)


@dataclass(frozen=True)
class Fetch:
    """A version of a repository of which files are missing in the cache."""

    need: Need
    commit: str | None  # of the version that is in the cache in part; None for one that is new here
    files: int
    bytes: int


def add_parser(commands: Any) -> None:
    """Adds the command to those of `python -m cft_lab`."""
    command = commands.add_parser("prefetch", help="fetches models, data sets and benchmarks that cells need into the hub's cache")
    command.add_argument(
        "asked", nargs="*", metavar="SWEEP|OVERRIDE", help="sweep files, such as table2, and overrides, such as model=qwen2.5-7b"
    )
    command.add_argument("--dry-run", action="store_true", help="only lists what is there and what would be fetched, with sizes")


def run(options: argparse.Namespace) -> int:
    """Fetches what is missing and says what became of everything."""
    names = [word for word in options.asked if "=" not in word and not word.startswith("~")]
    arguments = [word for word in options.asked if word not in names] + ([f"sweeps={','.join(names)}"] if names else [])
    try:
        with initialized():
            cells = compose_all(expand(arguments).cells, Composer())
    except Exception as error:
        told = error.problems if isinstance(error, ConfigError) else (explain(error),)
        if told == (None,):
            raise
        print("Nothing was fetched, for this reason:", *(f"  - {line}" for line in told), sep="\n", file=sys.stderr)
        return 2
    problems = list(dict.fromkeys(line for _, config in cells for line in local_problems(config)))
    needs = list(distinct_needs(config for _, config in cells))
    fetches = []
    for need in needs:
        found = _looked_up(need)
        if isinstance(found, str):
            problems.append(found)
        elif found is not None:
            fetches.append(found)
    if not needs and not problems:
        print("Nothing of the hub is needed.")
    problems += _fetch_all(fetches, options.dry_run)
    for line in problems:
        print(f"missing: {line}", file=sys.stderr)
    if needs and not problems and not (options.dry_run and fetches):
        print(f"All {len(needs)} repositories are in {hub_cache()}: jobs can run with HF_HUB_OFFLINE=1.")
    return 1 if problems else 0


def distinct_needs(configs: Iterable[Config]) -> Iterable[Need]:
    """What cells need of the hub, each repository once."""
    found: dict[tuple[str, str, str | None], Need] = {}
    for need in (need for config in configs for need in needs_of(config)):
        place = (need.kind, need.hub_id, need.revision)
        found[place] = found[place].joined(need) if place in found else need
    return found.values()


def needs_of(config: Config) -> Iterator[Need]:
    """The repositories that a cell needs and that the hub has."""
    if config.model.hub_id is not None:
        yield from _model(config.model.hub_id, config.model.revision, f"model={config.model.name}")
    for part in _arms(config).values():
        if needs_teacher(part) and part.teacher.kind == "local":
            yield from _writer(part.teacher, "teacher")
        if part.responses.kind == "local":
            yield from _writer(part.responses, "responses")
        if part.data.source == "hub" and part.data.hub_id is not None and not Path(part.data.hub_id).expanduser().is_dir():
            yield _data_set(part.data.hub_id, part.data.revision, f"data={part.data.name}")
    for name in _benchmarks(config):
        yield from _benchmark(name, config)


def local_problems(config: Config) -> Iterator[str]:
    """One line for each thing that a cell needs, is missing here, and is not on the hub."""
    for part in _arms(config).values():
        if part.data.source == "local" or part.data.hub_id is None:
            yield from missing_source(part.data)
    for name in _benchmarks(config):
        try:
            locate(name, HUB_BENCHMARKS[name].hub, config.benchmarks.paths)
        except DataError as error:
            yield str(error)


def _arms(config: Config) -> dict[str, Config]:
    return parts(config) if config.method.name != "base" else {}


def _benchmarks(config: Config) -> list[str]:
    """The cell's benchmarks, its validation set, and those that training data are checked against, as far as they have files."""
    names = dict.fromkeys(config.benchmarks.names)
    arms = _arms(config)
    if arms and config.train.selection.scored_on is not None:
        names[config.train.selection.scored_on] = None
    if config.decontamination.words and any(part.data.source != "lab" for part in arms.values()):
        names |= dict.fromkeys(config.decontamination.benchmarks)
    return [name for name in names if name in HUB_BENCHMARKS]


def _model(hub_id: str, revision: str | None, use: str) -> Iterator[Need]:
    if not Path(hub_id).is_dir():
        yield Need("model", hub_id, revision, (use,), lambda: cached_snapshot(hub_id, revision))


def _data_set(hub_id: str, revision: str | None, use: str) -> Need:
    return Need("dataset", hub_id, revision, (use,), lambda: cached_dataset(hub_id, revision))


def _writer(writer: WriterConfig, group: str) -> Iterator[Need]:
    if writer.model:
        yield from _model(writer.model, writer.revision, f"{group}.model")


def _benchmark(name: str, config: Config) -> Iterator[Need]:
    hub, paths = HUB_BENCHMARKS[name].hub, config.benchmarks.paths

    def there() -> Path | None:
        located = locate(name, hub, paths)
        return located.paths[0] if located else None

    try:
        located = locate(name, hub, paths)
    except DataError:  # a file that is named and is not there: see `local_problems`
        return
    if located is None or (located.form == "folder" and located.content is None):  # else local files, or prepared by `datasets`
        assert (located is None) == (BENCHMARKS[name].missing(paths) is not None)
        yield Need("dataset", hub.hub_id, None, (f"benchmark {name}",), there, hub.gated)


def _looked_up(need: Need) -> Fetch | str | None:
    """What there is to fetch of a repository; None if it is there whole, a text if it cannot be had."""
    snapshot = need.there()
    if offline():
        if snapshot is not None:
            print(f"there: {need.name}")
            return None
        return f"{need.name} is not in {hub_cache()}: unset HF_HUB_OFFLINE where there is a network, and repeat this command"
    commit = snapshot.name if snapshot else None
    try:
        wanted = _files(need, commit)
    except Exception as error:  # each version of the hub's client has another HTTP library with its own errors
        if snapshot is None:
            return _why_not(need, error)
        print(f"there: {need.name}; not compared with the hub ({said(error)})")
        return None
    if need.kind == "model" and not any(file.endswith(".safetensors") for file in wanted):
        return f"{need.name}: its repository has no .safetensors files, the only format that is loaded: convert a copy"
    missing = {file: size for file, size in wanted.items() if snapshot is None or not (snapshot / file).exists()}
    if not missing:
        print(f"there: {need.name}, {size_text(sum(wanted.values()))}")
        return None
    return Fetch(need, commit, len(missing), sum(missing.values()))


def _files(need: Need, commit: str | None) -> dict[str, int]:
    """The files of a repository that are wanted, with their sizes in bytes."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    if commit is None:
        commit = str(api.repo_info(need.hub_id, repo_type=need.kind, revision=need.revision, timeout=_TIMEOUT_S).sha)
    tree = api.list_repo_tree(need.hub_id, repo_type=need.kind, revision=commit, recursive=True)
    return {file.path: file.size for file in tree if isinstance(file, RepoFile) and need.takes(file.path)}


def _fetch_all(fetches: Sequence[Fetch], dry_run: bool) -> list[str]:
    """Fetches, if the disk has room for it all; returns what could not be had."""
    total = sum(fetch.bytes for fetch in fetches)
    for fetch in fetches:
        part = ", the rest of what is there" if fetch.commit else ""
        print(f"{'would fetch' if dry_run else 'to fetch'}: {fetch.need.name}, {fetch.files} files, {size_text(fetch.bytes)}{part}")
    if not fetches:
        return []
    place = next(folder for folder in (hub_cache(), *hub_cache().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    print(f"{size_text(total)} in all; the disk of {hub_cache()} has {size_text(free)} free")
    if total > free:
        return [f"{fetch.need.name}: the disk is too small for all; free some, or set HF_HUB_CACHE to another" for fetch in fetches]
    return [] if dry_run else [line for fetch in fetches if (line := _fetched(fetch)) is not None]


def _fetched(fetch: Fetch) -> str | None:
    """Fetches one repository; returns None, or why it could not be had."""
    from huggingface_hub import snapshot_download

    need = fetch.need
    allowed, ignored = (list(_MODEL_FILES), list(_NO_MODEL_FILES)) if need.kind == "model" else (None, None)
    revision = fetch.commit or need.revision
    try:
        snapshot_download(need.hub_id, repo_type=need.kind, revision=revision, allow_patterns=allowed, ignore_patterns=ignored)
    except Exception as error:  # see `_looked_up`
        return _why_not(need, error)
    if need.there() is None:
        return f"{need.name} was fetched, but it is not what is loaded: look at {need.page}"
    print(f"fetched: {need.name}")
    return None


def _why_not(need: Need, error: Exception) -> str:
    """Why a repository cannot be had, with the remedy."""
    if need.gated or "gated" in type(error).__name__.lower():
        account = "set HF_TOKEN to a token of that account, or run `hf auth login`"
        remedy = f"it is gated: accept its terms at {need.page}, then {account}"
    else:
        remedy = "check the name, its revision and the network; set HF_TOKEN if it is private"
    return f"{need.name} cannot be had from the hub ({said(error)}): {remedy}"
