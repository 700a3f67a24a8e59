"""The stage that fine-tunes: candidates saved on the way, and what the model was shown first."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cft_lab.config import Config, key_part
from cft_lab.json_files import read_records, write_json
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Example
from cft_lab.stages.common import EXAMPLES, MODEL, cell_label, prompt_texts
from cft_lab.stages.selection import score_new, scoring_settings
from cft_lab.store import Stage, Work
from cft_lab.tracking import Tracker, read_metrics
from cft_lab.training.candidates import candidate_step, list_candidates
from cft_lab.training.fitting import refusal
from cft_lab.training.job import TrainingJob
from cft_lab.training.launch import run_job
from cft_lab.training.resume import discard_resume, resume_step

Run = Callable[[int | None], dict[str, Any]]  # trains until an optimizer step (None: the last) and gives the counts


def candidates(config: Config, made: Stage, base: Stage, tracker: Tracker) -> Stage:
    """Fine-tuning: a candidate checkpoint every `train.save_every_steps` optimizer steps, or as `train.selection.mode` says."""
    settings = _settings(config)

    def make(work: Work) -> Mapping[str, Any]:
        with tracker.train_run(work.key, settings) as log:
            return _fine_tune(config, work, log)

    return Stage(
        "candidates",
        cell_label(config),
        settings,
        make,
        {"examples": made, "base": base},
        prompts=prompt_texts(config, "solve") if _is_bounded(config) and config.train.selection.scored_on else {},
        modules=("training", "runtime.py"),
        version=2,
        lacks=lambda: filter(None, [refusal(config)]),
    )


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
    _show_first_example(config, work)
    for row in read_metrics(work.folder):  # a resumed run is logged whole, so that nothing unsent is lost
        if row["step"] <= resume_step(work.folder):
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


def _show_first_example(config: Config, work: Work) -> None:
    """Records and says, once a training, what the model is trained on and the prompt that it is evaluated under."""
    from transformers import AutoTokenizer

    from cft_lab.runtime import render_prompt

    tokenizer = AutoTokenizer.from_pretrained(work.inputs["base"] / MODEL)
    render = functools.partial(render_prompt, tokenizer, FORMATS[config.model.prompt_format].style)
    example = read_records(work.inputs["examples"] / EXAMPLES, Example)[0]
    shown = {
        "prompt": render(example.messages),
        "supervised": example.target + config.model.end_of_turn,
        "evaluation_prompt": render(eval_solve(FORMATS[config.model.prompt_format], "{question}")),
    }
    write_json(work.folder / "first_example.json", shown)
    trained = f"{_shortened(shown['prompt'])}⟦{_shortened(shown['supervised'])}⟧"
    work.say(_indented("first training example, its supervised part in ⟦⟧:", trained))
    work.say(_indented("evaluated under the prompt:", shown["evaluation_prompt"]))


def _shortened(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} [{len(text) - limit:,} characters more] {text[-limit // 2 :]}"


def _indented(title: str, text: str) -> str:
    return "\n".join(["        " + title, *("          | " + line for line in text.splitlines())])
