"""Stages from questions to training examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cft_lab import prompts
from cft_lab.config import Config, DataError, key_part
from cft_lab.data.critique_quality import quality, response_grades
from cft_lab.data.methods import (
    METHODS,
    Method,
    gold_is_the_responses_own,
    make_examples,
    response_like_limit,
    take,
    take_tokens,
    usable_critiques,
)
from cft_lab.data.sources import load_pool, missing_source, source_identity, too_few_rows
from cft_lab.engines.base import Prompt
from cft_lab.evaluation.benchmarks import BENCHMARKS, load_items
from cft_lab.evaluation.grading import GRADERS_VERSION, Submission, grade_many
from cft_lab.evaluation.profiles import ANY, LAB
from cft_lab.evaluation.protocols import direct
from cft_lab.json_files import read_records, write_records
from cft_lab.lab import WORLD_VERSION
from cft_lab.prompts import FORMATS
from cft_lab.records import Completion, Critique, Example, Grade, Message, Outcome, Problem, Response, Sampling
from cft_lab.stages import writers
from cft_lab.stages.common import CRITIQUES, EXAMPLES, GRADES, MODEL, PROBLEMS, RESPONSES, open_engine, prompt_texts
from cft_lab.stages.writers import Replies, Writer
from cft_lab.store import Stage, Work
from cft_lab.verdicts import parse_verdict

#: fields of a source that later stages read
_LATER = ("data.examples", "data.supervised_tokens")


def problems(config: Config) -> Stage:
    """The pool of questions with the data set's own responses (and critiques), less those that overlap with evaluation."""
    data, paths = config.data, config.benchmarks.paths
    words = 0 if data.source == "lab" else config.decontamination.words  # no lab problem is in two splits
    settings = {name: value for name, value in key_part(data, "data").items() if name not in _LATER}
    settings |= source_identity(data) | ({"world": WORLD_VERSION} if data.lab else {})
    evaluated = evaluated_benchmarks(config) if words else []
    if words:
        against = {name: dict(BENCHMARKS[name].identity(paths)) for name in evaluated}
        settings["decontamination"] = {"words": words, "against": against}

    def make(work: Work) -> Mapping[str, Any]:
        questions = [(name, item.question) for name in evaluated for item in load_items(name, paths=paths)]
        pool = load_pool(data, questions, words, [name for name in evaluated if BENCHMARKS[name].private])
        write_records(work.folder / CRITIQUES, pool.critiques)
        return {"problems": write_records(work.folder / PROBLEMS, pool.problems)} | pool.counts

    def lacks() -> Iterator[str]:
        yield from (_renamed(config, line) for line in missing_source(data))
        yield from (line for name in evaluated if (line := BENCHMARKS[name].missing(paths)))

    return Stage("problems", data.name, settings, make, modules=("lab", "data"), lacks=lacks)


def evaluated_benchmarks(config: Config) -> list[str]:
    """What training questions are checked against: the cell's benchmarks, its validation set, and those named besides."""
    chosen = {*config.benchmarks.names, *config.decontamination.benchmarks, config.train.selection.scored_on}
    return sorted(name for name in chosen if name is not None)


def responses(config: Config, pool: Stage, base: Stage) -> Stage:
    """A response to every problem of the pool: the data set's own, the base model's, or another model's."""
    kind = config.responses.kind
    writer = Writer(config.responses, "responses", kind)
    own = kind == "self"
    settings: dict[str, Any] = {"kind": kind, "graders": GRADERS_VERSION}
    texts: dict[str, str] = {}
    if own:
        settings |= key_part(config.responses, "responses") | key_part(config.engine, "engine")
        settings |= {"stop": list(config.inference.stop), "end_of_turn": config.model.end_of_turn}
        texts = prompt_texts(config, "solve")
    elif kind != "reference":
        settings |= writer.settings(config)
        texts = {message.role: message.content for message in _solve(config, "{question}")}

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        counts: dict[str, Any] = {}
        if kind == "reference":
            rows = [Response(item.id, item.solution or "", item.source) for item in items]
        elif own:
            rows = _self_responses(config, work, items)
        else:
            asked = {item.id: Prompt(f"{item.id}/solve", _solve(config, item.question)) for item in items}
            rows, counts = _write(
                writer, config, work, asked, lambda name, reply: Response(name, reply.text, writer.author, reply.finish == "length")
            )
        count = write_records(work.folder / RESPONSES, rows)
        graded = [] if gold_is_the_responses_own(config) else items
        return {"responses": count} | _grade_responses(config, work, graded, rows) | counts

    return Stage(
        "responses",
        f"{config.responses.name} of {config.data.name}",
        settings,
        make,
        {"problems": pool} | ({"base": base} if own else {}),
        prompts=texts,
        modules=("engines", "evaluation", "runtime.py"),
        lacks=lambda: writers.lacks(writer, config) if kind in ("local", "openai") else (),
    )


def _solve(config: Config, question: str) -> tuple[Message, ...]:
    return prompts.eval_solve(FORMATS[config.responses.prompt_format], question)


def _grade_responses(config: Config, work: Work, items: Iterable[Problem], rows: Iterable[Response]) -> dict[str, int]:
    """Grades what has a gold answer into a file of its own, for the quality of critiques."""
    gold = {item.id: str(item.answer) for item in items if item.answer is not None}
    known = [Submission(row.problem_id, gold[row.problem_id], row.text) for row in rows if row.problem_id in gold]
    grades = grade_many(known, LAB if config.data.source == "lab" else ANY)
    write_records(work.folder / GRADES, grades)
    return {"with_gold": len(grades), "right": sum(row.outcome is Outcome.CORRECT for row in grades)}


def _self_responses(config: Config, work: Work, items: list[Problem]) -> list[Response]:
    wanted = config.responses
    stop = tuple(config.inference.stop)
    sampling = Sampling(wanted.max_new_tokens, wanted.temperature, wanted.top_p, wanted.seed, stop)
    with open_engine(config, work, work.inputs["base"] / MODEL) as engine:
        made = direct(engine, items, FORMATS[config.model.prompt_format], config.inference, sampling)
    return [Response(row.problem_id, row.final_text, config.model.name, row.finish == "length") for row in made]


def _write(
    writer: Writer, config: Config, work: Work, asked: Mapping[str, Prompt], record: Callable[[str, Completion], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Has the writer answer `asked` (by problem id) and returns record(problem id, reply) of each reply, and counts."""
    writers.ask(writer, config, work, list(asked.values()))
    replies = Replies(writer, work, asked, config.prices)
    rows = [record(name, completion) for name, completion in replies]
    return rows, replies.counts()


def critiques(config: Config, pool: Stage, responded: Stage) -> Stage:
    """A critique of every response of the pool: the teacher's, or those that the data set came with."""
    released = config.data.critiques == "released"

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        texts = {row.problem_id: row.text for row in read_records(work.inputs["responses"] / RESPONSES, Response)}
        counts: dict[str, Any] = {}
        if released:
            rows = read_records(work.inputs["problems"] / CRITIQUES, Critique)
        else:
            answered = [item for item in items if texts.get(item.id, "").strip()]
            asked = {i.id: Prompt(f"{i.id}/critique", prompts.teacher_critique(i.question, texts[i.id])) for i in answered}
            rows, counts = _write(_teacher(config), config, work, asked, lambda name, reply: _critique(config, name, reply))
            counts["no_response"] = len(items) - len(answered)
        write_records(work.folder / CRITIQUES, rows)
        verdicts = [row.verdict for row in rows]
        found = {"right": verdicts.count(True), "wrong": verdicts.count(False), "unparsed": verdicts.count(None)}
        grades = response_grades(read_records(work.inputs["responses"] / GRADES, Grade))
        return {"critiques": len(rows)} | found | counts | {"quality": quality(rows, grades)}

    upstream = {"problems": pool, "responses": responded}
    if released:
        return Stage("critiques", "released", {"kind": "released"}, make, upstream, modules=("data", "verdicts.py"))
    return _teacher_stage("critiques", config, make, upstream, prompts.TEACHER_CRITIQUE_SYSTEM)


def _response(writer: Writer, problem_id: str, reply: Completion) -> Response:
    return Response(problem_id, reply.text, writer.author, reply.finish == "length")


def _critique(config: Config, problem_id: str, reply: Completion) -> Critique:
    return Critique(problem_id, reply.text, _teacher(config).author, parse_verdict(reply.text), reply.finish == "length")


def answers(config: Config, pool: Stage) -> Stage:
    """The teacher's own answer to every question of the pool (sft-teacher)."""

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        asked = {item.id: Prompt(f"{item.id}/answer", prompts.teacher_answer(item.question)) for item in items}
        teacher = _teacher(config)
        rows, counts = _write(teacher, config, work, asked, lambda name, reply: _response(teacher, name, reply))
        return {"answers": write_records(work.folder / RESPONSES, rows)} | _grade_responses(config, work, items, rows) | counts

    return _teacher_stage("answers", config, make, {"problems": pool}, prompts.TEACHER_ANSWER_SYSTEM)


def _teacher(config: Config) -> Writer:
    return Writer(config.teacher, "teacher", config.teacher.kind)


def _teacher_stage(name: str, config: Config, make: Any, upstream: Mapping[str, Stage], system: str) -> Stage:
    writer = _teacher(config)
    return Stage(
        name,
        config.teacher.name,
        writer.settings(config),
        make,
        upstream,
        prompts={"system": system, "body": prompts.question_and_solution("{question}", "{solution}")},
        modules=("engines", "lab", "verdicts.py", "prompts.py", "data/critique_quality.py"),
        lacks=lambda: writers.lacks(writer, config),
    )


def examples(config: Config, pool: Stage, responded: Stage, critiqued: Stage | None, base: Stage) -> Stage:
    """The arm's training examples: the first that the method can make in pool order, by number or by supervised tokens."""
    data, method = config.data, METHODS[config.method.name]
    assert method is not None
    upstream = {"problems": pool, "responses": responded} | ({"critiques": critiqued} if critiqued else {})
    settings: dict[str, Any] = {"method": config.method.name, "format": config.model.prompt_format}
    if critiqued:
        settings |= {name: value for name, value in key_part(config.method, "method").items() if name != "method.name"}
    if data.supervised_tokens is None:
        settings["examples"] = data.examples
    else:
        upstream["base"] = base
        settings |= {"supervised_tokens": data.supervised_tokens, "max_length": config.train.max_length}
        settings["end_of_turn"] = config.model.end_of_turn

    def make(work: Work) -> Mapping[str, Any]:
        items = read_records(work.inputs["problems"] / PROBLEMS, Problem)
        texts = {row.problem_id: row for row in read_records(work.inputs["responses"] / RESPONSES, Response)}
        usable, counts = _usable_critiques(config, method, work, texts) if critiqued else ({}, {})
        made = make_examples(method, items, texts, usable, FORMATS[config.model.prompt_format])
        try:
            if data.supervised_tokens is None:
                rows, dropped = take(made, data.examples)
            else:
                rows, dropped = take_tokens(made, data.supervised_tokens, _token_counter(config, work.inputs["base"] / MODEL))
        except DataError as error:
            raise DataError(_renamed(config, f"{error}{_why_short(work, len(items), data.pool, counts)}")) from None
        write_records(work.folder / EXAMPLES, rows)
        return {"examples": len(rows), "dropped": dropped} | counts

    return Stage(
        "examples",
        f"{config.method.name} on {config.data.name}",
        settings,
        make,
        upstream,
        prompts=prompt_texts(config, "train"),
        modules=("data/methods.py", "prompts.py"),
        lacks=lambda: (_renamed(config, line) for line in too_few_rows(data)),
    )


def _renamed(config: Config, message: str) -> str:
    """A message about data.* that names mix_data.* where that is the source (see methods.parts)."""
    return re.sub(r"\bdata([.=])", r"mix_data\1", message) if config.data is config.mix_data else message


def _why_short(work: Work, problems: int, pool: int, counts: Mapping[str, Any]) -> str:
    """What else is to be said when an arm finds too few examples."""
    left_out = counts.get("left_out") or {}
    filtered = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items())
    why = f"; critiques left out by the filters: {filtered}" if filtered else ""
    return why + (f"; the source has only {problems} usable rows, less than data.pool={pool}" if problems < pool else "")


def _usable_critiques(
    config: Config, method: Method, work: Work, texts: Mapping[str, Response]
) -> tuple[dict[str, Critique], dict[str, Any]]:
    rows = read_records(work.inputs["critiques"] / CRITIQUES, Critique)
    grades = response_grades(read_records(work.inputs["responses"] / GRADES, Grade))
    longest = config.method.max_critique_words
    if method.like_responses and longest is None:
        longest = response_like_limit(rows, texts.values())
    usable, left_out = usable_critiques(rows, config.method.keep_critiques, grades, longest)
    return usable, {"left_out": left_out, "max_critique_words": longest}


def _token_counter(config: Config, model: Path) -> Callable[[Example], int | None]:
    """Counts an example's supervised tokens as training does; None if it is too long to be trained on."""
    from transformers import AutoTokenizer

    from cft_lab.training.encode import encode_examples

    tokenizer = AutoTokenizer.from_pretrained(model)
    style = FORMATS[config.model.prompt_format].style

    def count(example: Example) -> int | None:
        encoded = encode_examples([example], tokenizer, style, config.model.end_of_turn, config.train.max_length)
        return encoded.num_targets or None

    return count


def mixed_examples(config: Config, parts: Mapping[str, Stage]) -> Stage:
    """The examples of several arms, one after the other; training draws their order."""

    def make(work: Work) -> Mapping[str, Any]:
        def rows() -> Iterator[Example]:
            for folder in work.inputs.values():
                yield from read_records(folder / EXAMPLES, Example)

        return {"examples": write_records(work.folder / EXAMPLES, rows())}

    return Stage("examples", f"{config.method.name} on {config.data.name}", {"method": config.method.name}, make, parts)
