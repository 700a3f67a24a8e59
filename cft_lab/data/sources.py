"""Where problems come from: the lab world, a data set in the hub's layout, or your own files.

A source gives a pool: problems with the data set's own (noisy) responses and, for critique sets, the released critiques.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cft_lab.config import DataConfig, DataError
from cft_lab.data.decontamination import Decontaminator, Overlap, report
from cft_lab.data.draw import Draw, Drawn
from cft_lab.data.files import SUFFIXES, content_sha256, data_files, read_files
from cft_lab.data.hub import cached_dataset, not_cached, offline, open_hub
from cft_lab.data.rows import (
    Found,
    RowError,
    SourceRow,
    column_map,
    column_names,
    layout_problems,
    missing_columns,
    read_row,
    shown,
)
from cft_lab.lab.mistakes import noisy_attempt
from cft_lab.lab.world import make_problems
from cft_lab.records import Critique, Problem
from cft_lab.verdicts import parse_verdict

_HEAD = 100  # rows that are looked at for their columns before the draw begins
_BAD_EXAMPLES = 3  # quoted of each reason


@dataclass(frozen=True)
class Pool:
    """Problems in the seeded order of their source, released critiques in that order ([] if none), counts for the manifest."""

    problems: list[Problem]
    critiques: list[Critique]
    counts: dict[str, Any]


def load_pool(data: DataConfig, evaluated: Sequence[tuple[str, str]] = (), words: int = 13, private: Collection[str] = ()) -> Pool:
    """The first `data.pool` problems of the source in its seeded order, without those that overlap with an evaluated question.

    `evaluated` are pairs of (benchmark, question), `words` the length of the overlap that counts (0: no check), `private` the
    benchmarks whose texts must not be quoted. A source with fewer usable rows gives them all, and counts say `short_of`. Nothing is
    checked for the lab world: its splits are disjoint by construction. Raises DataError if there is nothing usable.
    """
    if data.source == "lab":
        problems = _lab_problems(data)
        return Pool(problems, [], {"problems": len(problems), "decontamination": "not checked: no lab problem is in two splits"})
    if problems_found := list(missing_source(data)):
        raise DataError("; ".join(problems_found))
    check = Decontaminator(evaluated, words) if words and evaluated else None
    draw: Draw[Overlap] = Draw(data.pool, data.seed, lambda row: check.overlap(row.question) if check else None)
    source, version = open_source(data)
    reading = _Reading()
    for row in reading.usable(data, _with_checked_columns(data, source)):
        draw.offer(row)
    drawn = draw.result()
    if not drawn.rows:
        overlapping = f", {len(drawn.refused)} overlap with an evaluated question" if drawn.refused else ""
        raise DataError(f"data={data.name}: {_place(data)} has nothing that can be used: {reading.told()}{overlapping}")
    overlap = {"decontamination": report(drawn.refused, words, private)} if check else {}
    return _as_pool(data, drawn, reading.counts() | version | overlap)


def open_source(data: DataConfig) -> tuple[Iterable[Found], dict[str, Any]]:
    """The rows of a hub or local source with their places, and which version of it they are.

    Raises DataError if the source cannot be read.
    """
    if data.source == "local":
        return read_files(_path(data)), source_identity(data)
    rows = open_hub(data)
    return rows, rows.version | source_identity(data)


def source_identity(data: DataConfig) -> dict[str, Any]:
    """What besides config fields decides the rows, for stage keys: the hash of what a local file or folder holds.

    {} for the lab world, for hub ids, whose commit is recorded when they are read (pin data.revision to have it in the key), and
    where there is no such path (see `missing_source`).
    """
    if data.source == "local" and data.path and _path(data).exists():
        return {"content_sha256": content_sha256(_path(data))}
    if data.source == "hub" and data.hub_id and Path(data.hub_id).expanduser().is_dir():
        return {"content_sha256": content_sha256(Path(data.hub_id).expanduser())}
    return {}


def missing_source(data: DataConfig) -> Iterator[str]:
    """One line for each thing that keeps the source from being read on this machine; no network is touched."""
    if data.source == "lab":
        return
    yield from layout_problems(data)
    if data.source == "local":
        yield from _missing_files(data)
    elif data.path is not None:
        yield f"data.path={data.path} is read with data.source=local only: set that, or put a folder into data.hub_id"
    elif data.hub_id is None:
        yield (
            f"data.hub_id is missing: data={data.name} has no hub id of its own (see conf/data/{data.name}.yaml): "
            "set data.hub_id to a hub data set, or to a local folder in the same layout"
        )
    else:
        yield from _missing_hub(data, data.hub_id)


def _missing_files(data: DataConfig) -> Iterator[str]:
    if data.hub_id is not None:
        yield f"data.hub_id={data.hub_id} is read with data.source=hub only: set that, or remove it"
    if not data.path:
        yield "data.path is missing: data.source=local needs a file or folder of " + ", ".join(SUFFIXES)
    elif not _path(data).exists():
        yield f"data.path={data.path} does not exist: name a file or folder of {', '.join(SUFFIXES)}"
    elif not data_files(_path(data)):
        yield f"data.path={data.path} has no file that can be read: give it {', '.join(SUFFIXES)}"


def too_few_rows(data: DataConfig) -> Iterator[str]:
    """A line if own files do not even have as many rows as examples are wanted: it would show only after teachers were paid."""
    if data.source != "local" or data.examples is None or data.supervised_tokens is not None or any(missing_source(data)):
        return
    try:
        there = sum(1 for _ in itertools.islice(read_files(_path(data)), data.examples))
    except DataError:
        return  # a file that is broken: the stage that reads it says where
    if there < data.examples:
        wanted = f"data.examples={data.examples} are wanted"
        yield f"data.path={data.path} has {there} rows, and {wanted}: add rows, or lower data.examples"


def _missing_hub(data: DataConfig, hub_id: str) -> Iterator[str]:
    if Path(hub_id).expanduser().is_dir():
        return
    if hub_id.startswith(("/", ".", "~")) or hub_id.count("/") > 1:
        yield f"data.hub_id={hub_id} does not exist: name a folder, or a hub data set as owner/name"
    elif offline() and cached_dataset(hub_id, data.revision) is None:
        yield f"data.hub_id={hub_id}: {not_cached(hub_id, data.revision)}"


@dataclass
class _Reading:
    """What was read of a source, as it is read."""

    rows: int = 0
    whole: bool = True
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    def usable(self, data: DataConfig, source: Iterable[Found]) -> Iterator[SourceRow]:
        """The usable rows among the first `data.scan_rows`; the others are counted by reason, the first of each quoted."""
        for found in source:
            if self.rows == data.scan_rows:
                self.whole = False
                return
            self.rows += 1
            try:
                if isinstance(found.row, RowError):
                    raise found.row
                yield read_row(data, found.row)
            except RowError as bad:
                self.bad[bad.reason] += 1
                if self.bad[bad.reason] <= _BAD_EXAMPLES:
                    self.examples.append({"reason": bad.reason, "where": found.where, "text": bad.quote})

    def told(self) -> str:
        """In words, for a message."""
        reasons = "".join(f", {count} {reason}" for reason, count in self.bad.most_common())
        return f"{self.rows} rows were read{reasons}"

    def counts(self) -> dict[str, Any]:
        """For the manifest. `rows` are all that were read, `whole_source` says whether there were no more."""
        bad = {"bad_rows": dict(self.bad.most_common()), "bad_row_examples": self.examples} if self.bad else {}
        return {"rows": self.rows, "whole_source": self.whole, "unusable": self.bad.total()} | bad


def _with_checked_columns(data: DataConfig, source: Iterable[Found]) -> Iterator[Found]:
    """The rows again, after a look at the columns of the first ones. Raises DataError if a needed column is in none of them."""
    rows = iter(source)
    head = list(itertools.islice(rows, _HEAD))
    readable = [found.row for found in head if not isinstance(found.row, RowError)]
    names = set[str]().union(*map(column_names, readable))
    missing = missing_columns(data, readable)
    if names and missing:
        wanted = ", ".join(f"{column!r} for {our}" for our, column in missing.items())
        raise DataError(
            f"data={data.name}: {_place(data)} has the columns {', '.join(map(shown, sorted(names)))}, but {wanted} is needed: "
            f"map it with data.columns, for example ++data.columns.{next(iter(missing))}=COLUMN"
        )
    return itertools.chain(head, rows)


def _as_pool(data: DataConfig, drawn: Drawn[Overlap], counts: dict[str, Any]) -> Pool:
    problems, critiques = [], []
    for key, row in drawn.rows:
        problems.append(Problem(key, row.question, data.name, row.answer, row.solution, row.subject))
        if row.critique is not None:
            critiques.append(Critique(key, row.critique, "released", parse_verdict(row.critique)))
    counts = {"problems": len(problems), "duplicates": drawn.duplicates} | counts
    counts["with_gold"] = sum(problem.answer is not None for problem in problems)
    if "subject" in column_map(data):
        counts["with_subject"] = sum(problem.subject is not None for problem in problems)
    if len(problems) < data.pool:
        counts["short_of"] = data.pool
    if critiques:
        verdicts = Counter({True: "right", False: "wrong", None: "unparsed"}[critique.verdict] for critique in critiques)
        counts["verdicts"] = {name: verdicts[name] for name in ("right", "wrong", "unparsed")}
    return Pool(problems, critiques, counts)


def _place(data: DataConfig) -> str:
    return f"data.path={data.path}" if data.source == "local" else f"data.hub_id={data.hub_id}"


def _path(data: DataConfig) -> Path:
    return Path(str(data.path)).expanduser()


def _lab_problems(data: DataConfig) -> list[Problem]:
    lab = data.lab
    if lab is None:
        raise DataError(f"data.lab is missing: data={data.name} has source lab and needs families, steps and noise")
    rows = []
    for problem in itertools.islice(make_problems(data.seed, "train", lab.families, lab.steps), data.pool):
        rng = random.Random(f"{data.seed}/{problem.id}")
        attempt = noisy_attempt(problem, rng, lab.noise, lab.typical)
        rows.append(
            Problem(
                id=problem.id,
                question=problem.question,
                source=data.name,
                answer=str(problem.answer),
                solution=attempt.text,
                subject=problem.family,
            )
        )
    return rows
