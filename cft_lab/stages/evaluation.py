"""Stages that measure a model: generations, scores, and the record of the finished cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import Any

from cft_lab.config import Config, key_part
from cft_lab.evaluation.benchmarks import BENCHMARKS, load_benchmark, load_items
from cft_lab.evaluation.grading import GRADERS_VERSION
from cft_lab.evaluation.protocols import PROTOCOLS
from cft_lab.evaluation.sample_scores import sample_scores
from cft_lab.evaluation.statistics import item_interval
from cft_lab.grade_columns import columns_of, write_columns
from cft_lab.json_files import read_json, read_records, write_json, write_records
from cft_lab.prompts import FORMATS
from cft_lab.records import Generation, Grade, Outcome, Result, Score, from_row, to_row
from cft_lab.stages.api import api_lacks, stage_usd
from cft_lab.stages.common import (
    CURVE,
    GENERATIONS,
    GRADES,
    MODEL,
    cell_label,
    grade_all,
    open_engine,
    prompt_texts,
    sampling_of,
)
from cft_lab.store import MANIFEST, Stage, Store, Work
from cft_lab.tracking import Tracker, read_metrics

SCORE, RESULT = "score.json", "result.json"
_SAMPLES = 8  # generations of each benchmark that a tracker gets to show


def generations(config: Config, benchmark: str, model: Stage) -> Stage:
    """Final texts of one benchmark under the cell's protocol and sampling."""
    sampling = sampling_of(config)
    inference = {"protocol": config.inference.name, "samples": config.inference.samples}
    if config.inference.name == "two-stage":
        inference["max_rounds"] = config.inference.max_rounds
    settings = key_part(config.engine, "engine") | {
        "items": dict(BENCHMARKS[benchmark].identity(config.benchmarks.paths)),
        "limit": config.benchmarks.items,
        "inference": inference,
        "sampling": to_row(sampling),
        "end_of_turn": config.model.end_of_turn,
    }

    def make(work: Work) -> Mapping[str, Any]:
        loaded = load_benchmark(benchmark, config.benchmarks.paths)
        items = loaded.problems[: config.benchmarks.items]
        protocol = PROTOCOLS[config.inference.name]
        drawn = [replace(item, id=f"{item.id}#{k}") if k else item for k in range(config.inference.samples) for item in items]
        with open_engine(config, work, work.inputs["model"] / MODEL) as engine:
            made = protocol(engine, drawn, FORMATS[config.model.prompt_format], config.inference, sampling)
            spent_usd = engine.spent_usd
        rows = [replace(row, problem_id=items[place % len(items)].id, sample=place // len(items)) for place, row in enumerate(made)]
        failed = [turn.completion.text for row in rows for turn in row.turns if turn.completion.finish == "error"]
        if failed:
            reason = "a reason that may quote this private set" if BENCHMARKS[benchmark].private else failed[0]
            raise RuntimeError(
                f"{len(failed)} prompts of {benchmark} failed, the first with: {reason}; the others are kept, "
                "run the same command again to retry only these"
            )
        write_records(work.folder / GENERATIONS, rows)
        turns = [turn.completion for row in rows for turn in row.turns]
        counts: dict[str, Any] = {"generations": len(rows), "turns": len(turns), "tokens": sum(turn.num_tokens for turn in turns)}
        counts |= {"items": loaded.flag} if loaded.flag else {}
        if config.engine.kind == "openai":
            counts["api_model"] = config.model.api_model
            counts["prompt_tokens"] = sum(turn.prompt_tokens or 0 for turn in turns)
            counts["cost_usd"] = stage_usd(spent_usd, str(config.model.api_model), config.prices, work.folder)
        return counts

    return Stage(
        "generations",
        f"{benchmark}, {config.inference.name}, T={config.temperature:g}, {cell_label(config)}",
        settings,
        make,
        {"model": model},
        prompts=prompt_texts(config, "solve", "critique" if config.inference.name == "two-stage" else config.inference.name),
        modules=("engines", "evaluation", "runtime.py", "lab"),
        lacks=lambda: (
            api_lacks(str(config.model.api_model), config.engine, "engine", config.prices) if config.engine.kind == "openai" else ()
        ),
    )


def scores(config: Config, benchmark: str, generated: Stage) -> Stage:
    """Grades of every item and the score of the benchmark."""

    def make(work: Work) -> Mapping[str, Any]:
        items = load_items(benchmark, config.benchmarks.items, config.benchmarks.paths)
        rows = grade_all(benchmark, read_records(work.inputs["generations"] / GENERATIONS, Generation), items)
        write_records(work.folder / GRADES, rows)
        write_columns(work.folder, columns_of(rows))
        write_json(work.folder / SCORE, to_row(_score(config, benchmark, rows)))
        return {outcome.value: sum(row.outcome is outcome for row in rows) for outcome in Outcome}

    return Stage(
        "scores",
        f"{benchmark}, {cell_label(config)}",
        {"graders": GRADERS_VERSION},
        make,
        {"generations": generated},
        modules=("evaluation", "lab"),
    )


def _score(config: Config, benchmark: str, rows: Sequence[Grade]) -> Score:
    samples = config.inference.samples
    by_item: dict[str, list[Grade]] = {}
    for row in rows:
        by_item.setdefault(row.problem_id, []).append(row)
    items = sample_scores(by_item, samples)
    measured = len(items.items)
    counts = Counter(row.outcome for row in rows)
    return Score(
        benchmark=benchmark,
        protocol=config.inference.name,
        sampling=sampling_of(config),
        n=len(rows),
        correct=counts[Outcome.CORRECT],
        unparsed=counts[Outcome.UNPARSED],
        truncated=counts[Outcome.TRUNCATED],
        errors=counts[Outcome.ERROR],
        accuracy=fsum(items.average) / measured if measured else None,
        interval=item_interval(items.average) if measured else None,
        samples=samples,
        majority=fsum(items.majority) / measured if measured and samples > 1 else None,
        passed=fsum(items.passed) / measured if measured and samples > 1 else None,
        paper_accuracy=_paper_accuracy(rows),
    )


def _paper_accuracy(rows: Sequence[Grade]) -> float | None:
    """Share of draws that the paper's grader accepts, of those that it could grade; None where there are none."""
    known = [row.paper for row in rows if row.paper not in (None, Outcome.ERROR)]
    return known.count(Outcome.CORRECT) / len(known) if known else None


def result(config: Config, scored: Mapping[str, Stage], trained: Stage | None, cell: Mapping[str, Any]) -> Stage:
    """The record of a finished cell: its config, the keys of all that it stands on, its scores."""

    def make(work: Work) -> Mapping[str, Any]:
        rows = tuple(from_row(Score, read_json(work.inputs[name] / SCORE)) for name in scored)
        counts = read_json(work.inputs["candidates"] / MANIFEST)["counts"] if trained else {}
        record = Result(
            cell=dict(cell),
            keys=_keys(scored),
            scores=rows,
            supervised_tokens=counts.get("supervised_tokens"),
            examples=counts.get("examples"),
        )
        write_json(work.folder / RESULT, to_row(record))
        return {"benchmarks": len(rows), "errors": sum(row.errors for row in rows)}

    upstream = dict(scored) | ({"candidates": trained} if trained else {})
    return Stage("result", cell_label(config), {}, make, upstream, modules=("records.py",))


def _keys(scored: Mapping[str, Stage]) -> dict[str, str]:
    """The key of every stage below a result, by stage name; scores and generations by stage and benchmark."""
    keys = {}
    for benchmark, score in scored.items():
        for stage in score.walk():
            single = stage.name not in ("scores", "generations")
            keys[stage.name if single else f"{stage.name}/{benchmark}"] = stage.key
    return keys


def track(config: Config, store: Store, finished: Stage, trained: Stage | None) -> None:
    """Sends the cell's train run and cell run to the tracker, if one is on and they were not sent as they are before."""
    if config.tracking.kind == "none":
        return
    tracker = Tracker(config.tracking, store.root)
    if trained is not None:
        tracker.finished_train_run(trained.key, store.manifest(trained)["config"], read_metrics(store.folder(trained)))
    record = from_row(Result, read_json(store.folder(finished) / RESULT))
    curve = read_json(store.root / "selected" / record.keys["selected"] / CURVE) if trained else []
    values: dict[str, float] = {}
    samples = {}
    for score in record.scores:
        values |= {f"{score.benchmark}/{name}": getattr(score, name) for name in ("n", "unparsed", "truncated", "errors")}
        if score.accuracy is not None and score.interval is not None:
            low, high = score.interval
            if score.majority is not None and score.passed is not None:
                values |= {f"{score.benchmark}/majority": score.majority, f"{score.benchmark}/passed": score.passed}
            values |= {
                f"{score.benchmark}/accuracy": score.accuracy,
                f"{score.benchmark}/low": low,
                f"{score.benchmark}/high": high,
            }
        if BENCHMARKS[score.benchmark].private:  # its text, and what quotes it, stays here
            continue
        scored = finished.upstream[score.benchmark]
        generated = store.folder(scored.upstream["generations"])
        if (generated / GENERATIONS).exists():  # or the result was imported without them
            samples[score.benchmark] = _samples(config, score.benchmark, store.folder(scored), generated)
    created = store.manifest(finished)["created"]
    tracker.cell_run(finished.key, record.cell, values, samples, curve, trained.key if trained else None, created)


def _samples(config: Config, benchmark: str, scored: Path, generated: Path) -> list[list[Any]]:
    """The first items of a benchmark with their texts and grades: rows of tracking.SAMPLE_COLUMNS."""
    items = {item.id: item for item in load_items(benchmark, config.benchmarks.items, config.benchmarks.paths)}
    grades = {(row.problem_id, row.sample): row.outcome.value for row in read_records(scored / GRADES, Grade)}
    texts = read_records(generated / GENERATIONS, Generation)[:_SAMPLES]
    return [
        [
            row.problem_id,
            items[row.problem_id].question,
            items[row.problem_id].answer,
            row.final_text,
            grades[row.problem_id, row.sample],
        ]
        for row in texts
    ]
