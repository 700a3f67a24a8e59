"""What a report says, as frozen records of numbers: built once by `build`, shown by many.

Accuracies, limits and differences are fractions (0.056 is 5.6 points); only what shows them turns them into percent. Benchmarks go
by the names of the config (`minerva-math`), with `AVG`, the plain mean over a table's benchmarks, last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AVG = "AVG"
MEASURED, MISSING, FAILED, CONFLICT, PUBLISHED = "measured", "missing", "failed", "conflict", "published"
ITEMS, ITEMS_AND_SEEDS = "items", "items and seeds"

SEEDS_NOTE = (
    "Seeds vary the order of training examples and the sampling of evaluation, nothing else: "
    "problems, responses, critiques, base models and teachers are the same under all of them."
)


@dataclass(frozen=True)
class Value:
    """A measured accuracy with its 95 % interval over items (docs/statistics.md); several seeds of an item count as its mean.

    `n_items` are the items behind it, all benchmarks' for AVG; `seeds` the distinct runs; `errors` the draws that could not be
    measured, whose items are left out; `seed_sd` the standard deviation of the runs' means, None for one run; `paper_grader` the
    accuracy by the paper's grader; `truncated` and `unparsed` shares of all draws, means over benchmarks for AVG.
    """

    mean: float
    low: float
    high: float
    n_items: int
    seeds: int
    errors: int
    paper_grader: float | None
    truncated: float
    unparsed: float
    seed_sd: float | None = None


@dataclass(frozen=True)
class Entry:
    """One place of a table. `state` is measured, missing (not run), failed, conflict, or published (the paper's row has no cell
    here).

    `value` is there if measured, `command` makes it if not, `reason` says why not (failed, conflict). `published` is the paper's
    value and `difference` measured minus published; both None in the lab world. `cell` is the id of the arm in `Report.arms`.
    """

    row: str
    column: str
    benchmark: str
    state: str
    value: Value | None = None
    published: float | None = None
    difference: float | None = None
    command: str | None = None
    reason: str | None = None
    cell: str = ""
    note: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table: one arm, or a printed row of the paper that has no cell here (`arm` is None).

    `entries` has one entry for each of the table's benchmarks, AVG included. `seeds` are those that were measured.
    """

    label: str
    column: str
    arm: str | None
    supervised_tokens: int | None
    seeds: tuple[int, ...]
    entries: Mapping[str, Entry]
    note: str | None = None


@dataclass(frozen=True)
class Delta:
    """First minus the best of its rivals on one benchmark, the best chosen anew in every resample; 95 % interval, paired by item.

    `seeds` are the trainings behind the trained arm that has fewest, 0 if none is trained; `covers` says what the interval is over:
    items, or items and training seeds. `first` and `rivals` are ids of arms. `estimate`, `low` and `high` are None where an arm is
    not measured, or not on the same items; `reason` says so. `published` is the same difference of printed values.
    """

    label: str
    benchmark: str
    estimate: float | None
    low: float | None
    high: float | None
    seeds: int
    first: str
    rivals: tuple[str, ...]
    published: float | None = None
    covers: str = ITEMS
    n_items: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class ReportTable:
    """A table of the paper, or its lab twin. `scale` is paper or lab; a lab table has nothing published and is about the lab world.

    `benchmarks` are its columns in order, AVG last. `notes` say what a reader must know: versions left out, missing seeds, leaks.
    `command` makes every cell of it. `others` are printed rows of the paper's table on other benchmarks; their entries name these.
    """

    name: str
    title: str
    caption: str
    scale: str
    version: str
    benchmarks: tuple[str, ...]
    rows: tuple[Row, ...]
    deltas: tuple[Delta, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    others: tuple[Row, ...] = ()


@dataclass(frozen=True)
class DataSetRow:
    """A training set of Table 1: size, seed and discipline as printed; `counted` is the number of rows by our count, if counted."""

    name: str
    size: str
    seed: str
    discipline: str
    counted: int | None
    counted_in: str | None
    command: str | None = None


@dataclass(frozen=True)
class DataSetTable:
    """Table 1: training sets, as published and as counted here."""

    name: str
    title: str
    caption: str
    rows: tuple[DataSetRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunTrace:
    """Where the numbers of one run come from. `keys` has the key of every stage it stands on, `scores/<benchmark>` among them."""

    result: str
    seed: int
    keys: Mapping[str, str]
    created: str
    commit: str | None
    uncommitted_changes: bool | None
    packages: Mapping[str, str]


@dataclass(frozen=True)
class ArmTrace:
    """An arm: the runs of one cell that differ in nothing but their seed. `command` makes the cell, `overrides` compose it."""

    id: str
    label: str
    command: str
    overrides: tuple[str, ...]
    runs: tuple[RunTrace, ...]


@dataclass(frozen=True)
class Report:
    """Everything that was asked for. `arms` has what every number stands on, by the ids that entries and deltas name.

    `problems` are the records that could not be read or used, one line each; the rest is reported without them.
    """

    store: str
    version: str
    tables: tuple[ReportTable | DataSetTable, ...]
    arms: Mapping[str, ArmTrace]
    problems: tuple[str, ...] = ()
    created: str = ""
    commit: str | None = None
    notes: tuple[str, ...] = field(default=())
