"""The lab world's "web text": what its base models are pretrained on.

A stream of documents: solved problems (noisy, like the web), critiques, self-checked solutions and bare arithmetic.
All of it comes from the training split, and the held-out family never occurs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from cft_lab.config import WebConfig
from cft_lab.lab.language import MAX_NUMBER, compute
from cft_lab.lab.mistakes import noisy_attempt
from cft_lab.lab.oracle import Oracle
from cft_lab.lab.world import LabProblem, make_problems, weighted
from cft_lab.prompts import FORMATS, eval_single_pass, train_critique, train_solve
from cft_lab.records import Message

DOCUMENT_KINDS = ("solved", "critique", "checked", "arithmetic")


@dataclass(frozen=True)
class Document:
    """One web page: a conversation, or plain text (a single message of role `text`)."""

    messages: tuple[Message, ...]


def web_documents(seed: int, mix: WebConfig) -> Iterator[Document]:
    """An endless stream of documents, a function of seed and mix."""
    rng = random.Random(f"web/{seed}")
    problems = make_problems(seed, "train", mix.families, mix.steps, unique_by=None)
    while True:
        kind = weighted(rng, mix.kinds)
        yield Document(_arithmetic(rng)) if kind == "arithmetic" else Document(_about(next(problems), kind, rng, mix))


def _about(problem: LabProblem, kind: str, rng: random.Random, mix: WebConfig) -> tuple[Message, ...]:
    fmt = FORMATS["lab"]
    attempt = noisy_attempt(problem, rng, mix.noise, mix.typical).text
    if kind == "solved":
        return (*train_solve(fmt, problem.question), Message("assistant", attempt))
    critique = Oracle().critique(problem.question, attempt)
    if kind == "critique":
        return (*train_critique(fmt, problem.question, attempt), Message("assistant", critique))
    return (*eval_single_pass(fmt, problem.question), Message("assistant", f"{attempt}\n{critique}"))


def _arithmetic(rng: random.Random) -> tuple[Message, ...]:
    """A line of true equations, every operation equally often."""
    equations: list[str] = []
    while len(equations) < 8:
        op = rng.choice("+-*/")
        left = rng.randint(0, MAX_NUMBER)
        right = rng.randint(1, 13)
        result = compute(left, op, right)
        if result is not None:
            equations.append(f"{left} {op} {right} = {result}.")
    return (Message("text", " ".join(equations)),)
