"""`python -m cft_lab gc`: removes from a store what no recorded result needs, after showing it and asking.

A result needs every stage that it stands on, but of a finished training no checkpoint besides the selected one, which the selected
stage holds. What unfinished sweeps and running processes need stays, whatever results say; so does what was made through an API.
Exit codes: 0 removed, or there was nothing to remove; 1 something could not be removed; 2 bad input; 3 shown only.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from cft_lab.commands.listing import size_text, time_text
from cft_lab.json_files import read_json
from cft_lab.locks import LEASE, LOCK, is_held, remove, take
from cft_lab.stages import RESULT
from cft_lab.stages.common import MODEL
from cft_lab.store import CLAIMS, DONE, IMPORTING, MANIFEST, OWNER, REMOVED, Store, prune, set_aside
from cft_lab.sweeps.plan import Plan, PlannedStage, to_make
from cft_lab.sweeps.run_folder import PLAN, SWEEPS

FRESH_S = 24 * 3600  # what a process left behind less than a day ago is resumed, not removed
NOTHING_REMOVED = 3

UNNEEDED = "no recorded result stands on it"
CANDIDATES = "checkpoints of finished trainings; the selected ones stay, in their selected stages"
WEIGHTS = "weights of finished results; scores, grades and generations stay"
PARTIAL = "interrupted more than a day ago"
SUPERSEDED = "superseded: it stood on rows that were completed later"
LEFTOVERS = "left behind by processes that are dead: locks, claims, deletions cut short"


Finished: TypeAlias = Mapping[str, tuple[Path, Mapping[str, Any]]]  # key -> folder and manifest of a finished stage


@dataclass(frozen=True)
class Waste:
    """Something to remove: all of `paths`, which are a whole folder, or files of a finished stage that stays as a record."""

    why: str
    paths: tuple[Path, ...]
    label: str = ""
    again: str = ""  # what it takes to have it again
    record: Path | None = None  # folder of the stage that stays
    lock: Path | None = None  # named like `locks` names it; held while the waste is removed


@dataclass
class Found:
    """What a store holds that may go, and what stays for which reason (one line each)."""

    waste: list[Waste] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("--yes", action="store_true", help="removes without asking")
    command.add_argument("--weights", action="store_true", help="also the model weights that finished results stand on")
    command.add_argument("--paid", action="store_true", help="also what was made through an API and no result stands on")


def run(options: argparse.Namespace) -> int:
    """Shows what can be removed, asks, and removes it."""
    root: Path = options.store
    try:
        found = find_waste(root, options.weights, options.paid)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"Nothing was removed, because {root} cannot be read whole: {error!r}", file=sys.stderr)
        return 2
    _show(found)
    if not found.waste:
        print("There is nothing to remove.")
        return 0
    if not options.yes and not _confirmed():
        print("Nothing was removed." + ("" if sys.stdin.isatty() else " Add --yes to remove it."))
        return NOTHING_REMOVED
    shown = {path for waste in found.waste for path in waste.paths}
    failed = _remove_all(root, options, shown)
    for line in failed:
        print(f"not removed: {line}", file=sys.stderr)
    return 1 if failed else 0


def find_waste(root: Path, weights: bool, paid: bool) -> Found:
    """What can be removed from a store."""
    finished = {folder.name: (folder, manifest) for folder, manifest in Store(root).finished()}
    found = Found()
    whole = _claimed(root) | _swept(root, found)
    needed = recorded(finished) | _closure(whole, finished)
    chosen = [manifest for folder, manifest in finished.values() if manifest["stage"] == "selected" and (folder / DONE).exists()]
    selected = {manifest["upstream"]["candidates"] for manifest in chosen}  # trainings whose choice is made and there
    for key, (folder, manifest) in finished.items():
        if key in whole:
            continue
        if key not in needed:
            found.waste.append(_whole(UNNEEDED, folder, manifest))
        elif manifest["stage"] == "candidates":
            checkpoints = sorted(folder.glob("step-*"))
            # it frees nothing where the selected stage has links to all there is
            if weights or (key in selected and freed_bytes(checkpoints)):
                found.waste += _pruned(CANDIDATES, key, finished, checkpoints)
        elif weights and manifest["stage"] in ("base_model", "selected"):
            models = [path for path in folder.glob(MODEL) if not path.is_symlink()]  # a link leads to the hub's cache
            found.waste += _pruned(WEIGHTS, key, finished, models)
    found.waste += _partials(root, whole)
    found.waste += [Waste(SUPERSEDED, (folder,), folder.parent.name) for folder in root.glob("superseded/*/*")]
    found.waste += _leftovers(root, {waste.lock for waste in found.waste})
    if not paid:
        _keep_paid(found)
    return found


def recorded(finished: Finished) -> set[str]:
    """The keys of all results and of all that they stand on."""
    keys = set()
    for key, (folder, manifest) in finished.items():
        if manifest["stage"] == "result":
            keys |= {key, *read_json(folder / RESULT)["keys"].values()}
    return _closure(keys, finished)


def _closure(keys: Iterable[str], finished: Finished) -> set[str]:
    """The keys and those of all that they stand on."""
    closed: set[str] = set()
    ahead = set(keys)
    while ahead:
        closed |= ahead
        ahead = {above for key in ahead if key in finished for above in finished[key][1]["upstream"].values()} - closed
    return closed


def _claimed(root: Path) -> set[str]:
    """The keys that processes need which run now, or ended less than a day ago without making what they wanted."""
    keys: set[str] = set()
    for file in (root / CLAIMS).glob("*.json"):
        if is_held(file.with_suffix("")) or _is_fresh(file):
            keys |= set(read_json(file)["keys"])
    return keys


def _swept(root: Path, found: Found) -> set[str]:
    """The keys of what unfinished sweeps have to make, and of the stages that this is built on."""
    keys: set[str] = set()
    for file in sorted(root.glob(f"{SWEEPS}/*/{PLAN}")):
        stages = tuple(PlannedStage(**{**row, "upstream": tuple(row["upstream"])}) for row in read_json(file)["stages"])
        ahead = to_make(Plan((), stages, ()), root)
        if ahead:
            keys |= {stage.key for stage in ahead} | {key for stage in ahead for key in stage.upstream}
            found.kept.append(
                f"what the sweep {file.parent.name} still needs ({len(ahead)} of {len(stages)} stages are not made): finish it, or "
                f"delete {file.parent} if it is given up"
            )
    return keys


def _whole(why: str, folder: Path, manifest: Mapping[str, Any]) -> Waste:
    label = f"{manifest['stage']:<12} {manifest['key']}  {manifest['label']}"
    return Waste(why, (folder,), label, f"it took {time_text(manifest['seconds'])}", lock=folder)


def _pruned(why: str, key: str, finished: Finished, files: Iterable[Path]) -> Iterator[Waste]:
    """The waste that these files of a stage are; none if there are none."""
    folder, manifest = finished[key]
    there = tuple(sorted(files))
    if there:
        needed = [manifest, *(finished[above][1] for above in manifest["upstream"].values() if above in finished)]
        trained = next((told for told in needed if told["stage"] in ("base_model", "candidates")), manifest)
        device = trained["counts"].get("device", "an unknown device")
        again = f"to have it again: train, which took {time_text(trained['seconds'])} on {device}"
        again += f", and select, which took {time_text(manifest['seconds'])}" if manifest is not trained else ""
        yield Waste(why, there, f"{manifest['stage']:<12} {key}  {manifest['label']}", again, folder, folder)


def _partials(root: Path, whole: set[str]) -> Iterator[Waste]:
    """Folders of stages that were never finished, old ones that nobody works on or waits for."""
    for folder in sorted(root.glob("*/*.partial")):
        lock = folder.with_suffix("")
        if lock.name not in whole and not is_held(lock) and not _is_fresh(folder):
            label = f"{folder.parent.name:<12} {lock.name}"
            yield Waste(PARTIAL, (folder,), label, "what it would be resumed from is lost", lock=lock)


def _leftovers(root: Path, going: Collection[Path | None]) -> Iterator[Waste]:
    """What dead processes left behind, besides the locks of what is `going` anyway."""
    for suffix in (LOCK, LEASE):
        for file in sorted(root.glob(f"*/*{suffix}")):
            lock = file.with_suffix("")
            if lock not in (*going, root / CLAIMS / "gc") and not is_held(lock):
                yield Waste(LEFTOVERS, (file,), lock=lock)
    for file in sorted((root / CLAIMS).glob("*.json")):
        if not is_held(file.with_suffix("")) and not _is_fresh(file):
            yield Waste(LEFTOVERS, (file,))
    for folder in [*root.glob(f"{REMOVED}/*"), *root.glob(f"{IMPORTING}/*")]:
        if folder.is_dir() and not is_held(folder):
            yield Waste(LEFTOVERS, (folder,))


def _keep_paid(found: Found) -> None:
    """Takes out of the waste what an API was asked for."""
    unpaid = []
    for waste in found.waste:
        told = _told(waste.paths[0])
        if waste.record or not any(name.split(".")[-1] == "kind" and value == "openai" for name, value in told["config"].items()):
            unpaid.append(waste)
            continue
        cost = told.get("counts", {}).get("cost_usd")
        dollars = "" if cost is None else f" at a cost of ${cost:.2f}"
        found.kept.append(f"{waste.paths[0]}, made through an API{dollars} ({waste.why}): --paid removes it too")
    found.waste = unpaid


def _told(folder: Path) -> dict[str, Any]:
    """What a stage's folder, finished or not, says of itself; an empty config if it is no stage's."""
    for name in (MANIFEST, OWNER):
        if (folder / name).exists():
            told: dict[str, Any] = read_json(folder / name)
            return told
    return {"config": {}}


def _is_fresh(path: Path) -> bool:
    """Whether a file, or anything in a folder, was changed within the last day."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    newest = 0.0
    for file in files:
        try:
            newest = max(newest, file.lstat().st_mtime)
        except FileNotFoundError:  # its owner is at work
            return True
    return time.time() - newest < FRESH_S


def freed_bytes(paths: Iterable[Path]) -> int:
    """What deleting these files and folders frees: a file with a hard link elsewhere frees nothing."""
    links: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for path in paths:
        for file in [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]:
            status = file.lstat()
            if not file.is_dir() or file.is_symlink():
                inode = (status.st_dev, status.st_ino)
                links[inode] += 1
                sizes[inode] = (status.st_nlink, status.st_size)
    return sum(size for inode, (count, size) in sizes.items() if links[inode] >= count)


def _show(found: Found) -> None:
    for why in (UNNEEDED, CANDIDATES, WEIGHTS, PARTIAL, SUPERSEDED, LEFTOVERS):
        waste = [item for item in found.waste if item.why == why]
        if not waste:
            continue
        print(f"{why}: {len(waste)}, {size_text(freed_bytes(path for item in waste for path in item.paths))}")
        for item in waste if why != LEFTOVERS else ():
            again = f"  ({item.again})" if item.again else ""
            print(f"  {size_text(freed_bytes(item.paths)):>10}  {item.label or item.paths[0].name}{again}")
    for line in found.kept:
        print(f"kept: {line}")
    if found.waste:
        print(f"Together: {size_text(freed_bytes(path for item in found.waste for path in item.paths))}")


def _confirmed() -> bool:
    return sys.stdin.isatty() and input("Remove all this? [y/N] ").strip().lower() in ("y", "yes")


def _remove_all(root: Path, options: argparse.Namespace, shown: set[Path]) -> list[str]:
    """Removes what was shown and may still go, and returns a line for each thing that could not be removed.

    No process can begin while it is decided and moved; what is moved is deleted afterwards.
    """
    (root / CLAIMS).mkdir(exist_ok=True)
    gate = take(root / CLAIMS / "gc")
    if gate is None:
        return ["anything, because another gc is at work here"]
    aside: list[Path] = []
    failed: list[str] = []
    try:
        for waste in find_waste(root, options.weights, options.paid).waste:
            if shown.issuperset(waste.paths):
                try:
                    aside.append(_move(root, waste))
                except OSError as error:
                    failed.append(f"{waste.label or waste.paths[0]}: {error}")
    finally:
        gate.release()
    freed = freed_bytes(aside)
    for folder in aside:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            failed.append(f"{folder}, moved there to be deleted: {error}")
    print(f"Removed {size_text(freed)}.")
    return failed


def _move(root: Path, waste: Waste) -> Path:
    """Takes waste out of its place and returns the folder that is to be deleted. Raises OSError if somebody began to work on it."""
    held = take(waste.lock) if waste.lock else None
    if waste.lock and held is None:
        raise OSError("a process has just begun to work on it")
    try:
        if waste.record:
            return prune(root, waste.record, waste.paths, "removed by gc")
        aside = set_aside(root)
        for path in waste.paths:
            if path.suffix not in (LOCK, LEASE):  # such a file is deleted where it is, so that who has it open notices
                path.rename(aside / path.name)
        return aside
    finally:
        if waste.lock:
            remove(waste.lock, held)
