"""What the page shows besides tables: arms in groups, curves, quality of data and critiques, costs, sample generations.

Each part is read from the store through `Results` and is a frozen record of numbers and texts; templates only place them. What a
store does not have is None or left out, never a number.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cft_lab.evaluation.benchmarks import BENCHMARKS
from cft_lab.report.tables import AVG, MEASURED, ArmTrace, Report, ReportTable, Row
from cft_lab.results import Results

SHOWN_LETTERS = 1500  # of one text


@dataclass(frozen=True)
class Group:
    """Rows of a table that stand together. `label` is what they share; empty where a table has one group."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Curve:
    """The training of one run: validation accuracy of its checkpoints (step, accuracy), and its loss (step, loss)."""

    label: str
    arm: str
    seed: int
    checkpoints: tuple[tuple[float, float], ...]
    losses: tuple[tuple[float, float], ...]
    chosen: int | None
    chosen_accuracy: float | None
    n: int | None
    key: str


@dataclass(frozen=True)
class CurveGroup:
    """Curves that share a panel."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class DataPart:
    """The examples that an arm was trained on: how many, how many rows its method dropped; None where not recorded."""

    key: str
    label: str
    examples: int | None
    dropped: int | None
    too_long: int | None
    arm: str


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval and the number of rows that it is a share of; None if not measured."""

    share: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class CritiquePart:
    """How good the critiques of one stage are."""

    key: str
    teacher: str
    critiques: int | None
    right: int | None
    wrong: int | None
    unparsed: int | None
    agreement: Rate
    false_right: Rate
    false_wrong: Rate


@dataclass(frozen=True)
class Amount:
    """A sum over stages. `value` is None if none of them measured it; `measured` of `stages` did."""

    value: float | None
    measured: int
    stages: int


@dataclass(frozen=True)
class CostPart:
    """What the finished stages of one name have cost, each counted once. `keys` are theirs."""

    stage: str
    keys: tuple[str, ...]
    amounts: Mapping[str, Amount]


@dataclass(frozen=True)
class Sample:
    """One arm's generation for an item, with its grades. `left_out` is the number of letters not shown."""

    label: str
    arm: str
    seed: int
    text: str
    left_out: int
    outcome: str | None
    paper_outcome: str | None
    extracted: str | None
    finish: str
    turns: int


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


COST_COLUMNS = ("seconds", "gpu_hours", "usd", "tokens", "prompt_tokens", "supervised_tokens")


def report_tables(report: Report) -> list[ReportTable]:
    """The tables of cells."""
    return [table for table in report.tables if isinstance(table, ReportTable)]


def has_values(table: ReportTable) -> bool:
    """Whether anything of the table was measured."""
    return any(entry.state == MEASURED for row in table.rows for entry in row.entries.values())


def groups(table: ReportTable) -> list[Group]:
    """The rows by their first label; one group where no two rows share it, or rows have no second one."""
    labels = dict.fromkeys(row.label for row in table.rows)
    if len(labels) == len(table.rows) or not any(row.column for row in table.rows):
        return [Group("", table.rows)]
    return [Group(label, tuple(row for row in table.rows if row.label == label)) for label in labels]


def series_label(row: Row) -> str:
    """What a row is called within its group."""
    return row.column or row.label


def row_name(row: Row) -> str:
    """What a row is called within its table."""
    return ", ".join(filter(None, (row.label, row.column)))


def trained_rows(report: Report, group: Group) -> Iterator[tuple[Row, ArmTrace]]:
    """The rows of a group that have runs."""
    for row in group.rows:
        trace = report.arms.get(row.arm) if row.arm else None
        if trace and trace.runs:
            yield row, trace


def curve_groups(report: Report, results: Results) -> list[CurveGroup]:
    """Selection and training curves of every training that the report stands on, each in the first table that has it."""
    seen: set[str] = set()
    found = []
    for table in report_tables(report):
        for group in groups(table):
            curves = []
            for row, trace in trained_rows(report, group):
                for run in trace.runs:
                    key = run.keys.get("candidates")
                    if key and key not in seen:
                        seen.add(key)
                        curves.append(
                            _curve(results, series_label(row), trace.id, run.result, run.seed, run.keys.get("selected", key))
                        )
            curves = [curve for curve in curves if curve.checkpoints or curve.losses]
            if curves:
                found.append(CurveGroup(", ".join(filter(None, (table.title, group.label))), tuple(curves)))
    return found


def _curve(results: Results, label: str, arm: str, result: str, seed: int, key: str) -> Curve:
    selection, training = results.selection(result), results.training(result)
    chosen = selection[selection["selected"].astype(bool)] if len(selection) else selection
    picked = chosen.iloc[0] if len(chosen) else None
    return Curve(
        label,
        arm,
        seed,
        tuple((float(step), float(value)) for step, value in zip(selection["step"], selection["accuracy"], strict=True)),
        tuple((float(step), float(value)) for step, value in zip(training["step"], training["loss"], strict=True)),
        int(picked["step"]) if picked is not None else None,
        float(picked["accuracy"]) if picked is not None else None,
        int(picked["n"]) if picked is not None else None,
        key,
    )


def data_parts(report: Report, results: Results) -> list[DataPart]:
    """The examples of every arm, each stage once."""
    found: dict[str, DataPart] = {}
    for trace in report.arms.values():
        for run in trace.runs:
            key = run.keys.get("examples")
            manifest = results.reader.manifest("examples", key) if key else None
            if key is None or manifest is None or key in found:
                continue
            counts = manifest["counts"]
            trained = results.reader.manifest("candidates", run.keys.get("candidates", "-"))
            too_long = trained["counts"].get("too_long") if trained else None
            label = str(manifest.get("label") or trace.label)
            found[key] = DataPart(key, label, counts.get("examples"), counts.get("dropped"), too_long, trace.id)
    return list(found.values())


def critique_parts(results: Results) -> list[CritiquePart]:
    """Quality of every critiques stage of the store."""
    frame = results.critiques()
    return [
        CritiquePart(
            key=str(key),
            teacher=str(row["teacher"]),
            critiques=_whole(row["critiques"]),
            right=_whole(row["right"]),
            wrong=_whole(row["wrong"]),
            unparsed=_whole(row["unparsed"]),
            agreement=_rate(row, "agreement"),
            false_right=_rate(row, "false_right"),
            false_wrong=_rate(row, "false_wrong"),
        )
        for key, row in zip(frame.index, frame.to_dict("records"), strict=True)
    ]


def _rate(row: Mapping[str, object], name: str) -> Rate:
    share, low, high = (_number(row[f"{name}{part}"]) for part in ("", "_low", "_high"))
    return Rate(share, low, high, _whole(row[f"{name}_n"]) or 0)


def cost_parts(report: Report, results: Results) -> list[CostPart]:
    """What the stages have cost that the report stands on, by stage in the order of the pipeline, and in total."""
    wanted = dict.fromkeys(key for trace in report.arms.values() for run in trace.runs for key in (*run.keys.values(), run.result))
    frame = results.costs()
    frame = frame[frame.index.isin(list(wanted))]
    stages = [stage for stage in frame["stage"].unique() if stage != "result"]
    stages.sort(key=lambda stage: _ORDER.index(stage) if stage in _ORDER else len(_ORDER))
    parts = []
    for stage in [*stages, ""]:
        rows = frame[frame["stage"] == stage] if stage else frame[frame["stage"] != "result"]
        amounts = {name: _sum(_number(value) for value in rows[name]) for name in COST_COLUMNS}
        parts.append(CostPart(stage, tuple(str(key) for key in rows.index), amounts))
    return parts if stages else []


_ORDER = (
    *("problems", "responses", "answers", "critiques", "examples", "base_model", "candidates", "selected"),
    *("generations", "scores"),
)


def _sum(values: Iterable[float | None]) -> Amount:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return Amount(math.fsum(known) if known else None, len(known), len(listed))


def sample_items(report: Report, results: Results) -> list[SampleItem]:
    """For each group of arms that was measured: an item drawn at random, and one on which the arms' grades differ.

    Drawn with a fixed seed from the first benchmark whose texts may be shown; the first run of each arm.
    """
    shown: list[SampleItem] = []
    seen: set[tuple[str, ...]] = set()
    for table in report_tables(report):
        for group in groups(table):
            rows = list(trained_rows(report, group))
            runs = tuple(trace.runs[0].result for _, trace in rows)
            if len(runs) > 1 and runs not in seen:
                seen.add(runs)
                shown += _samples_of(table, group.label, rows, results)
    return shown


def _samples_of(table: ReportTable, group: str, rows: Sequence[tuple[Row, ArmTrace]], results: Results) -> Iterator[SampleItem]:
    draw = random.Random(f"{table.name} {group}")
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
                samples.append(_sample(series_label(row), trace.id, run.seed, told))
        if samples:
            yield SampleItem(table.title, group, benchmark, item, _text(question), _text(gold), how, tuple(samples))


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


def _sample(label: str, arm: str, seed: int, told: Mapping[str, object]) -> Sample:
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
        turns=_whole(told["turns"]) or 0,
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _known(value: object) -> object | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: object) -> float | None:
    """A number of a DataFrame; None for what is missing."""
    if value is None:
        return None
    number = float(value)  # type: ignore[arg-type]
    return None if math.isnan(number) else number


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
