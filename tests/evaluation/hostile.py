"""Hostile answers and random mutations of them, for tests/evaluation/test_grading_hostile.py and benchmarks/grading_hostile.py."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from cft_lab.evaluation.grading import Submission

#: what hangs, crashes, bloats or executes in graders that trust their input
STRINGS = (
    "9^9^9^9",
    "10^{10^{10}}",
    "2^{2^{100}}",
    r"\binom{2000000}{1000000}",
    "(10**9999)**9999",
    "170000!",
    r"\sqrt[1000000007]{3}^{1000000009}",
    "__import__('os').system('touch MARKER')",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "eval(\"open('MARKER','w')\")",
    "{" * 3000,
    "(" * 400 + "1" + ")" * 400,
    r"\frac{" * 300,
    r"\boxed{" * 300,
    "1" + "+1" * 2000,
    "x" * 5000,
    r"\int_0^{9^{99}} e^{-x^2} dx",
    r"\sum_{k=1}^{10^{12}} \frac{1}{k^k}",
    r"\begin{pmatrix} 1 & 2 \\ 3",
    r"\left( \right) \\ \text{ \frac \sqrt[",
    "\\" * 50,
    "a,b;" * 500,
    r"\prod_{i=1}^{100000} (x+i)",
)
#: runs behind a phrase that announces an answer: a pattern that can split them in several ways is polynomial in their length
RUNS = tuple(
    phrase + run * 20_000 + end
    for phrase in ("The answer", "The final answer", "option", "choose", "it is", "The answer is A", "")
    for run in ("\n", "*", " ", ":", "_", "* ", "(", "$")
    for end in ("", "x")
)
GOLDS = ("42", r"\frac{1}{2}", "x^2+1", "(1,2)", "[0,1)", r"\text{even}", "B", r"\begin{pmatrix}1\\2\end{pmatrix}", "1,2,3", "x=5")
_PIECES = (
    *"{}()[]\\^_$%,;.=<>+-*/!0123456789xyei|& ",
    *(
        r"\frac",
        r"\sqrt",
        r"\boxed{",
        "^",
        "**",
        "10^",
        "9^",
        r"\left(",
        r"\text{",
        "answer is ",
        "####",
        "!",
        " and ",
        r"\pm ",
        r"\cup ",
    ),
    *(r"\in ", r"\begin{pmatrix}", r"\end{pmatrix}"),
)
_MAX_LENGTH = 12_000


def mutate(text: str, others: Sequence[str], rng: random.Random) -> str:
    """The text with one to six insertions, deletions, splices from other texts, repetitions or reversals."""
    letters = list(text[:3000])
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(letters) + 1)
        kind = rng.random()
        if kind < 0.3:
            letters.insert(place, rng.choice(_PIECES))
        elif kind < 0.5:
            del letters[place : place + rng.randint(1, 3)]
        elif kind < 0.7:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            letters[place:place] = other[start : start + rng.randint(1, 30)]
        elif kind < 0.9:
            letters[place:place] = letters[place : place + rng.randint(1, 20)] * rng.randint(1, 20)
        else:
            letters.reverse()
    return "".join(letters)[:_MAX_LENGTH]


def submissions(texts: Sequence[str], mutations: int, seed: int) -> Iterator[Submission]:
    """Every text, then so many mutations; as an answer, in a box, in prose, and as the gold, by turns."""
    rng = random.Random(seed)
    for number in range(len(texts) * 4 + mutations):
        text = texts[number // 4] if number < len(texts) * 4 else mutate(rng.choice(texts), texts, rng)
        gold = rng.choice(GOLDS)
        name = str(number)
        yield (
            Submission(name, gold, text, extracted=True),
            Submission(name, gold, f"so \\boxed{{{text}}}"),
            Submission(name, gold, f"The answer is ${text}$. {text}"),
            Submission(name, text or "1", rng.choice((gold, mutate(text, texts, rng))), extracted=True),
        )[number % 4]
