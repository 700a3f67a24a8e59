"""What is wrong with a wrong answer: the first place where a model's solution leaves the right one."""

from __future__ import annotations

from cft_lab.lab.language import compute, read_question
from cft_lab.lab.oracle import operands, read_response

#: first deviation of a solution, in the order in which they are looked for within a step
KINDS = ("right", "unreadable", "sentence", "operation", "number", "arithmetic", "length", "answer")


def classify(question: str, text: str) -> str:
    """One of KINDS. `sentence`: quotes another sentence; `number`: computes with a wrong number, factor or divisor;
    `length`: stops early or runs on; `answer`: all steps right, another number boxed; `unreadable`: no solution of this world.

    Raises ValueError if the question is not of the lab world.
    """
    truth, written = read_question(question), read_response(text)
    if truth is None:
        raise ValueError(f"not a question of the lab world: {question!r}")
    if written is None:
        return "unreadable"
    if written.answer == truth.answer:
        return "right"
    for right, claimed in zip(truth.steps, written.steps, strict=False):
        if claimed.phrase != right.phrase:
            return "sentence"
        if claimed.op != right.op:
            return "operation"
        if operands(claimed) != operands(right):
            return "number"
        if compute(claimed.left, claimed.op, claimed.right) != claimed.result:
            return "arithmetic"
    return "length" if len(truth.steps) != len(written.steps) else "answer"
