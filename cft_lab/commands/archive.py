"""Reads archives of results that come from anywhere: everything is checked before anything reaches the store.

Only plain files of known names are read; any other refuses the archive. Sizes are bounded by what the caller allows. Every key is
computed again from its manifest, every file must be what the index and its own format say, scores must be those of their grades.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import secrets
import shutil
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from cft_lab.commands.listing import printable, size_text
from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.grade_columns import columns_of, write_columns
from cft_lab.json_files import read_json, read_records, write_json
from cft_lab.locks import remove, take
from cft_lab.records import Generation, Grade, Outcome, Result, Score, from_row
from cft_lab.stages import GENERATIONS, GRADES, RESULT, SCORE
from cft_lab.stages.common import CRITIQUES, CURVE, EXAMPLES, MODEL, PROBLEMS, RESPONSES
from cft_lab.store import DONE, IMPORTING, MANIFEST, PRUNED, key_of
from cft_lab.tracking import METRICS

INDEX = "index.json"
#: stage -> the files that an archive may have besides the manifest; upstream first
FILES: Mapping[str, tuple[str, ...]] = {
    "base_model": (METRICS,),
    "problems": (),
    "responses": (),
    "answers": (),
    "critiques": (),
    "examples": (),
    "candidates": (METRICS, CURVE, "first_example.json"),
    "selected": (CURVE,),
    "generations": (GENERATIONS,),
    "scores": (GRADES, SCORE),
    "result": (RESULT,),
}
#: stage -> the file that it is a mere record without
_ESSENTIAL = {
    "base_model": MODEL,
    "problems": PROBLEMS,
    "responses": RESPONSES,
    "answers": RESPONSES,
    "critiques": CRITIQUES,
    "examples": EXAMPLES,
    "candidates": "step-*",
    "selected": MODEL,
    "generations": GENERATIONS,
}
_KEY = re.compile(r"[0-9a-f]{16}")
_BLOCK = 512  # bytes; tar's unit
_LARGEST_INDEX = 1 << 26  # bytes; 200 a file
_LARGEST_FILES = 100_000
_LONGEST_END = 1 << 20  # bytes of zeros; tar itself writes less than 20,000
_TOLD = {"stage", "key", "label", "version", "created", "seconds", "counts", "config", "upstream", "prompts", "source_hash"}


class ArchiveError(ValueError):
    """An archive that is damaged, or is none of ours; the text says where."""


@contextlib.contextmanager
def unpacked(file: Path, root: Path, limit: int) -> Iterator[Path]:
    """Unpacks an archive of at most `limit` bytes into a folder beside the stages of the store at `root`, and checks all of it.

    The folder is gone afterwards. Raises ArchiveError, or OSError where the disk fails.
    """
    folder = root / IMPORTING / secrets.token_hex(8)
    folder.mkdir(parents=True)
    held = take(folder)
    try:
        try:
            with gzip.open(file, "rb") as stream:
                _unpack(stream, folder, limit)
        except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
            raise ArchiveError(f"it is damaged: {error}") from error
        _check(folder, root)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remove(folder, held)
        with contextlib.suppress(OSError):  # another import is at work
            folder.parent.rmdir()


def _unpack(stream: BufferedIOBase, folder: Path, limit: int) -> None:
    """Writes the members of an archive, which must be those of its index."""
    name, size = _header(stream) or ("", 0)
    if name != INDEX or size > _LARGEST_INDEX:
        raise ArchiveError(f"it does not begin with {INDEX}")
    awaited = _index(_exactly(stream, size), limit, folder)
    _exactly(stream, -size % _BLOCK)
    while member := _header(stream):
        name, size = member
        if name not in awaited or awaited[name]["bytes"] != size:
            raise ArchiveError(f"{printable(name)!r} is not what its index has next")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as file:
            for start in range(0, size, 1 << 20):
                chunk = _exactly(stream, min(1 << 20, size - start))
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != awaited.pop(name)["sha256"]:
            raise ArchiveError(f"{name} is not what it was: its sha256 is another")
        _exactly(stream, -size % _BLOCK)
    if awaited:
        raise ArchiveError(f"{next(iter(awaited))} and {len(awaited) - 1} other files are missing")
    if len(rest := stream.read(_LONGEST_END)) == _LONGEST_END or rest.strip(b"\0"):  # gzip's own checksum stands at its end
        raise ArchiveError("something follows its end")


def _header(stream: BufferedIOBase) -> tuple[str, int] | None:
    """Name and size of the next member; None at the end. The tarfile module's own reader is not for archives from anywhere: it
    reads headers of any length into memory and follows links."""
    block = _exactly(stream, _BLOCK)
    if not block.strip(b"\0"):
        return None
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
        raise ArchiveError(f"{printable(member.name)!r} is not a plain file")
    return member.name, member.size


def _exactly(stream: BufferedIOBase, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise ArchiveError("it ends too early")
    return content


def _index(content: bytes, limit: int, folder: Path) -> dict[str, Any]:
    """The files that an archive must have, by name. Raises ArchiveError if they are too large or not such as are imported."""
    index = _json(content, INDEX)
    if not isinstance(index, dict) or index.get("format") != 1 or not isinstance(index.get("files"), dict):
        raise ArchiveError("its index is of no format that this version knows")
    files: dict[str, Any] = index["files"]
    for name, about in files.items():
        stage, _, rest = name.partition("/")
        key, _, file = rest.partition("/")
        if stage not in FILES or not _KEY.fullmatch(key) or file not in (MANIFEST, *FILES[stage]):
            raise ArchiveError(f"{printable(name)!r} is no file that is imported")
        if not isinstance(about, dict) or not isinstance(about.get("bytes"), int) or about["bytes"] < 0 or "sha256" not in about:
            raise ArchiveError(f"its index says nothing about {name}")
    total = sum(about["bytes"] for about in files.values())
    if total > limit or len(files) > _LARGEST_FILES:
        raise ArchiveError(f"it unpacks to {len(files):,} files of {size_text(total)}, above --max-gb ({size_text(limit)})")
    if total > shutil.disk_usage(folder).free:
        raise ArchiveError(f"it unpacks to {size_text(total)}, and the disk of {folder.parent.parent} has no room for that")
    return files


def _json(content: bytes, name: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{name} is not JSON: {error}") from None


def _check(folder: Path, root: Path) -> None:
    """Raises ArchiveError unless every unpacked stage is what its key and its records say."""
    for stage in _upstream_first(folder):
        name = f"{stage.parent.name}/{stage.name}"
        try:
            _check_manifest(stage, read_json(stage / MANIFEST))
            _check_records(stage, folder, root)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ArchiveError(f"it is damaged: {name}: {type(error).__name__}: {error}") from error


def _upstream_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"), key=lambda stage: (list(FILES).index(stage.parent.name), stage.name))


def _check_manifest(stage: Path, told: Mapping[str, Any]) -> None:
    if missing := _TOLD - told.keys():
        raise ValueError(f"its manifest has no {', '.join(sorted(missing))}")
    key = key_of(told["stage"], told["version"], told["config"], told["prompts"], told["upstream"])
    if (told["stage"], told["key"], key) != (stage.parent.name, stage.name, stage.name):
        raise ValueError("its key is not that of its manifest")
    if not all(_KEY.fullmatch(above) for above in told["upstream"].values()):
        raise ValueError("it stands on something that is no key")
    if not told["label"].isprintable() or not told["created"].isprintable() or not isinstance(told["counts"], dict):
        raise ValueError("its manifest has values that no manifest has")
    float(told["seconds"])


def _check_records(stage: Path, folder: Path, root: Path) -> None:
    """Raises an error of some kind if the records of a stage are not what they should be."""
    for name in FILES[stage.parent.name]:
        if name.endswith(".jsonl") and (stage / name).exists():
            _check_lines(stage / name, {GRADES: Grade, GENERATIONS: Generation}.get(name))
    if (stage / CURVE).exists():
        all(int(row["step"]) + int(row["correct"]) + int(row["n"]) for row in read_json(stage / CURVE))
    if stage.parent.name == "scores":
        _check_score(stage)
    if stage.parent.name == "result":
        row = read_json(stage / RESULT)
        if not all(_KEY.fullmatch(key) for key in from_row(Result, row).keys.values()):
            raise ValueError("it names something that is no key")
        if other := _other_scores(row, [folder, root]):
            raise ValueError(f"its score on {other} is not that of the scores stage that it names")


def _check_lines(file: Path, kind: type[Any] | None) -> None:
    with file.open("rb") as stream:
        for line in stream:
            row = _json(line, file.name)
            if kind:
                from_row(kind, row)
            elif not isinstance(row["step"], int):
                raise ValueError(f"{file.name} has a row without a step")


def _check_score(stage: Path) -> None:
    score = from_row(Score, read_json(stage / SCORE))
    with (stage / GRADES).open("rb") as file:
        counts = Counter(from_row(Grade, json.loads(line)).outcome for line in file)
    told = {
        Outcome.CORRECT: score.correct,
        Outcome.UNPARSED: score.unparsed,
        Outcome.TRUNCATED: score.truncated,
        Outcome.ERROR: score.errors,
    }
    if score.n != counts.total() or any(counts[outcome] != count for outcome, count in told.items()):
        raise ValueError("its score is not that of its grades")
    if score.benchmark not in BENCHMARKS:
        raise ValueError(f"the benchmark {printable(score.benchmark)!r} is not known here")
    for value in (score.accuracy, score.majority, score.passed, score.paper_accuracy, *(score.interval or ())):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{value} is no share")


def _other_scores(result: Mapping[str, Any], places: Sequence[Path]) -> str | None:
    """The first benchmark on which a result's score is not that of the stage it names, looked for in stores one after the other."""
    for told in result["scores"]:
        files = [place / "scores" / result["keys"][f"scores/{told['benchmark']}"] / SCORE for place in places]
        found = next((file for file in files if file.exists()), None)
        if found is None or read_json(found) != told:
            return printable(told["benchmark"])
    return None


def install(folder: Path, root: Path, archive: str) -> list[str]:
    """Moves checked stages into the store, upstream first, and returns what is to be said. What the store has stays as it is,
    except for a record that comes whole now."""
    tally: Counter[str] = Counter()
    told: list[str] = []
    for stage in _upstream_first(folder):
        name, target = stage.parent.name, root / stage.parent.name / stage.name
        target.parent.mkdir(parents=True, exist_ok=True)
        held = take(target)
        if held is None:
            told.append(f"left out: {name} {stage.name}, which a process is making here")
            continue
        try:
            if name == "result" and (other := _other_scores(read_json(stage / RESULT), [root])):
                told.append(f"left out: {name} {stage.name}, whose items of {other} were measured here too, with another score")
            else:
                tally[_put(stage, target, archive)] += 1
        finally:
            remove(target, held)
    count = f"{tally['result']} results, {tally['whole']} other whole stages and {tally['record']} records imported"
    return [f"{count}; {tally['kept']} stages were here already", *told]


def _put(stage: Path, target: Path, archive: str) -> str:
    """Moves a stage to its place, which is locked, and returns what it is there: result, whole, record, or kept as it was."""
    essential = _ESSENTIAL.get(stage.parent.name)
    whole = essential is None or (stage / essential).exists()
    if (target / DONE).exists() or (not whole and _is_more(target, str(essential))):
        return "kept"
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    if (stage / GRADES).exists():  # made from the lines that were checked: archives hold no columns
        write_columns(stage, columns_of(read_records(stage / GRADES, Grade)))
    write_json(stage / MANIFEST, read_json(stage / MANIFEST) | {"imported": {"from": archive, "when": when}})
    if whole:
        (stage / DONE).touch()
    else:
        write_json(stage / PRUNED, {"files": [essential], "why": f"imported from {archive}", "when": when})
    if target.exists():  # a record that comes whole now, or what a kill left of one
        shutil.rmtree(target)
    stage.rename(target)
    return "result" if stage.parent.name == "result" else "whole" if whole else "record"


def _is_more(target: Path, essential: str) -> bool:
    """Whether a folder of the store is at least the record that comes: one itself, or a stage that was killed between its rename
    and its DONE mark. The store completes that when something needs it.
    """
    return (target / PRUNED).exists() or ((target / MANIFEST).exists() and any(target.glob(essential)))
