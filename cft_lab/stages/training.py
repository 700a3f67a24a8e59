"""The stage that fine-tunes: candidates saved on the way, and what the model was shown first."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cft_lab.config import PROJECT_ROOT, Config, key_part
from cft_lab.json_files import read_records, write_json
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Example
from cft_lab.stages.common import EXAMPLES, MODEL, cell_label, prompt_texts
from cft_lab.stages.selection import score_new, scoring_settings
from cft_lab.stages.training_plan import check_before_training
from cft_lab.store import Stage, Work
from cft_lab.tracking import Tracker, read_metrics
from cft_lab.training.candidates import candidate_step, list_candidates
from cft_lab.training.costs import PARTIAL, count_steps, estimate_disk
from cft_lab.training.devices import find_device, passes_precision
from cft_lab.training.fitting import refusal
from cft_lab.training.job import TrainingJob
from cft_lab.training.launch import run_job
from cft_lab.training.lengths import assumed_lengths
from cft_lab.training.resume import discard_resume, resume_step
from cft_lab.training.shapes import shape_of

Run = Callable[[int | None], dict[str, Any]]  # trains until an optimizer step (None: the last) and gives the counts


def candidates(config: Config, made: Stage, base: Stage, tracker: Tracker) -> Stage:
    """Fine-tuning: a candidate checkpoint every `train.save_every_steps` optimizer steps, or as `train.selection.mode` says."""
    settings = _settings(config)

    def make(work: Work) -> Mapping[str, Any]:
        with tracker.train_run(work.key, settings) as log:
            return _fine_tune(config, work, log)

    stage = Stage(
        "candidates",
        cell_label(config),
        settings,
        make,
        {"examples": made, "base": base},
        prompts=prompt_texts(config, "solve") if _is_bounded(config) and config.train.selection.scored_on else {},
        modules=("training", "runtime.py"),
        version=2,
        lacks=lambda: filter(None, [refusal(config), _full_disk(config, stage.key)]),
    )
    return stage


def _full_disk(config: Config, key: str) -> str | None:
    """Why the disk cannot hold what a training here writes, lengths of sequences being assumed; None if it can, or nobody knows."""
    shape, device = shape_of(config.model), find_device(config)
    if shape is None or config.cluster.kind == "slurm" or not device.here:
        return None
    begun = PROJECT_ROOT / config.output_root / "candidates" / f"{key}{PARTIAL}"
    steps, precision = count_steps(config, assumed_lengths(config)), passes_precision(config.train, device.kind)
    return estimate_disk(config, shape, steps, precision, begun).shortage


def _is_bounded(config: Config) -> bool:
    return config.train.keep_candidates is not None and config.train.selection.mode != "none"


def _settings(config: Config) -> dict[str, Any]:
    """What the candidates depend on. Selection has a say only where it decides which are kept."""
    settings = {name: value for name, value in key_part(config.train, "train").items() if not name.startswith("train.selection")}
    if config.train.selection.mode == "none":
        settings |= {"train.save_every_steps": None, "train.keep_candidates": None}
    if _is_bounded(config):
        settings |= {"kept": config.train.selection.scored_on or "last"} | scoring_settings(config)
    return settings | {"seed": config.seed, "end_of_turn": config.model.end_of_turn}


def _fine_tune(config: Config, work: Work, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    _check_and_show(config, work)
    reached = resume_step(work.folder)
    for row in read_metrics(work.folder):  # a resumed run is logged whole, so that nothing unsent is lost
        if row["step"] <= reached:
            log(row)
    only_last = config.train.selection.mode == "none"
    job = TrainingJob(
        base=work.inputs["base"] / MODEL,
        examples=work.inputs["examples"] / EXAMPLES,
        folder=work.folder,
        train=replace(config.train, save_every_steps=sys.maxsize) if only_last else config.train,
        seed=config.seed,
        end_of_turn=config.model.end_of_turn,
        style=FORMATS[config.model.prompt_format].style,
    )

    def run(until_step: int | None) -> dict[str, Any]:
        return run_job(replace(job, until_step=until_step), report=log, say=work.say, progress=config.progress)

    counts = _train_in_turns(config, work, run) if _is_bounded(config) else run(None)
    discard_resume(work.folder)
    return counts


def _train_in_turns(config: Config, work: Work, run: Run) -> dict[str, Any]:
    """Trains until the disk holds as many candidates as it may, scores them and lets go of the worse half, and trains on.

    The training's processes end before an engine starts, and go on from their resume state.
    """
    keep = config.train.keep_candidates
    assert keep is not None
    while True:
        for folder in list_candidates(work.folder):
            if candidate_step(folder) > resume_step(work.folder):  # of a run that was killed: it is made again
                shutil.rmtree(folder)
        _let_go(config, work, keep // 2)
        held = [candidate_step(folder) for folder in list_candidates(work.folder)]
        every = config.train.save_every_steps
        reached = resume_step(work.folder) // every * every
        counts = run(reached + every * (keep - len(held)))
        if counts["step"] == counts["steps"]:
            _let_go(config, work, keep)
            return counts


def _let_go(config: Config, work: Work, keep: int) -> None:
    """Removes all but `keep` candidates: the best so far where they are scored, else the last."""
    held = {candidate_step(folder): folder for folder in list_candidates(work.folder)}
    ranked = sorted(held, reverse=True)
    if config.train.selection.scored_on is not None:
        ranked = [row["step"] for row in score_new(config, work, list(held.values())) if row["step"] in held]
    for step in ranked[keep:]:
        shutil.rmtree(held[step])


def _check_and_show(config: Config, work: Work) -> None:
    """Says the plan of the training, what the model is trained on and the prompt that it is evaluated under; records the latter.

    Raises DataError if the training cannot run as it is: what was assumed before anything was made is now measured.
    """
    from transformers import AutoTokenizer

    from cft_lab.runtime import render_prompt

    tokenizer = AutoTokenizer.from_pretrained(work.inputs["base"] / MODEL)
    render = functools.partial(render_prompt, tokenizer, FORMATS[config.model.prompt_format].style)
    examples = read_records(work.inputs["examples"] / EXAMPLES, Example)
    check_before_training(config, tokenizer, examples, work.folder, work.say)
    example = examples[0]
    shown = {
        "prompt": render(example.messages),
        "supervised": example.target + config.model.end_of_turn,
        "evaluation_prompt": render(eval_solve(FORMATS[config.model.prompt_format], "{question}")),
    }
    write_json(work.folder / "first_example.json", shown)
    work.say(_indented("evaluated under the prompt:", shown["evaluation_prompt"]))


def _indented(title: str, text: str) -> str:
    return "\n".join(["        " + title, *("          | " + line for line in text.splitlines())])
