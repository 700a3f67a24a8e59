"""The stage store: one address for every stage output, made once, never half there.

A stage's key is the sha256 of its name, version, resolved config, prompt texts and upstream keys. Its output lives in
`<root>/<stage>/<key>/` with a manifest and a DONE file. It is made in `<key>.partial/`, which outlives a kill so that
journals and resume states are picked up, then renamed, and marked DONE last. A kernel file lock, which dies with its
holder, lets two processes that want the same stage make it once. This one mechanism is resume, cache, sharing and provenance.

A stage whose large files were removed, or never came along, is a record: it has a manifest, and PRUNED in place of DONE. Results
that stand on it stay what they are; nothing new is built on it, it is made again for that. docs/store.md has the whole layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cft_lab.json_files import read_json, write_json
from cft_lab.locks import open_lock, remove, take
from cft_lab.provenance import provenance, source_hash

DONE = "DONE"
PRUNED = "pruned.json"  # says which files are not there, and why
MANIFEST, OWNER = "manifest.json", "owner.json"  # of a finished stage, and of one that is being made
CLAIMS = "claims"  # folder of what running processes need; see `Store.claim`
REMOVED, IMPORTING = "removed", "importing"  # folders of what is being deleted, and of what is being unpacked
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: asked to end, everything is saved, start the same command again
_warned: set[Path] = set()  # stage folders that this process has warned about
KEY_LENGTH = 16  # hex digits: 64 bits; a store would need 10^8 stages for a collision chance of 10^-4


@dataclass(frozen=True)
class Work:
    """What a stage's `make` gets: the folder to write into, the finished folders of its upstream stages by role, a voice, twins."""

    folder: Path
    inputs: Mapping[str, Path]
    key: str
    say: Callable[[str], None] = print
    twins: tuple[Path, ...] = ()  # folders of stages, finished or not, that differ from this one upstream only


@dataclass(frozen=True)
class Stage:
    """One stage of a cell. `make(work)` writes the output files and returns counts for the manifest.

    `config` is the resolved part of the config that the stage depends on, `prompts` the template texts it uses, `modules`
    the files of the package (or folders) whose later change is worth a warning when the output is reused. `lacks` tells, one
    line each, what this machine lacks for making the stage; it is asked before anything starts, and only of stages to be made.
    """

    name: str
    label: str
    config: Mapping[str, Any]
    make: Callable[[Work], Mapping[str, Any]]
    upstream: Mapping[str, Stage] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    modules: tuple[str, ...] = ()
    lacks: Callable[[], Iterable[str]] = tuple

    @cached_property
    def key(self) -> str:
        """The address: changes with anything that can change the output, and with nothing else."""
        upstream = {role: stage.key for role, stage in self.upstream.items()}
        return key_of(self.name, self.version, self.config, self.prompts, upstream)

    def walk(self, ends: Callable[[Stage], bool] = lambda stage: False) -> Iterator[Stage]:
        """Every stage that this one stands on, each once and upstream first, then itself; none that `ends`, nor beyond it."""
        seen: set[str] = set()

        def visit(stage: Stage) -> Iterator[Stage]:
            if stage.key in seen or ends(stage):
                return
            seen.add(stage.key)
            for above in stage.upstream.values():
                yield from visit(above)
            yield stage

        yield from visit(self)


def key_of(name: str, version: int, config: Mapping[str, Any], prompts: Mapping[str, str], upstream: Mapping[str, str]) -> str:
    """The key of a stage of this name; `upstream` has the keys of the stages that it stands on, by role."""
    identity = {"stage": name, "version": version, "config": config, "prompts": prompts, "upstream": upstream}
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


class Store:
    """The folder of everything that was made. `say` receives one line for each stage made, reused or waited for."""

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root = root
        self._say = say

    def folder(self, stage: Stage) -> Path:
        """Where the stage's output is, or will be."""
        return self.root / stage.name / stage.key

    def is_done(self, stage: Stage) -> bool:
        """Whether the output is there, and whole: a pruned stage is not."""
        return (self.folder(stage) / DONE).exists()

    def manifest(self, stage: Stage) -> dict[str, Any]:
        """The manifest of a finished stage, pruned or not."""
        manifest: dict[str, Any] = read_json(self.folder(stage) / MANIFEST)
        return manifest

    def ensure(self, stage: Stage) -> Path:
        """The folder of the stage's output, made now if it is not there yet, upstream first.

        What a finished stage stood on is not needed again. If another process is making the stage, waits for it.
        """
        if self.is_done(stage):
            self._warn_if_stale(stage)
            return self.folder(stage)
        with self.claim(stage):
            return self._ensure(stage)

    def _ensure(self, stage: Stage) -> Path:
        folder = self.folder(stage)
        if self.is_done(stage):
            self._warn_if_stale(stage)
            return folder
        inputs = {role: self._ensure(above) for role, above in stage.upstream.items()}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(stage):
            if not self.is_done(stage):  # or somebody else made it while we waited
                self._make(stage, inputs)
        return folder

    @contextlib.contextmanager
    def claim(self, stage: Stage) -> Iterator[None]:
        """Keeps `gc` away from what this process has to make of a stage, and from what that is built on.

        The claim of a process that failed or was killed counts for a day more.
        """
        claims = self.root / CLAIMS
        claims.mkdir(parents=True, exist_ok=True)
        path = claims / f"{stage.key}-{os.getpid()}-{secrets.token_hex(4)}"
        with open_lock(claims / "gc"):  # not while something is being removed
            held = take(path)
            keys = [key for made in self.unmade(stage) for key in (made.key, *(above.key for above in made.upstream.values()))]
            write_json(Path(f"{path}.json"), {"keys": list(dict.fromkeys(keys))})
        try:
            yield
            Path(f"{path}.json").unlink()
        finally:
            remove(path, held)

    def unmade(self, stage: Stage) -> Iterator[Stage]:
        """The stages that `ensure` would make now, each once and upstream first."""
        return stage.walk(ends=self.is_done)

    def reopen(self, stage: Stage) -> Path:
        """Takes a finished stage back to its partial folder, which is returned, so that `ensure` completes it.

        What was built on it would no longer be what its key says: it moves, whole, to `<root>/superseded/`.
        """
        folder = self.folder(stage)
        for name, key in self._built_on(stage.key):
            target = self.root / "superseded" / name / f"{key}-{time.strftime('%Y%m%d-%H%M%S')}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.root / name / key).rename(target)
            self._say(f"{'moved':>7} {name:<12} {key}  to {target}: {stage.name} {stage.key}, which it stands on, is completed")
        (folder / DONE).unlink()
        partial = folder.with_name(f"{folder.name}.partial")
        folder.rename(partial)
        return partial

    def _built_on(self, key: str) -> list[tuple[str, str]]:
        """(stage name, key) of every finished stage that stands on a key, directly or not."""
        stale, found = {key}, []
        manifests = [manifest for _, manifest in self.finished()]
        while grown := [m for m in manifests if m["key"] not in stale and stale & set(m["upstream"].values())]:
            stale |= {manifest["key"] for manifest in grown}
            found += [(manifest["stage"], manifest["key"]) for manifest in grown]
        return found

    def finished(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every finished stage in the store as (folder, manifest), oldest first; pruned ones are among them."""
        folders = {mark.parent for name in (DONE, PRUNED) for mark in self.root.glob(f"*/*/{name}")}
        found = [(folder, read_json(folder / MANIFEST)) for folder in folders]
        yield from sorted(found, key=lambda item: (item[1]["created"], item[1]["stage"]))

    def _make(self, stage: Stage, inputs: Mapping[str, Path]) -> None:
        folder = self.folder(stage)
        partial = folder.with_name(f"{folder.name}.partial")
        pruned = (folder / PRUNED).exists()
        if folder.exists() and not pruned:  # killed between the rename and the DONE mark
            shutil.rmtree(partial, ignore_errors=True)
            folder.rename(partial)
        if pruned:
            self._say(f"{'again':>7} {stage.name:<12} {stage.key}  {_why_again(folder)}")
        resumed = partial.exists()
        partial.mkdir(exist_ok=True)
        owner = _owner(stage, partial)
        write_json(partial / OWNER, owner)
        self._say(f"{'resume' if resumed else 'make':>7} {stage.name:<12} {stage.key}  {stage.label}")
        work = Work(partial, inputs, stage.key, self._say, tuple(self._twins(stage)))
        counts, seconds = _timed(stage, work, owner)
        replaced = {"replaces": {"created": self.manifest(stage)["created"]}} if pruned else {}
        write_json(partial / MANIFEST, _manifest(stage, counts, seconds, resumed) | replaced)
        (partial / OWNER).unlink(missing_ok=True)
        aside = set_aside(self.root) if pruned else None
        if aside is not None:  # at once: what is left of a folder that a kill found half deleted would look like a whole one
            os.replace(folder, aside / folder.name)
        os.replace(partial, folder)
        (folder / DONE).touch()
        _sync_folder(folder)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        summary = " ".join(f"{name}={value}" for name, value in counts.items() if isinstance(value, (int, float, str)))
        self._say(f"{'done':>7} {stage.name:<12} {stage.key}  {seconds:.1f} s  {summary}")

    def _twins(self, stage: Stage) -> Iterator[Path]:
        """Folders of the same stage with the same config and prompts but another upstream: another pool, say."""
        for described in sorted(self.root.glob(f"{stage.name}/*/{MANIFEST}")) + sorted(self.root.glob(f"{stage.name}/*/{OWNER}")):
            with contextlib.suppress(OSError, ValueError):
                told = read_json(described)
                same = (told.get("config"), told.get("prompts")) == (_as_json(stage.config), _as_json(stage.prompts))
                if same and described.parent.name.removesuffix(".partial") != stage.key:
                    yield described.parent

    @contextlib.contextmanager
    def _locked(self, stage: Stage) -> Iterator[None]:
        path = self.folder(stage)
        lock = take(path)
        if lock is None:
            owner = _read_owner(path.with_suffix(".partial"))
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else "another process"
            self._say(f"{'wait':>7} {stage.name:<12} {stage.key}  {who} is making it")
            lock = open_lock(path)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _warn_if_stale(self, reused: Stage) -> None:
        """Says, once a process, which of the stages behind a reused one were made by other source code than today's."""
        for stage in reused.walk():
            folder = self.folder(stage)
            if folder in _warned or not self.is_done(stage) or self.manifest(stage)["source_hash"] == source_hash(stage.modules):
                continue
            _warned.add(folder)
            self._say(
                f"warning: {stage.name} {stage.key} ({stage.label}) is reused, but its source code ({', '.join(stage.modules)}) "
                f"changed since; if the change matters, raise the stage's version or delete {folder}"
            )


def _owner(stage: Stage, partial: Path) -> dict[str, Any]:
    """What a start leaves in the partial folder: who works there, what earlier starts left and took, and on what."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": _now(),
        "already": _rows(partial),
        "earlier_s": _spent_s(partial),
        "config": dict(stage.config),
        "prompts": dict(stage.prompts),
    }


def _timed(stage: Stage, work: Work, owner: Mapping[str, Any]) -> tuple[Mapping[str, Any], float]:
    """Makes a stage; its counts, and the seconds that all its starts took. A start that an exception ends is noted for the next."""
    started = time.monotonic()
    try:
        counts = stage.make(work)
    except BaseException:
        with contextlib.suppress(OSError):  # the disk is full: it counts as long as it wrote
            write_json(work.folder / OWNER, {**owner, "seconds": time.monotonic() - started})
        raise
    return counts, round(owner["earlier_s"] + time.monotonic() - started, 3)


def _spent_s(partial: Path) -> float:
    """Seconds that earlier starts took for what lies in a partial folder. One that was killed counts until it last wrote a file."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if not (partial / OWNER).exists():  # nobody was here yet, or it was finished and is opened again
            return float(read_json(partial / MANIFEST)["seconds"])
        owner = read_json(partial / OWNER)
        written = [file.lstat().st_mtime for file in partial.rglob("*")]
        seconds = owner.get("seconds", max(written) - (partial / OWNER).lstat().st_mtime)
        return float(owner.get("earlier_s", 0.0) + seconds)
    return 0.0


def _manifest(stage: Stage, counts: Mapping[str, Any], seconds: float, resumed: bool) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "key": stage.key,
        "label": stage.label,
        "version": stage.version,
        "created": _now(),
        "seconds": seconds,
        "resumed": resumed,
        "counts": dict(counts),
        "config": dict(stage.config),
        "upstream": {role: above.key for role, above in stage.upstream.items()},
        "prompts": dict(stage.prompts),
        "source_hash": source_hash(stage.modules),
        **provenance(),
    }


def prune(root: Path, folder: Path, files: Sequence[Path], why: str) -> Path:
    """Takes files and sub-folders out of a finished stage, which becomes a record, and returns where they are now: to be deleted.

    Killed half-way, it is a record already.
    """
    already = read_json(folder / PRUNED)["files"] if (folder / PRUNED).exists() else []
    names = sorted({*already, *(file.name for file in files)})
    write_json(folder / PRUNED, {"files": names, "why": why, "when": _now()})
    (folder / DONE).unlink(missing_ok=True)
    aside = set_aside(root)
    for file in files:
        file.rename(aside / file.name)
    return aside


def set_aside(root: Path) -> Path:
    """A new folder for what is about to be deleted: moving it there is done at once, deleting takes its time."""
    aside = root / REMOVED / secrets.token_hex(8)
    aside.mkdir(parents=True)
    return aside


def _why_again(folder: Path) -> str:
    """For a pruned stage that is needed: what is said before it is made again."""
    told = read_json(folder / PRUNED)
    return (
        f"is here without {', '.join(told['files'])} ({told['why']}) and is made again; results recorded before stand on what it "
        "was, which another machine or version may not give to the last digit"
    )


def _rows(partial: Path) -> dict[str, int]:
    """Rows of each journal that an earlier start has left: what this start does is told by what is more."""
    return {file.name: file.read_bytes().count(b"\n") for file in partial.glob("*.jsonl")}


def _read_owner(partial: Path) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = read_json(partial / OWNER)
    except (OSError, ValueError):  # not written yet, or just finished
        return None
    return owner


def _as_json(value: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(value)))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
