"""What several stages share: file names, engines, sampling, prompt texts for keys."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

from cft_lab import prompts
from cft_lab.config import Config, EngineConfig
from cft_lab.engines.base import Engine
from cft_lab.engines.journal import JournalEngine, Memory
from cft_lab.engines.progress import Progress
from cft_lab.engines.sharding import FolderEngine, ModelFolder, open_model
from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.profiles import profile_of
from cft_lab.json_files import Journal
from cft_lab.prompts import FORMATS
from cft_lab.records import Generation, Grade, Message, Problem, Sampling
from cft_lab.stages.api import open_api
from cft_lab.store import Work
from cft_lab.tracking import MetricsFile
from cft_lab.training.candidates import check_model_folder

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


def grade_all(benchmark: str, rows: Sequence[Generation], items: Sequence[Problem]) -> list[Grade]:
    """Grades of final texts against the golds of a benchmark's items, in the order of the texts."""
    by_id = {item.id: item for item in items}
    graded = grade_many([_submission(row, by_id[row.problem_id]) for row in rows], profile_of(benchmark))
    return [dataclasses.replace(found, sample=row.sample) for found, row in zip(graded, rows, strict=True)]


def _submission(row: Generation, item: Problem) -> Submission:
    """What the graders get of a final text; a refused item was not measured."""
    return Submission(
        row.problem_id,
        str(item.answer),
        row.final_text,
        "error" if row.finish == "refused" else row.finish,
        options=item.options or (),
        tolerance=Fraction(str(item.tolerance or 0)),
    )


@contextlib.contextmanager
def open_engine(config: Config, work: Work, folder: Path) -> Iterator[JournalEngine]:
    """The cell's engine over a model folder, with a journal in the stage's folder."""
    if config.engine.kind != "openai":
        with open_engines(config, work) as engine_over, engine_over(folder, JOURNAL) as engine:
            yield engine
        return
    with Journal(work.folder / JOURNAL) as journal:
        model = str(config.model.api_model)
        with open_api(model, config.engine, "engine", config, work, Memory(journal)) as api:
            yield JournalEngine(api, journal)


@contextlib.contextmanager
def open_engines(config: Config, work: Work) -> Iterator[Callable[[Path, str], AbstractContextManager[JournalEngine]]]:
    """The cell's engine over one model folder after another, such as the candidates of a training: it is started once.

    Yields a function of the folder and its journal's name in the stage's folder; what it opens is good until the next is opened.
    It raises DataError, naming the file, if the folder is not whole.
    """
    with contextlib.ExitStack() as stack:
        started: list[FolderEngine] = []

        @contextlib.contextmanager
        def engine_over(folder: Path, journal_name: str) -> Iterator[JournalEngine]:
            check_model_folder(folder)
            with Journal(work.folder / journal_name) as journal:
                if started:
                    started[0].swap(folder)
                else:
                    model = ModelFolder(folder, FORMATS[config.model.prompt_format].style, config.model.end_of_turn)
                    started.append(stack.enter_context(open_model(model, config.engine)))
                yield JournalEngine(Progress(started[0]) if config.progress else started[0], journal)

        yield engine_over


@contextlib.contextmanager
def open_folder(
    engine: EngineConfig, folder: Path, prompt_format: str, end_of_turn: str, progress: bool = False
) -> Iterator[Engine]:
    """An engine over a folder of any model. Raises DataError if the folder is not whole."""
    check_model_folder(folder)
    with open_model(ModelFolder(folder, FORMATS[prompt_format].style, end_of_turn), engine) as opened:
        yield Progress(opened) if progress else opened


def prompt_texts(config: Config, *uses: str) -> dict[str, str]:
    """The prompt texts of the cell's format that a stage uses, for its key."""
    fmt = FORMATS[config.model.prompt_format]
    used = {
        "solve": prompts.eval_solve(fmt, "{question}"),
        "train": (
            *prompts.train_solve(fmt, "{question}"),
            *prompts.train_critique(fmt, "{question}", "{solution}"),
            Message("assistant", fmt.critique_label),
        ),
        "single-pass": prompts.eval_single_pass(fmt, "{question}"),
        "critique": prompts.eval_critique(fmt, "{question}", "{solution}"),
    }
    options = {"options": prompts.with_options("{question}", ("{option}",))} if "solve" in uses else {}
    return {use: _joined(used[use]) for use in uses if use in used} | {"style": fmt.style} | options


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(f"[{message.role}] {message.content}" for message in messages)


def open_metrics(work: Work) -> MetricsFile:
    """The stage's metrics file, cut back to where its training resumes."""
    from cft_lab.training.resume import resume_step

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
