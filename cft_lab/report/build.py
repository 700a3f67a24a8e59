"""Builds a report from the results of a store."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cft_lab.data.table1 import table1
from cft_lab.hydra_config import SWEEPS
from cft_lab.provenance import provenance
from cft_lab.published import PRINTED_BENCHMARKS, SOURCE, VERSIONS
from cft_lab.report.arms import Arm, Measured, version_unlike
from cft_lab.report.claims import Verdict, judge, read_claims
from cft_lab.report.deltas import deltas
from cft_lab.report.lost import lost_places, unmeasured
from cft_lab.report.render import benchmark_name
from cft_lab.report.study import LAB, PAPER, Printed, Study, SweepArms, beside
from cft_lab.report.tables import (
    AVG,
    CONFLICT,
    MEASURED,
    PUBLISHED,
    SEEDS_NOTE,
    DataSetRow,
    DataSetTable,
    Entry,
    Report,
    ReportTable,
    Row,
    Value,
)
from cft_lab.results import Results
from cft_lab.store import DONE, PRUNED

PAPER_TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8", "figure1")
LAB_TABLES = ("lab/table2", "lab/table5", "lab/table6", "lab/table7", "lab/table8")
ALL = (*PAPER_TABLES, *LAB_TABLES)
GROUPS: Mapping[str, Sequence[str]] = {"all": ALL, PAPER: PAPER_TABLES, LAB: LAB_TABLES}  # words for several tables
CLAIMS = "claims"  # the word for the claims of either scale
BASE_NOTE = "published; protocol unstated"
_TABLE1 = "table1"
_LEAK = "Checkpoints were selected on MATH-500, as in the paper: it is part of the MATH test set, so MATH is flattered."
_LAB_NOTE = "About the lab world: procedurally made problems and tiny models. These numbers are nobody's published ones."
_LAB_MODELS_NOTE = "Tiny models of the lab world, trained on {data} and tested on {benchmarks}: these numbers are about that only."
_ONE_RUN = "One training run of each arm: intervals are over items, and say nothing about another training seed."


def build(
    results: Results, names: Sequence[str] = ALL, version: str = "v1", overrides: Sequence[str] = (), folder: Path = SWEEPS
) -> Report:
    """The tables of these names: table1, and sweep files, also your own. `overrides` are added to every cell.

    Raises ConfigError on a name that is no table or sweep file, ValueError on an unknown version of the paper.
    """
    return build_study(Study(results, version, overrides, folder), names)


def build_study(study: Study, names: Sequence[str]) -> Report:
    """As `build`, with a study that claims are judged from as well."""
    swept = dict(zip(asked := [name for name in names if name != _TABLE1], study.sweeps(asked), strict=True))
    tables = [_data_sets(study) if name == _TABLE1 else _table(study, swept[name]) for name in names]
    arms = {arm.id: arm.trace() for one in swept.values() for arm in one.arms}
    return Report(
        store=str(study.results.root),
        version=study.version,
        tables=tuple(tables),
        arms=arms,
        problems=_problems(study),
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        commit=provenance()["commit"],
        notes=tuple(_whole_notes(study)),
    )


def build_with_claims(study: Study, words: Sequence[str]) -> tuple[Report, tuple[Verdict, ...]]:
    """The tables and the claims that words of a command line ask for. Raises what `build` raises."""
    report = build_study(study, expand_names([word for word in words if word != CLAIMS]))
    scales = [scale for scale in (PAPER, LAB) if {scale, "all", CLAIMS} & set(words)]
    verdicts = judge(study, [claim for claim in read_claims() if claim.scale in scales])
    return dataclasses.replace(report, problems=_problems(study)), verdicts  # claims have read more grades


def _problems(study: Study) -> tuple[str, ...]:
    return tuple(map(str, study.results.problems))


def _whole_notes(study: Study) -> Iterator[str]:
    if not study.results.records:
        yield f"{study.results.root} has no finished result: everything is yet to be run."
    if study.overrides:
        yield f"Tables and claims are about cells that were asked for with `{' '.join(study.overrides)}`."
    if study.version != VERSIONS[0]:
        yield f"Published values, those of claims too, are of the paper's {study.version}."


def expand_names(words: Sequence[str]) -> list[str]:
    """Names of tables, with those that stand for a group in full; each once, in the order asked."""
    return list(dict.fromkeys(name for word in words for name in GROUPS.get(word, (word,))))


def judge_claims(results: Results, version: str = "v1") -> tuple[Verdict, ...]:
    """A verdict on every claim, the paper's first, then their lab twins."""
    return judge(Study(results, version), read_claims())


def _data_sets(study: Study) -> DataSetTable:
    folders = [path for path in study.results.root.glob("problems/*") if (path / DONE).exists() or (path / PRUNED).exists()]
    manifests = [study.results.reader.manifest("problems", path.name) for path in folders]
    found = table1(sorted((told for told in manifests if told), key=lambda told: str(told["created"])))
    rows = [
        DataSetRow(
            row.name,
            row.size,
            row.seed,
            row.discipline,
            row.counted,
            row.counted_in,
            None if row.counted is not None else f"python -m cft_lab table1 --count {row.data}",
        )
        for row in found
    ]
    notes = (f"Size, source and discipline as printed in {SOURCE}, v1; rows counted where this store has read the whole set.",)
    return DataSetTable(_TABLE1, "Table 1", "Training sets, as published and as counted here", tuple(rows), notes)


def _table(study: Study, swept: SweepArms) -> ReportTable:
    sweep = swept.sweep
    clashes = _version_clashes(swept)
    rows = [_row(study, swept, arm, clashes) for arm in swept.arms]
    more, others = _rows_without_cells(study, swept)
    return ReportTable(
        name=sweep.name,
        title=_title(swept),
        caption=sweep.caption,
        scale=swept.scale,
        version=study.version if swept.scale == PAPER else "",
        benchmarks=(*swept.benchmarks, AVG),
        rows=(*rows, *more),
        others=tuple(others),
        deltas=tuple(deltas(study, swept)),
        notes=tuple(dict.fromkeys([*_told_others(study, swept, others), *_notes(study, swept, clashes)])),
        command=study.commands.sweep(sweep.name, swept.scale),
    )


def _title(swept: SweepArms) -> str:
    name = swept.sweep.name.rpartition("/")[2].replace("table", "Table ").replace("figure", "Figure ")
    if swept.scale != LAB:
        return name
    return f"{name}, lab models" if foreign_to_lab(swept) else f"Lab world: {name}"


def foreign_to_lab(swept: SweepArms) -> list[str]:
    """Data sets and benchmarks of a sweep that are not the lab world's."""
    data = [arm.config.data for arm in swept.arms if arm.config and arm.trained]
    strange = [one.name for one in data if one.source != LAB] + [name for name in swept.benchmarks if not name.startswith("lab-")]
    return list(dict.fromkeys(strange))


def _lab_note(swept: SweepArms) -> str:
    if not foreign_to_lab(swept):
        return _LAB_NOTE
    data = dict.fromkeys(arm.config.data.name for arm in swept.arms if arm.config and arm.trained)
    return _LAB_MODELS_NOTE.format(data=", ".join(data) or "nothing", benchmarks=", ".join(swept.benchmarks))


def _row(study: Study, swept: SweepArms, arm: Arm, clashes: Mapping[tuple[str, str], str]) -> Row:
    published = study.published(swept, arm.cell)
    note = BASE_NOTE if published and is_base_row(swept, arm) else None
    entries = {name: _entry(study, swept, arm, name, published.get(name), clashes, note) for name in (*swept.benchmarks, AVG)}
    tokens = next((found.record.result.supervised_tokens for run in arm.runs for found in run.measured.values()), None)
    row = arm.cell.row or arm.label
    return Row(row, arm.cell.column, arm.id, tokens, arm.seeds, entries, note)


def is_base_row(swept: SweepArms, arm: Arm) -> bool:
    """Whether an arm is a model that other cells of the sweep train, as it was before; other released models are no base rows."""

    def choices(one: Arm) -> dict[str, str]:
        return {name: value for name, _, value in (item.partition("=") for item in one.cell.overrides)}

    own = choices(arm)
    if own.get("method") != "base":
        return False
    return any(other.get("model") == own.get("model") and other.get("method") != "base" for other in map(choices, swept.arms))


def _entry(
    study: Study,
    swept: SweepArms,
    arm: Arm,
    benchmark: str,
    published: float | None,
    clashes: Mapping[tuple[str, str], str],
    note: str | None,
) -> Entry:
    names = swept.benchmarks if benchmark == AVG else (benchmark,)
    clash = next((clashes[arm.id, name] for name in names if (arm.id, name) in clashes), None)
    value: Value | None = None
    if clash is None:
        value = study.measures.average(arm, names) if benchmark == AVG else study.measures.value(arm, benchmark)
    state, reason = (CONFLICT, clash) if clash else (MEASURED, None) if value else (arm.state, arm.reason)
    if value is None and state == MEASURED:  # other benchmarks are, this one is not
        state, reason = "missing", unmeasured(study, arm, names)
    return Entry(
        row=arm.cell.row or arm.label,
        column=arm.cell.column,
        benchmark=benchmark,
        state=state,
        value=value,
        published=published,
        difference=value.mean - published if value and published is not None else None,
        command=None if value else arm.command,
        reason=reason,
        cell=arm.id,
        note=note,
    )


def _version_clashes(swept: SweepArms) -> dict[tuple[str, str], str]:
    """(arm, benchmark) -> how its items or graders differ from those that the table is about: today's, or what most arms have."""
    found = {}
    for benchmark in swept.benchmarks:
        seen = [(arm, run.measured[benchmark]) for arm in swept.arms for run in arm.on(benchmark)]
        chosen = _chosen_version([one for _, one in seen if one.today] or [one for _, one in seen])
        for arm, one in seen:
            told = " and ".join(
                f"{name} are {_short(one.version[name])} where the rest of the table has {_short(chosen[name])}"
                for name in version_unlike([one.version, chosen])
            )
            if told:
                found[arm.id, benchmark] = f"its {told}: run it again, or report it by itself"
    return found


def _chosen_version(measured: Sequence[Measured]) -> dict[str, str]:
    """The items and the graders that most have, as far as anything is known of them."""
    counted = Counter(item for one in measured for item in one.version.items())
    return {name: value for (name, value), _ in reversed(counted.most_common()) if value is not None}


def _short(value: str | None) -> str:
    text = str(value).strip('"')
    return text if len(text) <= 80 else f"{text[:77]}..."


def _rows_without_cells(study: Study, swept: SweepArms) -> tuple[list[Row], list[Row]]:
    """Printed rows that no cell answers to: models that cannot be had, or another version's; those of other benchmarks apart."""
    table = swept.sweep.table
    if table is None or swept.sweep.name != f"table{table}":  # a figure shows some rows of its table
        return [], []
    answered = {
        tuple((arm.cell.published or {}).get(name, "") for name in ("model", "method", "data", "condition")) for arm in swept.arms
    }
    own, others = [], []
    for place, values in study.printed(table).items():
        if place not in answered:
            names = [name for name, printed in PRINTED_BENCHMARKS.items() if printed in values and name != AVG]
            if set(names) <= set(swept.benchmarks):
                own.append(_printed_row(place, values, swept.benchmarks))
            else:
                others.append(_printed_row(place, values, names))
    return own, others


def _printed_row(place: Printed, values: Mapping[str, float], benchmarks: Sequence[str]) -> Row:
    note = "published only: no cell of this project answers to it"
    label = place[0] if place[1] in ("as released", "") else f"{place[0]}, {place[1]}"
    row = beside(values, benchmarks)
    entries = {name: Entry(label, place[3], name, PUBLISHED, published=row.get(name), note=note) for name in (*benchmarks, AVG)}
    return Row(label, place[3], None, None, (), entries, note)


def _told_others(study: Study, swept: SweepArms, others: Sequence[Row]) -> Iterator[str]:
    """That printed rows of this table's number are about other benchmarks, if any are."""
    if others:
        names = ", ".join(
            benchmark_name(name) for name in dict.fromkeys(name for row in others for name in row.entries) if name != AVG
        )
        rows = "; ".join(dict.fromkeys(row.label for row in others))
        yield (
            f"The paper's {study.version} has another table {swept.sweep.table}, on {names}: {rows} cannot be set beside these "
            "cells, and stand apart."
        )


def _notes(study: Study, swept: SweepArms, clashes: Mapping[tuple[str, str], str]) -> Iterator[str]:
    if swept.scale == LAB:
        yield _lab_note(swept)
    if any(arm.runs for arm in swept.arms):
        yield SEEDS_NOTE
    if any(is_base_row(swept, arm) and study.published(swept, arm.cell) for arm in swept.arms):
        yield f"* base rows: {BASE_NOTE}. They look like figures of the models' own reports, not like runs under one protocol."
    measured = [arm for arm in swept.arms if arm.runs]
    for arm in swept.arms:
        for (arm_id, benchmark), why in clashes.items():
            if arm_id == arm.id:
                yield f"{arm.label}, {benchmark}: {why}"
        for line in arm.notes:
            yield f"{arm.label}: {line}"
    seeds = sorted({seed for arm in measured for seed in arm.seeds})
    for arm in measured:
        yield from study.matcher.failed_seeds(arm, seeds)
        yield from (": ".join(told) for told in lost_places(study, arm, swept.benchmarks))
    trained = [arm for arm in measured if arm.trained]
    if trained and all(len(arm.runs) == 1 for arm in trained):
        yield _ONE_RUN
    if any(arm.config and arm.config.train.selection.mode == "paper" for arm in trained if swept.scale == PAPER):
        yield _LEAK
    for arm in measured:
        if errors := sum(found.score.errors for run in arm.runs for found in run.measured.values()):
            yield f"{arm.label}: {errors} draws could not be measured; their items are left out."
