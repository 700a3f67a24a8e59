"""Generations of the arms of a group side by side, on items that are drawn by a fixed seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.json_files import read_records
from cft_lab.records import Generation
from cft_lab.report.page_parts import TEMPERATURE_TABLES, Group, groups, report_tables, row_label, series_label, trained_rows, whole
from cft_lab.report.tables import AVG, ArmTrace, Report, ReportTable, Row
from cft_lab.results import Results
from cft_lab.stages import GENERATIONS

SHOWN_LETTERS = 1500  # of one text


@dataclass(frozen=True)
class Sample:
    """One arm's generation for an item, with its grades. `left_out` is the number of letters not shown.
    `turns` are all calls of the engine behind it (purpose, text), empty for one.
    """

    label: str
    arm: str
    seed: int
    text: str
    left_out: int
    outcome: str | None
    paper_outcome: str | None
    extracted: str | None
    finish: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SampleItem:
    """An item with the generations of all arms of a group. `drawn` says how it was chosen."""

    table: str
    group: str
    benchmark: str
    item: str
    question: str | None
    gold: str | None
    drawn: str
    samples: tuple[Sample, ...]


def sample_items(report: Report, results: Results) -> list[SampleItem]:
    """For each group of arms that was measured: an item drawn at random, and one on which the arms' grades differ.

    Drawn with a fixed seed from the first benchmark whose texts may be shown; the first run of each arm.
    """
    shown: list[SampleItem] = []
    seen: set[tuple[str, ...]] = set()
    for table in report_tables(report):
        for group in _sample_groups(table):
            rows = list(trained_rows(report, group))
            runs = tuple(trace.runs[0].result for _, trace in rows)
            if len(runs) > 1 and runs not in seen:
                seen.add(runs)
                shown += _samples_of(table, group.label, rows, results)
    return shown


def _sample_groups(table: ReportTable) -> list[Group]:
    """The groups of a table; of a table of protocols and temperatures, the protocols at one temperature."""
    if table.name not in TEMPERATURE_TABLES:
        return groups(table)
    columns = dict.fromkeys(row.column for row in table.rows)
    return [Group(column, tuple(row for row in table.rows if row.column == column)) for column in columns]


def _samples_of(table: ReportTable, group: str, rows: Sequence[tuple[Row, ArmTrace]], results: Results) -> Iterator[SampleItem]:
    draw = random.Random(f"{table.name} {group}")
    names = row_label if table.name in TEMPERATURE_TABLES else series_label
    public = [name for name in table.benchmarks if name != AVG and name in BENCHMARKS and not BENCHMARKS[name].private]
    runs = [trace.runs[0] for _, trace in rows]
    public = [name for name in public if all(f"generations/{name}" in run.keys for run in runs)]
    if not public:
        return
    benchmark = draw.choice(public)
    drawn = dict(_drawn(draw, benchmark, [run.result for run in runs], results))
    texts = [results.texts(run.result, benchmark, list(drawn)) for run in runs] if drawn else []
    for item, how in drawn.items():
        samples, question, gold = [], None, None
        for (row, trace), run, frame in zip(rows, runs, texts, strict=True):
            for told in frame[frame["item"] == item].head(1).to_dict("records"):
                told = {str(name): _known(value) for name, value in told.items()}
                question, gold = told["question"] or question, told["gold"] or gold
                turns = _turns(results, run.keys[f"generations/{benchmark}"], item) if (whole(told["turns"]) or 0) > 1 else ()
                samples.append(_sample(names(row), trace.id, run.seed, told, turns))
        if samples:
            yield SampleItem(table.title, group, benchmark, item, _text(question), _text(gold), how, tuple(samples))


def _turns(results: Results, key: str, item: str) -> tuple[tuple[str, str], ...]:
    """What each call of the engine was for, and what came back."""
    file = results.reader.folder("generations", key) / GENERATIONS
    rows = results.reader.attempt(file, partial(read_records, file, Generation)) or []
    found = next((row.turns for row in rows if row.problem_id == item and row.sample == 0), ())
    return tuple((str(turn.purpose), turn.completion.text[:SHOWN_LETTERS]) for turn in found)  # `texts` has checked them


def _drawn(draw: random.Random, benchmark: str, runs: Sequence[str], results: Results) -> Iterator[tuple[str, str]]:
    frame = results.items(runs, [benchmark])
    frame = frame[frame["sample"] == 0]
    outcomes: dict[str, list[str]] = {}
    for item, outcome in zip(frame["item"], frame["outcome"], strict=True):
        outcomes.setdefault(str(item), []).append(str(outcome))
    shared = sorted(item for item, told in outcomes.items() if len(told) == len(runs))
    if not shared:
        return
    first = draw.choice(shared)
    yield first, "drawn at random from all items"
    differing = [item for item in shared if item != first and len(Counter(outcomes[item])) > 1]
    if differing:
        yield draw.choice(differing), f"drawn at random from the {len(differing)} items on which these arms' grades differ"


def _sample(label: str, arm: str, seed: int, told: Mapping[str, object], turns: tuple[tuple[str, str], ...]) -> Sample:
    text = str(told["text"] or "")
    return Sample(
        label=label,
        arm=arm,
        seed=seed,
        text=text[:SHOWN_LETTERS],
        left_out=max(0, len(text) - SHOWN_LETTERS),
        outcome=_text(told["outcome"]),
        paper_outcome=_text(told["paper_outcome"]),
        extracted=_text(told["extracted"]),
        finish=str(told["finish"]),
        turns=turns,
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _known(value: object) -> object | None:
    return None if isinstance(value, float) and math.isnan(value) else value
