"""The stage that fine-tunes: candidates saved on the way, and what the model was shown first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cft_lab.config import Config, key_part
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Example, Message
from cft_lab.stages.common import EXAMPLES, MODEL, cell_label, open_metrics
from cft_lab.stages.selection import candidate
from cft_lab.store import Stage, Work, read_records, write_json
from cft_lab.tracking import Tracker


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
            save_model(model, tokenizer, config.model.end_of_turn, candidate(work.folder, step))
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
