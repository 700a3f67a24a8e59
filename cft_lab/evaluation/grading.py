"""Grades answers: extraction, then `strict` and `paper` (docs/grading.md). Nothing in a text is ever executed.

Equal texts, exact numbers and everything else that the project reads itself are decided in this process; what only a computer
algebra system can decide goes to worker processes with hard limits, which start when the first such answer comes. A comparison that
ran into a limit is an error, never a wrong answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cft_lab.evaluation.answer_text import canonical, clean, plain_words
from cft_lab.evaluation.answers import readings
from cft_lab.evaluation.decimals import Terms
from cft_lab.evaluation.equivalence import compare
from cft_lab.evaluation.extraction import (
    ANSWER_WORDS,
    LETTERS,
    Extraction,
    Question,
    choice_letter,
    count_parts,
    extract,
    extract_boxed,
    extract_linked_boxes,
    is_prose,
    without_letter,
)
from cft_lab.evaluation.paper_grader import paper_compare
from cft_lab.evaluation.plain_numbers import plain_box, plain_equal
from cft_lab.evaluation.profiles import LAB, Profile
from cft_lab.evaluation.scalars import Scalar
from cft_lab.evaluation.workers import Limits, WorkerPool, processors
from cft_lab.records import Grade, Outcome

__all__ = ["GRADERS_VERSION", "Submission", "extract_boxed", "grade", "grade_many"]

#: part of the key of everything that is graded; raise it when a text can come out with another grade
GRADERS_VERSION = 2


@dataclass(frozen=True)
class Submission:
    """A text to grade. `extracted`: the text is an answer, not a response. `tolerance`: the absolute error that the item allows."""

    problem_id: str
    gold: str
    text: str
    finish: str = "stop"  # as in Completion: `length` turns a missing answer into truncated, `error` into error
    options: tuple[str, ...] = ()
    extracted: bool = False
    tolerance: Fraction = Fraction(0)


@dataclass(frozen=True)
class _Answer:
    """An extracted answer on its way through the graders; None: not decided yet."""

    gold: str
    found: Extraction
    terms: Terms
    strict: bool | None
    paper: bool | None


def grade(problem_id: str, gold: str, text: str, finish: str = "stop", profile: Profile = LAB) -> Grade:
    """Grades one text. For many use `grade_many`: an answer that needs a worker process starts one, which takes a second."""
    return grade_many([Submission(problem_id, gold, text, finish)], profile)[0]


def grade_many(
    submissions: Sequence[Submission],
    profile: Profile = LAB,
    *,
    jobs: int | None = None,
    limits: Limits | None = None,
    pool: WorkerPool | None = None,
) -> list[Grade]:
    """Grades in the order of the submissions. `jobs`: worker processes at most (default: one per processor).

    A `pool` of one's own keeps its workers for the next call; otherwise they end with this one.
    """
    judged = [_judge_or_error(submission, profile) for submission in submissions]
    undecided = [index for index, row in enumerate(judged) if isinstance(row, _Answer) and None in (row.strict, row.paper)]
    replies: dict[int, dict[str, Any]] = {}
    if undecided:
        tasks = [_task(row) for index in undecided if isinstance(row := judged[index], _Answer)]
        replies = dict(zip(undecided, _run(tasks, jobs, limits, pool), strict=True))
    return [
        row if isinstance(row, Grade) else _grade(submission.problem_id, row, replies.get(index))
        for index, (submission, row) in enumerate(zip(submissions, judged, strict=True))
    ]


def _run(tasks: Sequence[dict[str, Any]], jobs: int | None, limits: Limits | None, pool: WorkerPool | None) -> list[dict[str, Any]]:
    if pool is not None:
        return pool.run(tasks)
    with WorkerPool(jobs or processors(), limits or Limits()) as own:
        return own.run(tasks)


def _task(row: _Answer) -> dict[str, Any]:
    return {
        "gold": row.gold,
        "answer": row.found.answer,
        "relative": str(row.terms.relative),
        "absolute": str(row.terms.absolute),
        "lists_are_tuples": row.terms.lists_are_tuples,
        "strict": row.strict,
        "paper": row.paper,
    }


def _grade(problem_id: str, row: _Answer, reply: dict[str, Any] | None) -> Grade:
    strict, paper, reason = row.strict, row.paper, None
    if reply is not None:
        strict, paper = (reply.get("strict", strict), reply.get("paper", paper))
        reason = reply.get("reason", "neither the project's reader nor math-verify could compare the two")
    answer, rule = row.found.answer, row.found.rule
    return Grade(problem_id, _outcome(strict), answer, rule, _outcome(paper), reason if None in (strict, paper) else None)


def _outcome(verdict: bool | None) -> Outcome:
    return Outcome.ERROR if verdict is None else Outcome.CORRECT if verdict else Outcome.WRONG


def _judge_or_error(submission: Submission, profile: Profile) -> Grade | _Answer:
    """Model output is untrusted: whatever a text makes fail costs its own row and never the run."""
    try:
        return _judge(submission, profile)
    except Exception as error:  # any type: the row is an error with its reason, and is never counted as wrong
        reason = f"grading failed: {type(error).__name__}: {str(error)[:200]}"
        return Grade(submission.problem_id, Outcome.ERROR, paper=Outcome.ERROR, reason=reason)


def _judge(submission: Submission, profile: Profile) -> Grade | _Answer:
    """Extracts and decides as far as this process can."""
    problem_id, finish = submission.problem_id, submission.finish
    if finish == "error":
        return Grade(problem_id, Outcome.ERROR, paper=Outcome.ERROR, reason="there is no response: the engine reported an error")
    if profile.plain_numbers:
        return _judge_plain(submission)
    gold = gold_answer(submission.gold)
    letter = _gold_letter(gold, submission, profile)
    question = Question(submission.options, 1 if letter else count_parts(gold), _is_number(gold))
    found = _find(submission, gold, letter, question, profile)
    if found is None:
        return _without_answer(submission)
    if letter:
        right = _right_choice(letter, found.answer, submission.options, gold)
        if right is not None:
            return Grade(problem_id, _outcome(right), found.answer, found.rule, _outcome(right))
    else:
        found = replace(found, answer=without_letter(found.answer, gold))
    terms = replace(profile.terms, absolute=submission.tolerance) if submission.tolerance else profile.terms
    strict = compare(gold, found.answer, terms)
    return _Answer(gold, found, terms, strict, True if strict else paper_compare(gold, found.answer, terms))


def _judge_plain(submission: Submission) -> Grade:
    found = plain_box(submission.text)
    if found is None:
        return _without_answer(submission)
    outcome = _outcome(plain_equal(submission.gold, found))
    return Grade(submission.problem_id, outcome, found, "boxed", outcome)


def _without_answer(submission: Submission) -> Grade:
    missing = Outcome.TRUNCATED if submission.finish == "length" else Outcome.UNPARSED
    return Grade(submission.problem_id, missing, paper=missing)


def gold_answer(gold: str) -> str:
    """The answer in a gold, which may be a whole reference solution that ends in a box, in #### n or in "the answer is"."""
    if "####" in gold:
        return gold.rpartition("####")[2].strip()
    boxes = extract_linked_boxes(gold)
    if boxes or not is_prose(gold):
        return boxes or gold
    said = extract(gold, ("final-answer", "answer"), Question())
    return said.answer if said else gold


_PLAIN_NUMBER = re.compile(r"[^a-zA-Z\\]{0,3}\d[\d,. ]*(?:/\s*\d+)?|-?\\frac\s*\{?-?\d+\}?\s*\{?\d+\}?")


def _is_number(gold: str) -> bool:
    """Whether the gold is one plain number, with or without a unit: then a text's last number can be its answer."""
    value = readings(gold)[0]
    return isinstance(value, Scalar) and _PLAIN_NUMBER.fullmatch(value.body.strip()) is not None


# choices

_LETTER_GOLD = re.compile(r"\(?([A-Ja-j])\)?\.?|\(([A-J])\)\s*\S.*|([A-J])(?:[.):]|(?=\s+[A-Z]))\s+\S.*", re.DOTALL)
#: a letter by itself, or options spoken of; in a text without either a gold like E is a quantity
_NAMES_A_LETTER = re.compile(
    r"\b(?:options?|choices?|alternatives?)\b|\(\s*[A-Ja-j]\s*\)|(?<![\w\\$^{(])[A-J](?![\w'’^_=(]|\s*[=<>+/^-])|^\W*[a-j]\W*$"
    r"|(?i:\banswer\b\W{0,4}(?:is\b\W{0,4})?[a-j])(?!\w)"
)


def _gold_letter(gold: str, submission: Submission, profile: Profile) -> str | None:
    """The letter of a gold that is to be graded as a choice, else None."""
    match = _LETTER_GOLD.fullmatch(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", clean(gold)).strip())
    if match is None or (profile.choice_rules is None and not submission.options):
        return None
    letter = str(next(filter(None, match.groups())))
    surely = profile.always_choice or bool(submission.options) or "(" in gold or match[1] is None
    return letter.upper() if surely or (letter.isupper() and _NAMES_A_LETTER.search(submission.text)) else None


def _right_choice(letter: str, answer: str, options: Sequence[str], gold: str) -> bool | None:
    """Whether the answer picks the gold's option, by letter or by its text; None if it has to be compared as a value."""
    picked = picked_option(answer, options)
    if picked or options:
        return picked == letter
    rest = re.sub(r"^\s*\(?[A-J][).:]?\s+", "", gold)
    if rest == gold:
        return False
    return True if _same_words(rest, answer) else None


def picked_option(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names: alone, by the option's exact text, at its beginning, or by an equal value.

    None if it names none, or several ("2" where both 2 and 2.0 are offered).
    """
    letters = LETTERS[: len(options)] if options else LETTERS
    letter = choice_letter(answer, letters)
    if letter and len(re.sub(r"\\[a-zA-Z]+|\W", "", answer)) == 1:
        return letter
    named = dict(zip(LETTERS, options, strict=False))
    own = canonical(clean(answer))
    exact = [name for name, option in named.items() if canonical(clean(option)) == own]
    if exact or letter:
        return exact[0] if len(exact) == 1 else letter
    equal = [name for name, option in named.items() if _same_words(option, answer) or compare(option, answer)]
    return equal[0] if len(equal) == 1 else None


def _same_words(option: str, answer: str) -> bool:
    own = plain_words(clean(option))
    return bool(own) and own == plain_words(clean(answer))


# extraction


def _find(submission: Submission, gold: str, letter: str | None, question: Question, profile: Profile) -> Extraction | None:
    rules = _rules(gold, letter, submission, profile)
    text = submission.text
    if not submission.extracted:
        return _fitting(extract(text, rules, question, submission.finish == "length"), text, letter, rules, question)
    if not text.strip():
        return None
    found = None
    if picked_option(text, submission.options) is None if letter else _is_sentence(text, gold):
        found = _fitting(extract(text, rules, question), text, letter, rules, question)
    return found or Extraction(text.strip(), "given")


def _rules(gold: str, letter: str | None, submission: Submission, profile: Profile) -> Sequence[str]:
    if letter:
        return profile.choice_rules or profile.rules
    rules = tuple(rule for rule in profile.rules if rule != "bool-word" or plain_words(clean(gold)) in ("true", "false"))
    if _is_number(gold):
        return (*rules, "last-number") if profile.number_fallback else rules
    value = readings(gold)[0]
    words = isinstance(value, Scalar) and value.is_text
    return (*rules, "last-formula") if profile.formula_fallback and not words else rules


def _fitting(
    found: Extraction | None, text: str, letter: str | None, rules: Sequence[str], question: Question
) -> Extraction | None:
    """For a choice, a phrase that announces no letter gives way to the rules that look for letters ("the answer is clear: B")."""
    if found is None or not letter or found.rule not in ("final-answer", "answer") or choice_letter(found.answer, question.letters):
        return found
    in_sentence = re.search(r"(?<![a-zA-Z\\])\(?([B-HJ]|A(?!\s+[a-z])|(?<=\()[AI](?=\)))\)?(?![a-zA-Z'])", found.answer)
    if in_sentence and in_sentence[1] in question.letters:
        return Extraction(in_sentence[1], found.rule)
    others = [rule for rule in rules if rule in ("choice-phrase", "last-choice", "option-text")]
    return extract(text, others, question) or found


_ANNOUNCED = re.compile(ANSWER_WORDS + r"|####|\\boxed|\\fbox", re.IGNORECASE)


def _is_sentence(text: str, gold: str) -> bool:
    """Whether a given answer is prose around an answer, although the gold is none."""
    return bool(_ANNOUNCED.search(text) or is_prose(text)) and not is_prose(gold)
