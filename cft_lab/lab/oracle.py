"""The oracle teacher: solves and critiques from the texts alone, and says so when it cannot judge.

It never sees gold answers or planted mistakes; it reads the question with `language.read_question`, recomputes every
step of the response, names the first wrong one, corrects it, finishes the solution and concludes. A weak oracle
errs at a known rate: it endorses a wrong solution, or finds fault with a right one.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from cft_lab.lab.language import MAX_NUMBER, Reading, Step, read_question, render_solution
from cft_lab.lab.mistakes import corrupt
from cft_lab.lab.world import LabProblem

_STEP = re.compile(r"Step [0-9]+: (?P<phrase>.+), so (?P<left>[0-9]+) (?P<op>[-+*/]) (?P<right>[0-9]+) = (?P<result>[0-9]+)\.")
_FINAL = re.compile(r"The answer is \\boxed\{(?P<answer>[0-9]+)\}\.?")
CANNOT_JUDGE = "Conclusion: cannot judge [END]"


@dataclass(frozen=True)
class Written:
    """A response as it reads: its steps, whatever they claim, and its final answer."""

    steps: tuple[Step, ...]
    answer: int


def read_response(text: str) -> Written | None:
    """Reads a solution line by line; None if any line is not a step or the answer is missing."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    if not lines or not (final := _FINAL.fullmatch(lines[-1])):
        return None
    matches = [_STEP.fullmatch(line) for line in lines[:-1]]
    steps = [Step(m["phrase"], int(m["left"]), m["op"], int(m["right"]), int(m["result"])) for m in matches if m is not None]
    return Written(tuple(steps), int(final["answer"])) if len(steps) == len(matches) else None


@dataclass(frozen=True)
class Oracle:
    """A teacher of the lab world; `error_rate` in [0, 1] is how often it errs, chosen item by item from `seed`."""

    error_rate: float = 0.0
    seed: int = 0

    def answer(self, question: str) -> str:
        """A worked solution, or a statement that the question cannot be read."""
        reading = read_question(question)
        if reading is None:
            return "I cannot read this question."
        rng = self._rng(question)
        if reading.steps and rng.random() < self.error_rate:
            return corrupt(LabProblem(question, reading.family, reading.steps, reading.answer), rng, typical=0.5).text
        return render_solution(reading.steps, reading.answer)

    def critique(self, question: str, response: str) -> str:
        """A step-by-step critique ending in `Conclusion: right [END]`, `wrong [END]` or `cannot judge [END]`."""
        reading = read_question(question)
        written = read_response(response)
        if reading is None or written is None:
            what = "question" if reading is None else "solution"
            return f"I cannot follow the {what}.\n{CANNOT_JUDGE}"
        rng = self._rng(question, response)
        if rng.random() < self.error_rate:
            reading = _misread(reading, written, rng)
        return _critique(reading, written)

    def _rng(self, *texts: str) -> random.Random:
        return random.Random("\x1f".join([str(self.seed), *texts]))


def _critique(truth: Reading, written: Written) -> str:
    wrong = _first_wrong(truth.steps, written.steps)
    if written.answer == truth.answer and wrong is None:
        lines = [f"Step {i} is right: {s.phrase}, so {s.equation}." for i, s in enumerate(written.steps, start=1)]
        return _conclude(lines, truth.answer, "right")
    if wrong is None:
        lines = [f"Step {i} is right: {s.phrase}, so {s.equation}." for i, s in enumerate(truth.steps, start=1)]
        return _conclude([*lines, f"But the answer is not {written.answer}."], truth.answer, "wrong")
    lines = [f"Step {i} is right: {s.phrase}, so {s.equation}." for i, s in enumerate(truth.steps[:wrong], start=1)]
    rest = truth.steps[wrong:]
    if wrong >= len(truth.steps):
        lines.append(f"Step {wrong + 1} is wrong: it is not needed.")
    elif wrong >= len(written.steps):
        lines.append(f"Step {wrong + 1} is missing: {rest[0].phrase}, so {rest[0].equation}.")
    else:
        lines.append(f"Step {wrong + 1} is wrong: {rest[0].phrase}, so {_correction(rest[0], written.steps[wrong])}.")
    lines += [f"Step {i}: {s.phrase}, so {s.equation}." for i, s in enumerate(rest[1:], start=wrong + 2)]
    return _conclude(lines, truth.answer, "wrong")


def _conclude(lines: list[str], answer: int, verdict: str) -> str:
    return "\n".join([*lines, f"The answer is \\boxed{{{answer}}}.", f"Conclusion: {verdict} [END]"])


def _correction(right: Step, wrong: Step) -> str:
    same = operands(right) == operands(wrong)
    return f"{right.equation}, not {wrong.result if same else wrong.equation}"


def operands(step: Step) -> tuple[str, list[int]]:
    """Operation and operands, in one order where order does not matter."""
    pair = [step.left, step.right]
    return step.op, sorted(pair) if step.op in "+*" else pair


def _first_wrong(truth: tuple[Step, ...], written: tuple[Step, ...]) -> int | None:
    """Index of the first step that differs from the true one; one past the shorter solution if it stops early."""
    for i, (right, claimed) in enumerate(zip(truth, written, strict=False)):
        if operands(right) != operands(claimed) or right.result != claimed.result:
            return i
    return None if len(truth) == len(written) else min(len(truth), len(written))


def _misread(truth: Reading, written: Written, rng: random.Random) -> Reading:
    """What an erring teacher takes for the truth: the response itself if it is wrong, else a slip of its own."""
    if written.answer != truth.answer:
        return replace(truth, steps=written.steps, answer=written.answer)
    if not truth.steps:
        return truth
    last = truth.steps[-1]
    value = rng.choice([last.result + d for d in (-2, -1, 1, 2) if 0 <= last.result + d <= MAX_NUMBER])
    return replace(truth, steps=(*truth.steps[:-1], replace(last, result=value)), answer=value)
