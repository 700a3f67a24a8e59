"""The stage store: one address for every stage output, made once, never half there.

A stage's key is the sha256 of its name, version, resolved config, prompt texts and upstream keys. Its output lives in
`<root>/<stage>/<key>/` with a manifest and a DONE file. It is made in `<key>.partial/`, which outlives a kill so that
journals and resume states are picked up, then renamed, and marked DONE last. A kernel file lock, which dies with its
holder, lets two processes that want the same stage make it once. This one mechanism is resume, cache, sharing and provenance.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from cft_lab.records import from_row, to_row

PACKAGE_ROOT = Path(__file__).resolve().parent
RecordT = TypeVar("RecordT")

DONE = "DONE"
MANIFEST = "manifest.json"
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
        identity = {
            "stage": self.name,
            "version": self.version,
            "config": self.config,
            "prompts": self.prompts,
            "upstream": {role: stage.key for role, stage in self.upstream.items()},
        }
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

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


class Store:
    """The folder of everything that was made. `say` receives one line for each stage made, reused or waited for."""

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root = root
        self._say = say

    def folder(self, stage: Stage) -> Path:
        """Where the stage's output is, or will be."""
        return self.root / stage.name / stage.key

    def is_done(self, stage: Stage) -> bool:
        """Whether the output is whole."""
        return (self.folder(stage) / DONE).exists()

    def manifest(self, stage: Stage) -> dict[str, Any]:
        """The manifest of a finished stage."""
        manifest: dict[str, Any] = read_json(self.folder(stage) / MANIFEST)
        return manifest

    def ensure(self, stage: Stage) -> Path:
        """The folder of the stage's output, made now if it is not there yet, upstream first.

        What a finished stage stood on is not needed again. If another process is making the stage, waits for it.
        """
        folder = self.folder(stage)
        if self.is_done(stage):
            self._warn_if_stale(stage)
            return folder
        inputs = {role: self.ensure(above) for role, above in stage.upstream.items()}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(stage):
            if self.is_done(stage):  # somebody else made it while we waited
                return folder
            self._make(stage, inputs)
        return folder

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
        """Every finished stage in the store as (folder, manifest), oldest first."""
        found = [(done.parent, read_json(done.parent / MANIFEST)) for done in self.root.glob(f"*/*/{DONE}")]
        yield from sorted(found, key=lambda item: (item[1]["created"], item[1]["stage"]))

    def _make(self, stage: Stage, inputs: Mapping[str, Path]) -> None:
        folder = self.folder(stage)
        partial = folder.with_name(f"{folder.name}.partial")
        if folder.exists():  # killed between the rename and the DONE mark
            shutil.rmtree(partial, ignore_errors=True)
            folder.rename(partial)
        resumed = partial.exists()
        partial.mkdir(exist_ok=True)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        write_json(partial / "owner.json", owner | {"config": dict(stage.config), "prompts": dict(stage.prompts)})
        self._say(f"{'resume' if resumed else 'make':>7} {stage.name:<12} {stage.key}  {stage.label}")
        started = time.monotonic()
        counts = stage.make(Work(partial, inputs, stage.key, self._say, tuple(self._twins(stage))))
        seconds = round(time.monotonic() - started, 3)
        (partial / "owner.json").unlink(missing_ok=True)
        write_json(partial / MANIFEST, _manifest(stage, counts, seconds, resumed))
        os.replace(partial, folder)
        (folder / DONE).touch()
        _sync_folder(folder)
        summary = " ".join(f"{name}={value}" for name, value in counts.items() if isinstance(value, (int, float, str)))
        self._say(f"{'done':>7} {stage.name:<12} {stage.key}  {seconds:.1f} s  {summary}")

    def _twins(self, stage: Stage) -> Iterator[Path]:
        """Folders of the same stage with the same config and prompts but another upstream: another pool, say."""
        for described in sorted(self.root.glob(f"{stage.name}/*/{MANIFEST}")) + sorted(
            self.root.glob(f"{stage.name}/*/owner.json")
        ):
            with contextlib.suppress(OSError, ValueError):
                told = read_json(described)
                same = (told.get("config"), told.get("prompts")) == (_as_json(stage.config), _as_json(stage.prompts))
                if same and described.parent.name.removesuffix(".partial") != stage.key:
                    yield described.parent

    def _lock(self, stage: Stage) -> Any:
        from filelock import FileLock, SoftFileLease, Timeout

        path = self.folder(stage).with_suffix(".lock")
        try:
            lock: Any = FileLock(path)
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            partial = path.with_suffix(".partial")
            owner = _read_owner(partial)
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else "another process"
            self._say(f"{'wait':>7} {stage.name:<12} {stage.key}  {who} is making it")
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            # a file system without kernel locks: a lease that its holder renews, and that is free when it dies
            lock = SoftFileLease(path.with_suffix(".lease"), lease_duration=120.0)
        return lock

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
    return json.loads(path.read_text(encoding="utf-8"))


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
        return [from_row(kind, json.loads(line)) for line in file]


@functools.lru_cache(maxsize=64)
def source_hash(modules: tuple[str, ...]) -> str:
    """A hash of the source text of the named files and folders of the package."""
    digest = hashlib.sha256()
    for module in modules:
        path = PACKAGE_ROOT / module
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:KEY_LENGTH]


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
        **_provenance(),
    }


@functools.lru_cache(maxsize=1)
def _provenance() -> dict[str, Any]:
    import platform

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(PACKAGE_ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    names = (
        "torch",
        "transformers",
        "tokenizers",
        "accelerate",
        "datasets",
        "numpy",
        "hydra-core",
        "safetensors",
        "cft_lab",
    )
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "packages": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _read_owner(partial: Path) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = read_json(partial / "owner.json")
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
