"""What several stages share: file names, engines, sampling, prompt texts for keys."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab import prompts
from cft_lab.config import Config
from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.prompts import FORMATS
from cft_lab.records import Generation, Grade, Message, Problem, Sampling
from cft_lab.store import Work
from cft_lab.tracking import MetricsFile

if TYPE_CHECKING:
    from cft_lab.engines.local import TransformersEngine

PROBLEMS, RESPONSES, CRITIQUES, EXAMPLES = "problems.jsonl", "responses.jsonl", "critiques.jsonl", "examples.jsonl"
GENERATIONS, GRADES, JOURNAL = "generations.jsonl", "grades.jsonl", "journal.jsonl"
CURVE = "curve.json"  # validation scores of the candidates, in a selected stage
MODEL = "model"  # the sub-folder of a stage that holds a model in the hub's format


def cell_label(config: Config) -> str:
    """What distinguishes a cell's model in listings: labels are no part of any key."""
    if config.method.name == "base":
        return f"base {config.model.name}"
    return f"{config.method.name} on {config.data.name} from {config.model.name}, seed {config.seed}"


def sampling_of(config: Config) -> Sampling:
    """Evaluation sampling; greedy decoding has no seed and no nucleus, so cells that differ only there share generations."""
    inference = config.inference
    stop = tuple(inference.stop)
    if config.temperature == 0:
        return Sampling(inference.max_new_tokens, stop=stop)
    return Sampling(inference.max_new_tokens, config.temperature, inference.top_p, config.seed, stop)


def grade_all(rows: Sequence[Generation], items: Sequence[Problem]) -> list[Grade]:
    """Grades of final texts against the items' golds, in the order of the texts."""
    gold = {item.id: str(item.answer) for item in items}
    return grade_many([Submission(row.problem_id, gold[row.problem_id], row.final_text, row.finish) for row in rows])


def open_engine(config: Config, folder: Path) -> TransformersEngine:
    """The cell's engine over a model folder; use as a context manager."""
    from cft_lab.engines.local import TransformersEngine

    return TransformersEngine(
        folder,
        style=FORMATS[config.model.prompt_format].style,
        end_of_turn=config.model.end_of_turn,
        batch_size=config.engine.batch_size,
        precision=config.engine.precision,
        cpu_threads=config.engine.cpu_threads,
    )


def prompt_texts(config: Config, *uses: str) -> dict[str, str]:
    """The prompt texts of the cell's format that a stage uses, for its key."""
    fmt = FORMATS[config.model.prompt_format]
    used = {
        "solve": prompts.eval_solve(fmt, "{question}"),
        "train": prompts.train_solve(fmt, "{question}") + prompts.train_critique(fmt, "{question}", "{solution}"),
        "single-pass": prompts.eval_single_pass(fmt, "{question}"),
        "critique": prompts.eval_critique(fmt, "{question}", "{solution}"),
    }
    return {use: _joined(used[use]) for use in uses if use in used} | {"style": fmt.style}


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(f"[{message.role}] {message.content}" for message in messages)


def open_metrics(work: Work) -> MetricsFile:
    """The stage's metrics file, cut back to where its training resumes."""
    from cft_lab.training.loop import resume_step

    return MetricsFile(work.folder, resume_step(work.folder))


def link_folder(source: Path, target: Path) -> None:
    """Copies a folder by hard links, or by value where the file system has none."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in source.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
