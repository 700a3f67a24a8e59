"""Every prompt of the project, and nothing else. A template's text is part of the key of each stage that uses it.

Four formats: `lab` (the tiny models), `qwen` (chat template with a system text), `chat` (chat template without one) and `deepseek`
(plain text). The paper trains and evaluates under different prompts: training has the plain assistant system text, evaluation asks
for step-by-step reasoning with a boxed answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from cft_lab.records import Message


@dataclass(frozen=True)
class PromptFormat:
    """The texts that wrap a question for one family of models; None means that the part is left out.

    `chat` formats are rendered by the tokenizer's own chat template, `plain` ones by `render_plain`.
    """

    style: str  # chat | plain
    train_system: str | None
    eval_system: str | None
    eval_suffix: str
    critique_instruction: str
    single_pass_instruction: str
    self_critique_instruction: str
    critique_label: str = ""  # what a critique begins with where it is a training target


_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_QWEN = PromptFormat(
    style="chat",
    train_system="You are a helpful assistant.",
    eval_system=_BOXED,
    eval_suffix="",
    critique_instruction="Check the solution below step by step and explain briefly whether it is correct. "
    "Conclude with 'Conclusion: right/wrong [END]'.",
    single_pass_instruction="Solve the problem, then check your own solution step by step. If you find a mistake, write a "
    "corrected solution. Put the final answer within \\boxed{}.",
    self_critique_instruction="Check the solution below step by step and explain briefly whether it is correct. "
    "Conclude with 'Conclusion: right/wrong [END]'.",
    critique_label="Critique:\n",
)

FORMATS: dict[str, PromptFormat] = {
    "qwen": _QWEN,
    "deepseek": dataclasses.replace(_QWEN, style="plain", train_system=None, eval_system=None, eval_suffix="\n" + _BOXED),
    # chat models whose template takes no system text, or that were not trained with one
    "chat": dataclasses.replace(_QWEN, train_system=None, eval_system=None, eval_suffix="\n" + _BOXED),
    "lab": PromptFormat(
        style="chat",
        train_system=None,
        eval_system=None,
        eval_suffix="",
        critique_instruction="Is this solution right?",
        single_pass_instruction="Solve this, then check it.",
        self_critique_instruction="Is this solution right?",
    ),
}

#: what follows the options of a multiple-choice question
OPTIONS_INSTRUCTION = "Choose one option. The final answer is its letter."
#: what a teacher is told when it critiques; the last line is what `verdicts.parse_verdict` reads
TEACHER_CRITIQUE_SYSTEM = (
    "You are an expert in science and mathematics. You are given a question and a student's solution. Explain briefly, "
    "step by step, whether the solution is correct; where it is not, give the correction and the right answer. "
    "End with exactly one line: 'Conclusion: right [END]' or 'Conclusion: wrong [END]'."
)
#: what a teacher is told when it answers itself (sft-teacher)
TEACHER_ANSWER_SYSTEM = (
    "You are an expert in science and mathematics. Solve the question step by step and put the final answer within "
    "\\boxed{}. End with one line: 'Answer: ' followed by the final answer."
)


def question_and_solution(question: str, solution: str) -> str:
    """The body that every critique prompt shares, for teachers and students alike."""
    return f"Question:\n{question}\n\nSolution:\n{solution}"


def parse_question_and_solution(text: str) -> tuple[str, str] | None:
    """The inverse of `question_and_solution`, wherever it stands at the end of a text."""
    _, _, after = text.partition("Question:\n")
    question, found, solution = after.partition("\n\nSolution:\n")
    return (question, solution) if found else None


def parse_question(text: str) -> str | None:
    """The question of a `teacher_answer` prompt."""
    head = "Question:\n"
    return text[len(head) :] if text.startswith(head) else None


def with_options(question: str, options: Sequence[str] | None) -> str:
    """A question as it is asked: a multiple-choice one with its lettered options and what to answer with."""
    if not options:
        return question
    lines = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines, OPTIONS_INSTRUCTION])


def _with_system(system: str | None, user: str) -> tuple[Message, ...]:
    head = (Message("system", system),) if system else ()
    return (*head, Message("user", user))


def train_solve(fmt: PromptFormat, question: str) -> tuple[Message, ...]:
    """Prompt of an SFT example."""
    return _with_system(fmt.train_system, question)


def train_critique(fmt: PromptFormat, question: str, solution: str) -> tuple[Message, ...]:
    """Prompt of a CFT example: instruction, question and noisy solution."""
    return _with_system(fmt.train_system, f"{fmt.critique_instruction}\n{question_and_solution(question, solution)}")


def eval_solve(fmt: PromptFormat, question: str) -> tuple[Message, ...]:
    """Zero-shot prompt of a benchmark question."""
    return _with_system(fmt.eval_system, question + fmt.eval_suffix)


def eval_single_pass(fmt: PromptFormat, question: str) -> tuple[Message, ...]:
    """Single-pass self-critique: one generation that solves, checks and corrects."""
    return _with_system(fmt.eval_system, f"{fmt.single_pass_instruction}\n{question}")


def eval_critique(fmt: PromptFormat, question: str, solution: str) -> tuple[Message, ...]:
    """The critique call of two-stage self-critique."""
    body = question_and_solution(question, solution)
    return _with_system(fmt.train_system, f"{fmt.self_critique_instruction}\n{body}")


def teacher_critique(question: str, solution: str) -> tuple[Message, ...]:
    """What a teacher is asked when it critiques a response."""
    return _with_system(TEACHER_CRITIQUE_SYSTEM, question_and_solution(question, solution))


def teacher_answer(question: str) -> tuple[Message, ...]:
    """What a teacher is asked when it answers a question itself."""
    return _with_system(TEACHER_ANSWER_SYSTEM, f"Question:\n{question}")


def render_plain(messages: tuple[Message, ...]) -> str:
    """Plain `User: ... Assistant:` text for models without a chat template; ends where the answer begins."""
    names = {"user": "User", "assistant": "Assistant"}
    lines = [m.content if m.role == "system" else f"{names[m.role]}: {m.content}" for m in messages]
    return "\n\n".join([*lines, "Assistant:"])
