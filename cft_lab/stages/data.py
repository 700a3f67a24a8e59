"""Stages from questions to training examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cft_lab import prompts
from cft_lab.config import Config, key_part
from cft_lab.data.methods import Method, build_examples
from cft_lab.data.sources import load_problems
from cft_lab.engines.base import Prompt
from cft_lab.engines.journal import JournalEngine
from cft_lab.engines.oracle import OracleEngine
from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.protocols import direct
from cft_lab.lab import WORLD_VERSION
from cft_lab.lab.oracle import Oracle
from cft_lab.prompts import FORMATS
from cft_lab.records import Critique, Outcome, Problem, Response, Sampling
from cft_lab.stages.common import CRITIQUES, EXAMPLES, JOURNAL, MODEL, PROBLEMS, RESPONSES, open_engine, prompt_texts
from cft_lab.store import Journal, Stage, Work, read_records, write_records
from cft_lab.verdicts import parse_verdict


def problems(config: Config) -> Stage:
    """The pool of questions with the data set's own responses."""
    data = config.data
    kept = {name: value for name, value in key_part(data, "data").items() if name != "data.examples"}

    def make(work: Work) -> Mapping[str, Any]:
        return {"problems": write_records(work.folder / PROBLEMS, load_problems(data))}

    world = {"world": WORLD_VERSION} if data.lab else {}
    return Stage("problems", data.name, kept | world, make, modules=("lab", "data/sources.py"))


def responses(config: Config, pool: Stage, base: Stage) -> Stage:
    """A response to every problem of the pool: the data set's own, or the base model's."""
    kind = config.responses.kind
    settings: dict[str, Any] = {"kind": kind}
    if kind == "self":
        settings |= key_part(config.responses, "responses") | key_part(config.engine, "engine")
        settings |= {"stop": list(config.inference.stop), "end_of_turn": config.model.end_of_turn}

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        if kind == "reference":
            rows = [Response(item.id, item.solution or "", item.source) for item in items]
        else:
            rows = _self_responses(config, work, items)
        known = [(row, item) for row, item in zip(rows, items, strict=True) if item.answer is not None]
        grades = grade_many([Submission(item.id, str(item.answer), row.text) for row, item in known])
        right = sum(row.outcome is Outcome.CORRECT for row in grades)
        count = write_records(work.folder / RESPONSES, rows)
        return {"responses": count, "with_gold": len(known), "right": right}

    return Stage(
        "responses",
        f"{config.responses.name} of {config.data.name}",
        settings,
        make,
        {"problems": pool} | ({"base": base} if kind == "self" else {}),
        prompts=prompt_texts(config, "solve") if kind == "self" else {},
        modules=("engines", "evaluation", "runtime.py"),
    )


def _self_responses(config: Config, work: Work, items: Sequence[Problem]) -> list[Response]:
    wanted = config.responses
    stop = tuple(config.inference.stop)
    sampling = Sampling(wanted.max_new_tokens, wanted.temperature, wanted.top_p, wanted.seed, stop)
    with open_engine(config, work.inputs["base"] / MODEL) as engine, Journal(work.folder / JOURNAL) as journal:
        made = direct(JournalEngine(engine, journal), items, FORMATS[config.model.prompt_format], config.inference, sampling)
    return [Response(row.problem_id, row.final_text, config.model.name) for row in made]


def critiques(config: Config, pool: Stage, responded: Stage) -> Stage:
    """The teacher's critique of every response of the pool."""

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        texts = {row.problem_id: row.text for row in read_records(work.inputs["responses"] / RESPONSES, Response)}
        asked = [Prompt(f"{i.id}/critique", prompts.teacher_critique(i.question, texts[i.id])) for i in items]
        rows = [
            Critique(item.id, text, config.teacher.name, parse_verdict(text))
            for item, text in zip(items, _ask_teacher(config, work, asked), strict=True)
        ]
        write_records(work.folder / CRITIQUES, rows)
        verdicts = [row.verdict for row in rows]
        counts = {"right": verdicts.count(True), "wrong": verdicts.count(False), "unparsed": verdicts.count(None)}
        return {"critiques": len(rows)} | counts

    return _teacher_stage("critiques", config, make, {"problems": pool, "responses": responded}, prompts.TEACHER_CRITIQUE_SYSTEM)


def answers(config: Config, pool: Stage) -> Stage:
    """The teacher's own answer to every question of the pool (sft-teacher)."""

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        asked = [Prompt(f"{item.id}/answer", prompts.teacher_answer(item.question)) for item in items]
        texts = _ask_teacher(config, work, asked)
        rows = [Response(item.id, text, config.teacher.name) for item, text in zip(items, texts, strict=True)]
        return {"answers": write_records(work.folder / RESPONSES, rows)}

    return _teacher_stage("answers", config, make, {"problems": pool}, prompts.TEACHER_ANSWER_SYSTEM)


def _teacher_stage(name: str, config: Config, make: Any, upstream: Mapping[str, Stage], system: str) -> Stage:
    settings = key_part(config.teacher, "teacher")
    modules = ("engines", "lab", "verdicts.py", "prompts.py")
    texts = {"system": system, "body": prompts.question_and_solution("{question}", "{solution}")}
    return Stage(name, config.teacher.name, settings, make, upstream, prompts=texts, modules=modules)


def _ask_teacher(config: Config, work: Work, asked: Sequence[Prompt]) -> list[str]:
    """One text per prompt, in order. Raises RuntimeError, after everything else was journalled, if a prompt failed."""
    teacher = config.teacher
    engine = OracleEngine(Oracle(teacher.error_rate, teacher.seed))
    sampling = Sampling(teacher.max_new_tokens, teacher.temperature, teacher.top_p, teacher.seed)
    with Journal(work.folder / JOURNAL) as journal:
        completions = dict(JournalEngine(engine, journal).generate(asked, sampling))
    failed = [completion.text for completion in completions.values() if completion.finish == "error"]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(asked)} prompts to teacher {teacher.name} failed, the first with: {failed[0]}; "
            "the others are kept, run the same command again to retry only these"
        )
    return [completions[i].text for i in range(len(asked))]


def examples(config: Config, method: Method, pool: Stage, responded: Stage, critiqued: Stage | None) -> Stage:
    """The arm's training examples, the first `data.examples` that the method can make in pool order."""
    upstream = {"problems": pool, "responses": responded} | ({"critiques": critiqued} if critiqued else {})
    settings = {"method": config.method.name, "examples": config.data.examples, "format": config.model.prompt_format}

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        texts = {row.problem_id: row for row in read_records(work.inputs["responses"] / RESPONSES, Response)}
        judged: dict[str, Critique] = {}
        if critiqued:
            judged = {row.problem_id: row for row in read_records(work.inputs["critiques"] / CRITIQUES, Critique)}
        fmt = FORMATS[config.model.prompt_format]
        rows, dropped = build_examples(method, config.data.examples, items, texts, judged, fmt)
        write_records(work.folder / EXAMPLES, rows)
        return {"examples": len(rows), "dropped": dropped}

    return Stage(
        "examples",
        f"{config.method.name} on {config.data.name}",
        settings,
        make,
        upstream,
        prompts=prompt_texts(config, "train"),
        modules=("data/methods.py", "prompts.py"),
    )
