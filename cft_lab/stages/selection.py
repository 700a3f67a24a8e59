"""Which candidate of a training is evaluated: scores on a validation set, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cft_lab.config import Config, key_part
from cft_lab.evaluation.benchmarks import BENCHMARKS, load_items
from cft_lab.evaluation.protocols import direct
from cft_lab.json_files import read_json, write_json
from cft_lab.prompts import FORMATS
from cft_lab.records import Outcome, Sampling
from cft_lab.stages.common import CURVE, MODEL, cell_label, grade_all, link_folder, open_engines, prompt_texts
from cft_lab.store import Stage, Work
from cft_lab.training.candidates import candidate_folder, candidate_step, check_model_folder, list_candidates

Curve = list[dict[str, int]]  # rows of {"step", "correct", "n"}


def scoring_settings(config: Config) -> dict[str, Any]:
    """What the scores of candidates depend on, for keys; empty if they are not scored."""
    selection = config.train.selection
    if selection.scored_on is None:
        return {}
    return {
        "train.selection.scored_on": selection.scored_on,
        "train.selection.max_new_tokens": selection.max_new_tokens,
        **key_part(config.engine, "engine"),
        "items": dict(BENCHMARKS[selection.scored_on].identity(config.benchmarks.paths)),
        "end_of_turn": config.model.end_of_turn,
        "stop": list(config.inference.stop),
    }


def selected(config: Config, trained: Stage) -> Stage:
    """The candidate that is evaluated: the best on the validation set (ties to the earlier step), or the last."""
    scored_on = config.train.selection.scored_on

    def make(work: Work) -> Mapping[str, Any]:
        upstream = work.inputs["candidates"]
        folders = list_candidates(upstream)
        if scored_on is None:
            curve, chosen = [], folders[-1]
        else:
            curve = read_curve(upstream) or score(config, work, folders)
            chosen = candidate_folder(upstream, best(curve)[0]["step"])
        check_model_folder(chosen)
        link_folder(chosen, work.folder / MODEL)
        write_json(work.folder / CURVE, curve)
        told: dict[str, Any] = {"step": candidate_step(chosen), "candidates": len(curve or folders)}
        if curve:
            told |= {"validation_correct": max(row["correct"] for row in curve), "validation_n": curve[0]["n"]}
        return told | ({"selected_on": "MATH-500, part of the MATH test set"} if config.train.selection.mode == "paper" else {})

    return Stage(
        "selected",
        f"{f'best on {scored_on}' if scored_on else 'last'} of {cell_label(config)}",
        {"mode": "last", **scoring_settings(config)} if scored_on is None else {"mode": "best", **scoring_settings(config)},
        make,
        {"candidates": trained},
        prompts=prompt_texts(config, "solve") if scored_on else {},
        modules=("evaluation", "engines", "runtime.py", "lab"),
    )


def score(config: Config, work: Work, folders: Sequence[Path]) -> Curve:
    """Scores of candidates on the validation set, with one start of the engine. Raises RuntimeError if an item failed."""
    selection = config.train.selection
    name = str(selection.scored_on)
    items = load_items(name, paths=config.benchmarks.paths)
    sampling = Sampling(selection.max_new_tokens, stop=tuple(config.inference.stop))
    curve = []
    with open_engines(config, work) as engine_over:
        for folder in folders:
            with engine_over(folder, f"{folder.name}.jsonl") as engine:
                made = direct(engine, items, FORMATS[config.model.prompt_format], config.inference, sampling)
            grades = grade_all(name, made, items)
            errors = sum(row.outcome is Outcome.ERROR for row in grades)
            if errors:
                raise RuntimeError(
                    f"{errors} of {len(items)} validation items of {folder.name} failed and say nothing about it; the others are "
                    "kept, run the same command again to retry only these"
                )
            correct = sum(row.outcome is Outcome.CORRECT for row in grades)
            curve.append({"step": candidate_step(folder), "correct": correct, "n": len(items)})
    return curve


def best(curve: Curve) -> Curve:
    """The rows of a curve from the best to the worst; of equals the earlier step comes first."""
    return sorted(curve, key=lambda row: (-row["correct"], row["step"]))


def score_new(config: Config, work: Work, folders: Sequence[Path]) -> Curve:
    """Scores and notes those candidates of an unfinished training that have no score yet; gives the whole curve, best first."""
    curve = read_curve(work.folder)
    known = {row["step"] for row in curve}
    fresh = [folder for folder in folders if candidate_step(folder) not in known]
    if fresh:
        curve = sorted([*curve, *score(config, work, fresh)], key=lambda row: row["step"])
        write_json(work.folder / CURVE, curve)
    return best(curve)


def read_curve(folder: Path) -> Curve:
    """The validation scores noted in a stage's folder; an empty list if there are none."""
    return read_json(folder / CURVE) if (folder / CURVE).exists() else []
