"""Stages that make models: the base model, the candidates of a fine-tuning, the selected candidate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cft_lab.config import SCORED_MODES, Config, ModelConfig, key_part
from cft_lab.evaluation.benchmarks import BENCHMARKS, load_items
from cft_lab.evaluation.protocols import direct
from cft_lab.json_files import read_records, write_json
from cft_lab.lab import WORLD_VERSION
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Example, Message, Outcome, Sampling
from cft_lab.runtime import cached_snapshot
from cft_lab.stages.common import (
    CURVE,
    EXAMPLES,
    MODEL,
    cell_label,
    grade_all,
    link_folder,
    open_engines,
    open_metrics,
    prompt_texts,
)
from cft_lab.store import Stage, Work
from cft_lab.tracking import Tracker


def base_model(config: Config) -> Stage:
    """A lab model pretrained here, a hub model from the local cache, or the name of a model behind an API."""
    model = config.model

    def make(work: Work) -> Mapping[str, Any]:
        if model.api_model:
            return {"api_model": model.api_model}
        return _pretrain(config, work) if model.lab else _link_hub_model(model, work)

    return Stage(
        "base_model",
        model.name,
        key_part(model, "model") | ({"world": WORLD_VERSION} if model.lab else {}),
        make,
        prompts=asdict(FORMATS["lab"]) if model.lab else {},
        modules=("lab", "training", "runtime.py"),
    )


def _pretrain(config: Config, work: Work) -> Mapping[str, Any]:
    from cft_lab.lab.base_models import new_model, web_sequences
    from cft_lab.lab.tokenizer import train_tokenizer
    from cft_lab.runtime import machine, save_model
    from cft_lab.training.encode import Encoded
    from cft_lab.training.loop import discard_resume, train

    lab = config.model.lab
    assert lab is not None
    tokenizer = train_tokenizer(lab.pretrain.seed, lab.pretrain.web, lab.vocab_size)
    sequences = [Encoded(tuple(ids), start) for ids, start in web_sequences(lab.pretrain, tokenizer)]
    model = new_model(lab, tokenizer)
    with open_metrics(work) as metrics:
        steps = train(
            model,
            sequences,
            lab.pretrain.optimization,
            seed=lab.pretrain.seed,
            folder=work.folder,
            pad_id=tokenizer.pad_token_id,
            save=lambda step: None,
            report=lambda row: metrics.append(asdict(row)),
            progress=config.progress,
        )
    save_model(model, tokenizer, config.model.end_of_turn, work.folder / MODEL)
    discard_resume(work.folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(len(sequence.ids) for sequence in sequences)
    return {"parameters": parameters, "steps": steps, "tokens": tokens, **machine()}


def _link_hub_model(model: ModelConfig, work: Work) -> Mapping[str, Any]:
    snapshot = cached_snapshot(str(model.hub_id), model.revision)
    if snapshot is None:
        raise FileNotFoundError(f"model.hub_id={model.hub_id}: its weights are not in the local cache")
    (work.folder / MODEL).unlink(missing_ok=True)
    (work.folder / MODEL).symlink_to(snapshot, target_is_directory=True)
    return {"snapshot": snapshot.name}


def candidates(config: Config, made: Stage, base: Stage, tracker: Tracker) -> Stage:
    """Fine-tuning: a candidate checkpoint every `train.save_every_steps` optimizer steps."""
    settings = {name: value for name, value in key_part(config.train, "train").items() if not name.startswith("train.selection")}
    settings |= {"seed": config.seed, "end_of_turn": config.model.end_of_turn}

    def make(work: Work) -> Mapping[str, Any]:
        with tracker.train_run(work.key, settings) as log:
            return _fine_tune(config, work, log)

    return Stage(
        "candidates",
        cell_label(config),
        settings,
        make,
        {"examples": made, "base": base},
        modules=("training", "runtime.py"),
    )


def _fine_tune(config: Config, work: Work, log: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    from transformers import AutoTokenizer

    from cft_lab.runtime import free, load_model, machine, quiet_transformers, render_prompt, save_model
    from cft_lab.training.encode import encode_examples
    from cft_lab.training.loop import discard_resume, train

    quiet_transformers()
    folder = work.inputs["base"] / MODEL
    style = FORMATS[config.model.prompt_format].style
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = read_records(work.inputs["examples"] / EXAMPLES, Example)
    encoded = encode_examples(rows, tokenizer, style, config.model.end_of_turn, config.train.max_length)
    _show_first_example(config, work, rows[0], functools.partial(render_prompt, tokenizer, style))
    model = load_model(folder, "float32")
    with open_metrics(work) as metrics:

        def note(row: Mapping[str, Any]) -> None:
            metrics.append(row)
            log(row)

        for row in metrics.kept:  # a resumed run is logged whole, so that nothing unsent is lost
            log(row)

        def save(step: int) -> None:
            save_model(model, tokenizer, config.model.end_of_turn, _candidate(work.folder, step))
            note({"step": step, "candidate": 1})

        steps = train(
            model,
            encoded.sequences,
            config.train,
            seed=config.seed,
            folder=work.folder,
            pad_id=tokenizer.pad_token_id,
            save=save,
            report=lambda row: note(asdict(row)),
            progress=config.progress,
        )
    counts = {"steps": steps, "examples": len(encoded.sequences), "too_long": encoded.too_long}
    free(model)
    discard_resume(work.folder)
    return counts | {"supervised_tokens": encoded.num_targets * config.train.epochs, **machine()}


def _show_first_example(config: Config, work: Work, example: Example, render: Callable[[Sequence[Message]], str]) -> None:
    """Records and says, once a training, what the model is trained on and the prompt that it is evaluated under."""
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


def _candidate(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def selected(config: Config, trained: Stage) -> Stage:
    """The candidate that is evaluated: the best on the validation set (ties to the earlier step), or the last."""
    selection = config.train.selection
    settings: dict[str, Any] = {"mode": selection.mode}
    if selection.mode in SCORED_MODES:
        settings |= key_part(selection, "train.selection") | key_part(config.engine, "engine")
        settings |= {
            "items": dict(BENCHMARKS[selection.benchmark].identity(config.benchmarks.paths)),
            "end_of_turn": config.model.end_of_turn,
            "stop": list(config.inference.stop),
        }

    def make(work: Work) -> Mapping[str, Any]:
        folders = sorted(work.inputs["candidates"].glob("step-*"))
        curve = _validation_curve(config, work, folders) if selection.mode in SCORED_MODES else []
        chosen = folders[max(range(len(folders)), key=lambda i: (curve[i]["correct"], -i))] if curve else folders[-1]
        link_folder(chosen, work.folder / MODEL)
        write_json(work.folder / CURVE, curve)
        best = {"validation_correct": max(row["correct"] for row in curve), "validation_n": curve[0]["n"]} if curve else {}
        return {"step": int(chosen.name.removeprefix("step-")), "candidates": len(folders)} | best

    return Stage(
        "selected",
        f"{f'best on {selection.benchmark}' if selection.mode in SCORED_MODES else 'last'} of {cell_label(config)}",
        settings,
        make,
        {"candidates": trained},
        prompts=prompt_texts(config, "solve") if selection.mode in SCORED_MODES else {},
        modules=("evaluation", "engines", "runtime.py", "lab"),
    )


def _validation_curve(config: Config, work: Work, folders: Sequence[Path]) -> list[dict[str, int]]:
    selection = config.train.selection
    items = load_items(selection.benchmark, paths=config.benchmarks.paths)
    sampling = Sampling(selection.max_new_tokens, stop=tuple(config.inference.stop))
    curve = []
    with open_engines(config, work) as engine_over:
        for folder in folders:
            with engine_over(folder, f"{folder.name}.jsonl") as engine:
                made = direct(engine, items, FORMATS[config.model.prompt_format], config.inference, sampling)
            grades = grade_all(selection.benchmark, made, items)
            errors = sum(row.outcome is Outcome.ERROR for row in grades)
            if errors:
                raise RuntimeError(
                    f"{errors} of {len(items)} validation items of {folder.name} failed and say nothing about it; the others are "
                    "kept, run the same command again to retry only these"
                )
            correct = sum(row.outcome is Outcome.CORRECT for row in grades)
            curve.append({"step": int(folder.name.removeprefix("step-")), "correct": correct, "n": len(items)})
    return curve
