"""The arms. A method is one pure function (problem, response, critique, prompt format) -> example, or None to drop the row.

To add one: write the function, give it a line in METHODS, add conf/method/<name>.yaml.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cft_lab.config import Config, DataError
from cft_lab.prompts import PromptFormat, train_critique, train_solve
from cft_lab.records import Critique, Example, Problem, Response

MakeExample = Callable[[Problem, Response | None, Critique | None, PromptFormat], Example | None]


def sft(problem: Problem, response: Response | None, critique: Critique | None, fmt: PromptFormat) -> Example | None:
    """Imitates the response as it is, right or wrong; one that was cut off has no end to learn."""
    if response is None or response.cut_off or not response.text.strip():
        return None
    return Example(problem.id, train_solve(fmt, problem.question), response.text)


def sft_verified(problem: Problem, response: Response | None, critique: Critique | None, fmt: PromptFormat) -> Example | None:
    """Imitates only responses that the teacher judged right."""
    if critique is None or critique.verdict is not True:
        return None
    return sft(problem, response, critique, fmt)


def cft(problem: Problem, response: Response | None, critique: Critique | None, fmt: PromptFormat) -> Example | None:
    """Imitates the teacher's critique of the response; one that was cut off has no end to learn."""
    if response is None or critique is None or critique.cut_off or not critique.text.strip():
        return None
    prompt = train_critique(fmt, problem.question, response.text)
    return Example(problem.id, prompt, fmt.critique_label + critique.text)


@dataclass(frozen=True)
class Method:
    """An arm: how it makes examples, and which upstream stages it reads. `response` is whose text is imitated.

    `like_responses` keeps only critiques short enough that they are, on average, as long as the responses.
    """

    make: MakeExample
    response: str  # responses (the data's or a model's own) | answers (the teacher's)
    needs_critiques: bool
    like_responses: bool = False


#: method name -> arm; None is the base model, evaluated as it is
METHODS: Mapping[str, Method | None] = {
    "base": None,
    "sft": Method(sft, "responses", needs_critiques=False),
    "sft-verified": Method(sft_verified, "responses", needs_critiques=True),
    "sft-teacher": Method(sft, "answers", needs_critiques=False),
    "cft": Method(cft, "responses", needs_critiques=True),
    "cft-short": Method(cft, "responses", needs_critiques=True, like_responses=True),
}
#: arms made of other arms, each on a source of its own: name -> (method, config field of the source)
MIXES: Mapping[str, tuple[tuple[str, str], ...]] = {"mix": (("cft", "data"), ("sft", "mix_data"))}


def parts(config: Config) -> dict[str, Config]:
    """The single arms that a cell trains on, each as a config of its own, by the field of their source; empty for base."""
    name = config.method.name
    if name in MIXES:
        return {
            source: dataclasses.replace(
                config, method=dataclasses.replace(config.method, name=method), data=getattr(config, source)
            )
            for method, source in MIXES[name]
        }
    return {} if METHODS[name] is None else {"data": config}


def needs_teacher(config: Config) -> bool:
    """Whether a single arm (see `parts`) asks its teacher anything: released critiques need none."""
    method = METHODS[config.method.name]
    assert method is not None
    return method.response == "answers" or (method.needs_critiques and config.data.critiques == "teacher")


def gold_is_the_responses_own(config: Config) -> bool:
    """Whether the gold answer is read from the very solution that is critiqued: it then says nothing about either."""
    return config.data.gold != "column" and config.responses.kind == "reference"


def usable_critiques(
    critiques: Iterable[Critique], keep: str, right: Mapping[str, bool | None], max_words: int | None
) -> tuple[dict[str, Critique], dict[str, int]]:
    """The critiques that pass the filters, by problem id, and how many each filter left out.

    `keep` is MethodConfig.keep_critiques; `right` says of the responses that could be graded whether they are right;
    `max_words` is the longest critique allowed, counted in words.
    """
    kept: dict[str, Critique] = {}
    left_out: Counter[str] = Counter()
    for critique in critiques:
        graded = right.get(critique.problem_id)
        if max_words is not None and len(critique.text.split()) > max_words:
            left_out["too_long"] += 1
        elif keep != "all" and critique.verdict is None:
            left_out["unparsed"] += 1
        elif keep == "agreeing" and graded is None:
            left_out["no_gold"] += 1
        elif keep == "agreeing" and critique.verdict is not graded:
            left_out["disagrees"] += 1
        else:
            kept[critique.problem_id] = critique
    return kept, dict(left_out)


def response_like_limit(critiques: Iterable[Critique], responses: Iterable[Response]) -> int:
    """The largest number of words such that the critiques up to it are, on average, no longer than the responses are.

    0 if even the shortest critiques are longer than the mean response.
    """
    target = [len(response.text.split()) for response in responses]
    mean = sum(target) / max(len(target), 1)
    lengths = Counter(len(critique.text.split()) for critique in critiques)
    total = count = limit = 0
    for words in sorted(lengths):  # all critiques of one length are kept or left out together
        total += words * lengths[words]
        count += lengths[words]
        if total > mean * count:
            break
        limit = words
    return limit


def make_examples(
    method: Method,
    problems: Iterable[Problem],
    responses: Mapping[str, Response],
    critiques: Mapping[str, Critique],
    fmt: PromptFormat,
) -> Iterator[Example | None]:
    """The method applied to every problem in pool order; None for a row that it drops."""
    for problem in problems:
        yield method.make(problem, responses.get(problem.id), critiques.get(problem.id), fmt)


def take(made: Iterable[Example | None], wanted: int | None) -> tuple[list[Example], int]:
    """The first `wanted` examples, or all if that is None, and the number of rows dropped on the way.

    Raises DataError, naming both counts, if the pool runs out first.
    """
    examples: list[Example] = []
    dropped = 0
    for example in made:
        if example is None:
            dropped += 1
            continue
        examples.append(example)
        if len(examples) == wanted:
            return examples, dropped
    if wanted is None and examples:
        return examples, dropped
    number = "all" if wanted is None else wanted
    raise DataError(
        f"data.examples={number} are wanted, but the pool of {len(examples) + dropped} problems gives {len(examples)} "
        f"({dropped} dropped by the method or its filters): raise data.pool or lower data.examples"
    )


def take_tokens(made: Iterable[Example | None], wanted: int, count: Callable[[Example], int | None]) -> tuple[list[Example], int]:
    """The first examples that together have `wanted` supervised tokens, less than one example over, and the rows dropped.

    `count` gives an example's supervised tokens, or None if training would drop it as too long. Raises DataError, naming
    both counts, if the pool runs out first.
    """
    examples: list[Example] = []
    dropped = total = 0
    for example in made:
        tokens = None if example is None else count(example)
        if example is None or tokens is None:
            dropped += 1
            continue
        examples.append(example)
        total += tokens
        if total >= wanted:
            return examples, dropped
    raise DataError(
        f"data.supervised_tokens={wanted} are wanted, but the pool of {len(examples) + dropped} problems gives {total} in "
        f"{len(examples)} examples ({dropped} dropped): raise data.pool or lower data.supervised_tokens"
    )
