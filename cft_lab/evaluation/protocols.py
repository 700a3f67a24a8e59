"""Inference protocols: small functions over an engine that turn questions into final texts.

    direct       one generation
    single-pass  one generation that solves, checks and corrects itself
    two-stage    solve, critique in a separate call, solve again until the critique says right; the last solution is kept

A prompt's id names its purpose and round, so at a temperature above 0 every round draws anew; greedy rounds repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cft_lab.config import InferenceConfig
from cft_lab.engines.base import Engine, Prompt
from cft_lab.prompts import PromptFormat, eval_critique, eval_single_pass, eval_solve, with_options
from cft_lab.records import Completion, Generation, Message, Problem, Sampling, Turn
from cft_lab.verdicts import parse_verdict

Protocol = Callable[[Engine, Sequence[Problem], PromptFormat, InferenceConfig, Sampling], list[Generation]]


def asked(item: Problem) -> str:
    """The question as a model gets it."""
    return with_options(item.question, item.options)


def direct(
    engine: Engine, items: Sequence[Problem], fmt: PromptFormat, inference: InferenceConfig, sampling: Sampling
) -> list[Generation]:
    """One generation per item."""
    return _one_call(engine, items, lambda item: eval_solve(fmt, asked(item)), "solve", sampling)


def single_pass(
    engine: Engine, items: Sequence[Problem], fmt: PromptFormat, inference: InferenceConfig, sampling: Sampling
) -> list[Generation]:
    """One generation per item that holds solution, critique and correction; its last boxed answer counts."""
    return _one_call(engine, items, lambda item: eval_single_pass(fmt, asked(item)), "single-pass", sampling)


def two_stage(
    engine: Engine, items: Sequence[Problem], fmt: PromptFormat, inference: InferenceConfig, sampling: Sampling
) -> list[Generation]:
    """At most `inference.max_rounds` solutions per item; a round ends the item when `parse_verdict` says right.

    Greedy decoding would write the same solution again, so at temperature 0 one critique is made and the loop ends.
    """
    turns: dict[str, list[Turn]] = {item.id: [] for item in items}
    rounds = inference.max_rounds if sampling.temperature > 0 else 1
    active = list(items)
    for number in range(rounds):
        solutions = _complete(engine, active, lambda item: eval_solve(fmt, asked(item)), f"solve/{number}", sampling)
        for item in active:
            turns[item.id].append(Turn("solve", solutions[item.id]))
        judged = [item for item in active if solutions[item.id].answered]
        critiques = _complete(
            engine,
            judged,
            lambda item, texts=solutions: eval_critique(fmt, asked(item), texts[item.id].text),  # type: ignore[misc]
            f"critique/{number}",
            sampling,
        )
        for item in judged:
            verdict = parse_verdict(critiques[item.id].text)
            turns[item.id].append(Turn("critique", critiques[item.id], verdict))
        active = [item for item in judged if turns[item.id][-1].verdict is not True]
    return [_last_solution(item, turns[item.id]) for item in items]


PROTOCOLS: Mapping[str, Protocol] = {"direct": direct, "single-pass": single_pass, "two-stage": two_stage}


def _complete(
    engine: Engine,
    items: Sequence[Problem],
    messages: Callable[[Problem], tuple[Message, ...]],
    purpose: str,
    sampling: Sampling,
) -> dict[str, Completion]:
    prompts = [Prompt(f"{item.id}/{purpose}", messages(item)) for item in items]
    return {items[i].id: completion for i, completion in engine.generate(prompts, sampling)}


def _one_call(
    engine: Engine,
    items: Sequence[Problem],
    messages: Callable[[Problem], tuple[Message, ...]],
    purpose: str,
    sampling: Sampling,
) -> list[Generation]:
    completions = _complete(engine, items, messages, purpose, sampling)
    return [
        Generation(item.id, (Turn(purpose, completions[item.id]),), completions[item.id].text, completions[item.id].finish)
        for item in items
    ]


def _last_solution(item: Problem, turns: Sequence[Turn]) -> Generation:
    last = next(turn.completion for turn in reversed(turns) if turn.purpose == "solve")
    return Generation(item.id, tuple(turns), last.text, last.finish)
