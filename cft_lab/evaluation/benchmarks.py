"""What models are evaluated on, by name.

A benchmark is a list of problems with gold answers. To add one from the hub: write the function that turns its row into a problem
(golds.py), give it a line in HUB_BENCHMARKS, name it in a preset of conf/benchmarks/. A lab benchmark is a line in LAB_SETS.

    load_items("gsm8k", limit=100)                                rows from the hub's cache, or from the hub
    load_items("gsm8k", paths={"gsm8k": "data/gsm8k.jsonl"})      rows from a file; stages pass `config.benchmarks.paths`
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.config import DataError
from cft_lab.evaluation import golds
from cft_lab.evaluation.benchmark_rows import FOLDER_VARIABLE, HubData, Located, Rows, download, locate, read
from cft_lab.lab import WORLD_VERSION
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.records import Problem, to_row
from cft_lab.runtime import hub_cache

Paths = Mapping[str, str]

#: raise it when golds or ids come out differently from the same rows
LOADER_VERSION = 1
_NO_PATHS: Paths = {}


@dataclass(frozen=True)
class Loaded:
    """The items of a benchmark. `rows` of the `published` number were usable; `skipped` says why others were not."""

    problems: tuple[Problem, ...]
    rows: int
    published: int
    skipped: tuple[str, ...] = ()

    @property
    def flag(self) -> str | None:
        """None if every published row is there; else "n of N", with the reason of the first row that could not be used."""
        if self.rows == self.published and not self.skipped:
            return None
        reason = f" ({len(self.skipped)} unusable: {self.skipped[0]})" if self.skipped else ""
        return f"{self.rows} of {self.published}{reason}"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. The functions take `benchmarks.paths` of the config.

    `load` gives the items, `identity` goes into the key of every stage that uses them, `missing` says in one line what is wrong if
    the items cannot be had from this disk (None if they can), without importing anything heavy. A `private` benchmark's
    questions, options and answers are never shown: not in logs, not in trackers, not in the repository.
    """

    name: str
    size: int
    load: Callable[[Paths], Loaded]
    identity: Callable[[Paths], Mapping[str, Any]]
    missing: Callable[[Paths], str | None]
    private: bool = False


@dataclass(frozen=True)
class HubBenchmark:
    """Rows on the hub, how many the benchmark was published with, what becomes of each, and the columns that this takes.

    `columns` has one group of alternatives for each column that is needed. With `sample`, the items are that many problems of the
    rows, the same ones whatever the order of the rows.
    """

    hub: HubData
    size: int
    problem: Callable[[golds.Row, str, str], Problem]
    columns: tuple[tuple[str, ...], ...]
    private: bool = False
    sample: int | None = None


_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_MATH = "EleutherAI/hendrycks_math"
_WORKED = (("problem", "question"), ("answer", "solution"))
_CHOICES = (("Question", "question"), ("Correct Answer", "options"))

#: sizes are those of the papers; the hub has 674 of OlympiadBench's 675
HUB_BENCHMARKS: Mapping[str, HubBenchmark] = {
    "math": HubBenchmark(HubData(_MATH, configs=_MATH_SUBJECTS), 5000, golds.worked, _WORKED),
    "math500": HubBenchmark(HubData("HuggingFaceH4/MATH-500"), 500, golds.worked, _WORKED),
    "minerva-math": HubBenchmark(HubData("math-ai/minervamath"), 272, golds.worked, _WORKED),
    "gsm8k": HubBenchmark(HubData("openai/gsm8k", configs=("main",)), 1319, golds.gsm8k, (("question",), ("answer",))),
    "olympiadbench": HubBenchmark(
        HubData("Hothan/OlympiadBench", split="train", configs=("OE_TO_maths_en_COMP",)),
        675,
        golds.olympiadbench,
        (("question",), ("final_answer",), ("is_multiple_answer",), ("error",)),
    ),
    "aime24": HubBenchmark(HubData("math-ai/aime24"), 30, golds.contest, _WORKED),
    "amc23": HubBenchmark(HubData("math-ai/amc23"), 40, golds.contest, _WORKED),
    "gpqa-diamond": HubBenchmark(
        HubData("Idavidrein/gpqa", split="train", configs=("gpqa_diamond",), gated=True), 198, golds.gpqa, _CHOICES, private=True
    ),
    "theoremqa": HubBenchmark(
        HubData("TIGER-Lab/TheoremQA"),
        800,
        golds.theoremqa,
        (("Question", "question"), ("Answer", "answer"), ("Answer_type", "answer_type"), ("Picture",)),
    ),
    "mmlu-pro": HubBenchmark(
        HubData("TIGER-Lab/MMLU-Pro"), 12032, golds.multiple_choice, (("question",), ("options",), ("answer",))
    ),
    # for choosing a checkpoint: MATH's training problems, so that no test set is touched
    "math-train-clean": HubBenchmark(
        HubData(_MATH, split="train", configs=_MATH_SUBJECTS), 7500, golds.worked, _WORKED, sample=500
    ),
}


#: (part, whole): benchmarks whose items are among another's
OVERLAPS = frozenset({("math500", "math")})


def load_items(name: str, limit: int | None = None, paths: Paths = _NO_PATHS) -> list[Problem]:
    """The items of a benchmark, the first `limit` if given. Raises DataError if its rows cannot be had or used."""
    return list(load_benchmark(name, paths).problems[:limit])


def load_benchmark(name: str, paths: Paths = _NO_PATHS) -> Loaded:
    """The items of a benchmark with what is to be said about their number."""
    return BENCHMARKS[name].load(paths)


def _lab(name: str) -> Benchmark:
    lab_set = LAB_SETS[name]
    identity = {"world": WORLD_VERSION, **to_row(lab_set)}

    def load(_: Paths) -> Loaded:
        problems = tuple(lab_set.problems(name))
        return Loaded(problems, len(problems), lab_set.size)

    return Benchmark(name, lab_set.size, load, lambda _: identity, lambda _: None)


def _hub(name: str) -> Benchmark:
    entry = HUB_BENCHMARKS[name]
    return Benchmark(
        name,
        entry.sample or entry.size,
        functools.partial(_load, name),
        functools.partial(_identity, name),
        functools.partial(_missing, name),
        entry.private,
    )


def _load(name: str, paths: Paths) -> Loaded:
    located = locate(name, HUB_BENCHMARKS[name].hub, paths)
    return _problems(name, download(HUB_BENCHMARKS[name].hub)) if located is None else _load_located(name, located)


@functools.lru_cache(maxsize=16)  # several stages of one process read the same items
def _load_located(name: str, located: Located) -> Loaded:
    return _problems(name, read(located, HUB_BENCHMARKS[name].hub))


def _identity(name: str, paths: Paths) -> Mapping[str, Any]:
    entry = HUB_BENCHMARKS[name]
    located = locate(name, entry.hub, paths)
    identity = {"benchmark": name, "loader": LOADER_VERSION}
    if located is not None and located.content is not None:
        return identity | {"content": located.content}
    commit = located.commit if located else None
    return identity | {**to_row(entry.hub), "configs": list(entry.hub.configs), "revision": commit}


def _missing(name: str, paths: Paths) -> str | None:
    hub = HUB_BENCHMARKS[name].hub
    try:
        located = locate(name, hub, paths)
    except DataError as error:
        return str(error)
    if located is not None:
        return None
    return (
        f"benchmark {name}: its rows are neither in a local file nor in the hub's cache {hub_cache()}: {hub.remedy}, "
        f"set HF_HUB_CACHE, name a file or folder with +benchmarks.paths.{name}=PATH, "
        f"or set {FOLDER_VARIABLE} to a folder that has {name}.jsonl"
    )


def _problems(name: str, found: Rows) -> Loaded:
    entry = HUB_BENCHMARKS[name]
    _check_columns(name, entry, found)
    problems: dict[str, Problem] = {}
    skipped = list(found.skipped)
    for place, row in found.rows:
        try:
            problem = entry.problem(row, place, name)
        except golds.BadRowError as error:
            skipped.append(f"row {place}: {error}")
            continue
        if problem.id in problems:
            skipped.append(f"row {place} has the id of an earlier row")
            continue
        problems[problem.id] = problem
    if not problems:
        raise DataError(f"benchmark {name}: none of its {len(found.rows)} rows can be used, {skipped[0]}")
    items = list(problems.values())
    if entry.sample is not None:
        items = sorted(items, key=_draw)[: entry.sample]
    return Loaded(tuple(items), len(problems), entry.size, tuple(skipped))


def _check_columns(name: str, entry: HubBenchmark, found: Rows) -> None:
    if not found.rows:
        reason = f", the first because {found.skipped[0]}" if found.skipped else ""
        raise DataError(
            f"benchmark {name}: its data have no rows that can be read{reason}; {entry.hub.remedy}, or name another file"
        )
    columns = set().union(*(row for _, row in found.rows))
    needed = [" or ".join(group) for group in entry.columns if not columns & set(group)]
    if needed:
        # a file without a header has a row's text for column names
        shown = f"{len(columns)} others" if entry.private else ", ".join(sorted(columns))
        raise DataError(
            f"benchmark {name}: its rows have no column {', no column '.join(needed)}; found {shown}: "
            f"name the file of this benchmark, with the columns of {entry.hub.hub_id}"
        )


def _draw(problem: Problem) -> str:
    """Sorting by this is a fixed shuffle: it depends on the question alone, not on where the row stood."""
    return hashlib.sha256(f"math-train-clean/0/{problem.question}".encode()).hexdigest()


BENCHMARKS: Mapping[str, Benchmark] = {name: _lab(name) for name in LAB_SETS} | {name: _hub(name) for name in HUB_BENCHMARKS}
