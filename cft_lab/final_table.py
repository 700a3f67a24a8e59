"""The table at the end of a run: arms in rows, benchmarks in columns, every value with its interval.

Values are accuracies in percent with 95 % intervals over items (docs/statistics.md). Several seeds or samples of an item count as
its mean: the interval covers the choice of items, and the spread over training seeds stands beside it in a column of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cft_lab.evaluation.comparisons import Comparison, compare, describe
from cft_lab.evaluation.statistics import item_interval, macro_interval, seed_sd
from cft_lab.grade_columns import pooled, read_columns
from cft_lab.records import Result, Score
from cft_lab.results.grades import scores_of

_FEW = 3  # arms whose differences are put in words too
_MANY = 20  # arms up to which every pair is compared


@dataclass(frozen=True)
class Arm:
    """The distinct results of cells that differ in nothing but their seed."""

    label: str
    results: tuple[Result, ...]

    @property
    def benchmarks(self) -> list[str]:
        """Benchmark names in table order."""
        return [score.benchmark for score in self.results[0].scores]


def label_cells(overrides: Sequence[Sequence[str]]) -> list[str]:
    """A label for each cell from its overrides: the seed is left out, and what all cells of a grid have in common."""
    shared = set.intersection(*(set(items) for items in overrides)) if len(overrides) > 1 else set()
    told = [[item for item in items if item not in shared and not item.startswith("seed=")] for items in overrides]
    return [" ".join(items) or "the cell" for items in told]


def collect_arms(cells: Sequence[tuple[str, Result]]) -> list[Arm]:
    """Groups results by label; identical results (the base model under two seeds) count once."""
    grouped: dict[str, dict[str, Result]] = {}
    for label, result in cells:
        identity = "/".join(result.keys[f"scores/{score.benchmark}"] for score in result.scores)
        grouped.setdefault(label, {}).setdefault(identity, result)
    return [Arm(label, tuple(results.values())) for label, results in grouped.items()]


def item_scores(arm: Arm, benchmark: str, root: Path) -> dict[str, float]:
    """Item id -> mean score over the arm's seeds, 1 for correct; items with an error in any seed are left out."""
    runs = [_columns(root / "scores" / result.keys[f"scores/{benchmark}"]) for result in arm.results]
    found = scores_of(pooled(runs))
    return {item: value for item, value in zip(found.items, found.values.tolist(), strict=True) if not math.isnan(value)}


_columns = functools.lru_cache(maxsize=1024)(read_columns)  # an arm is compared with every other


def compare_arms(first: Arm, second: Arm, root: Path) -> Comparison | None:
    """First minus second in AVG, paired by item; None if they were not measured on the same benchmarks."""
    if first.benchmarks != second.benchmarks:
        return None
    pairs: tuple[list[list[float]], list[list[float]]] = ([], [])
    for name in first.benchmarks:
        a, b = item_scores(first, name, root), item_scores(second, name, root)
        shared = [item for item in a if item in b]
        pairs[0].append([a[item] for item in shared])
        pairs[1].append([b[item] for item in shared])
    return compare(*pairs) if all(pairs[0]) else None


def print_table(finished: Sequence[tuple[str, Result | str]], root: Path) -> None:
    """Prints the arms' paired differences and their table on stdout, and below it what failed."""
    arms = collect_arms([(label, what) for label, what in finished if isinstance(what, Result)])
    if arms:
        if 1 < len(arms) <= _MANY:
            _print_differences(arms, root)
        print_grid(_accuracy_rows(arms, root), "Accuracy in % [95 % interval over items]")
        if any(score.samples > 1 for score in _scores(arms)):
            print_grid(_sample_rows(arms), "Several draws of an item, in %, mean over runs: avg@k / maj@k / pass@k")
        if any(result.cell.get("train.selection.mode") == "paper" and result.examples for arm in arms for result in arm.results):
            print("Checkpoints were selected on MATH-500, as in the paper: it is part of the MATH test set, so MATH is flattered.")
    for label, what in finished:
        if isinstance(what, str):
            print(f"FAILED {label}: {what}")


def _print_differences(arms: Sequence[Arm], root: Path) -> None:
    found = {(row, column): compare_arms(arms[row], arms[column], root) for row in range(1, len(arms)) for column in range(row)}
    rows = [["", *(arm.label for arm in arms[:-1])]]
    for row in range(1, len(arms)):
        texts = [_difference(found[row, column]) if column < row else "" for column in range(len(arms) - 1)]
        rows.append([arms[row].label, *texts])
    title = "Difference of AVG in points, row minus column, paired by item [95 % interval over items, not over training seeds]"
    print_grid(rows, title)
    if len(arms) <= _FEW:
        for (row, column), comparison in found.items():
            if comparison:
                print(describe(comparison, arms[row].label, arms[column].label))


def _accuracy_rows(arms: Sequence[Arm], root: Path) -> list[list[str]]:
    benchmarks = list(dict.fromkeys(name for arm in arms for name in arm.benchmarks))
    several = any(len(arm.results) > 1 for arm in arms)
    lenient = any(score.paper_accuracy != score.accuracy for score in _scores(arms))
    rows = [
        [
            "cell",
            "runs",
            "supervised tokens",
            *benchmarks,
            "AVG",
            *(["AVG, paper's grader"] if lenient else []),
            *(["seed sd"] if several else []),
            "no answer",
            "cut off",
        ]
    ]
    for arm in arms:
        items = {name: list(item_scores(arm, name, root).values()) for name in arm.benchmarks}
        values = [_cell(arm, name, items.get(name)) for name in benchmarks]
        scores = [score for result in arm.results for score in result.scores]
        total = sum(score.n for score in scores)
        tokens = arm.results[0].supervised_tokens
        rows.append(
            [
                arm.label,
                str(len(arm.results)),
                f"{tokens:,}" if tokens is not None else "-",
                *values,
                _average(list(items.values())),
                *([_paper_average(arm)] if lenient else []),
                *([_seed_spread(arm)] if several else []),
                f"{100 * sum(score.unparsed for score in scores) / total:.1f} %",
                f"{100 * sum(score.truncated for score in scores) / total:.1f} %",
            ]
        )
    return rows


def _scores(arms: Sequence[Arm]) -> list[Score]:
    return [score for arm in arms for result in arm.results for score in result.scores]


def _paper_average(arm: Arm) -> str:
    """Mean over benchmarks and runs by the paper's lenient grader, which counts draws and has no interval here."""
    values = [score.paper_accuracy for score in _scores([arm])]
    known = [value for value in values if value is not None]
    return f"{100 * sum(known) / len(known):.1f}" if known and len(known) == len(values) else "-"


def _sample_rows(arms: Sequence[Arm]) -> list[list[str]]:
    benchmarks = list(dict.fromkeys(name for arm in arms for name in arm.benchmarks))
    rows = [["cell", "k", *benchmarks]]
    for arm in arms:
        scores = [score for result in arm.results for score in result.scores]
        cells = [_samples([score for score in scores if score.benchmark == name]) for name in benchmarks]
        rows.append([arm.label, str(scores[0].samples), *cells])
    return rows


def _samples(scores: Sequence[Score]) -> str:
    kinds = [[getattr(score, name) for score in scores] for name in ("accuracy", "majority", "passed")]
    if not scores or any(value is None for values in kinds for value in values):
        return "-"
    return " / ".join(f"{100 * sum(values) / len(values):.1f}" for values in kinds)


def _cell(arm: Arm, benchmark: str, items: Sequence[float] | None) -> str:
    if items is None:
        return "not run"
    scores = [score for result in arm.results for score in result.scores if score.benchmark == benchmark]
    text = _percent(sum(items) / len(items), item_interval(items)) if items else "not measured"
    errors = sum(score.errors for score in scores)
    return f"{text} ({errors} errors)" if errors else text


def _average(items: Sequence[Sequence[float]]) -> str:
    if not all(items):
        return "not measured"
    mean = sum(sum(values) / len(values) for values in items) / len(items)
    return _percent(mean, macro_interval(items))


def _difference(found: Comparison | None) -> str:
    if found is None:
        return "-"
    low, high = found.interval
    return f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _seed_spread(arm: Arm) -> str:
    values = [[score.accuracy for score in result.scores] for result in arm.results]
    means = [sum(known) / len(row) for row in values if len(known := [value for value in row if value is not None]) == len(row)]
    spread = seed_sd(means)
    return "-" if spread is None else f"{100 * spread:.1f}"


def _percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def print_grid(rows: list[list[str]], title: str) -> None:
    """Prints rows, the first of which is the head, as a table that is never cut off."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for place, head in enumerate(rows[0]):
        table.add_column(head, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 2 + sum(3 + max(len(row[i]) for row in rows) for i in range(len(rows[0]))))
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)
