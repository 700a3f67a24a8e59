"""Speed of the graders: answers graded per second, beside math-verify called in a loop over the same rows in the same run.

python benchmarks/grading.py MATH_TEST.jsonl     # MATH's test set (rows with "solution"); about three minutes on two cores

Rows are made from MATH's golds. Half of the answers are right: the gold respelt (spaces, \\dfrac, \\left, a sum or product turned
round where it has one). Half are wrong: a number in the gold changed, or the gold of another problem of the same form.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from cft_lab.evaluation.extraction import extract_boxed
from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.profiles import PROFILES
from cft_lab.evaluation.workers import WorkerPool

ROWS = 50_000
SMALL = 5_000  # rows whose time counts from the start of the process pool
LOOP = 4_000  # rows for the loop, a sample of the same rows: its rate is what is wanted
JOBS = 2


def respelt(gold: str, rng: random.Random) -> str:
    """The same answer in another spelling."""
    text = gold.replace("\\frac", rng.choice(("\\dfrac", "\\tfrac", "\\frac")))
    if rng.random() < 0.3:
        text = re.sub(r"\s+", " ", re.sub(r"([+=,])", r" \1 ", text))
    if rng.random() < 0.3 and re.fullmatch(r"\(.*\)", text) and text.count("(") == 1:
        text = "\\left" + text[:-1] + "\\right)"
    turned = re.fullmatch(r"(\w[\w\\{}^]*) ?\+ ?(\w[\w\\{}^]*)", text)
    if turned:
        text = f"{turned[2]} + {turned[1]}"
    whole = re.fullmatch(r"-?\d+", text)
    if whole and rng.random() < 0.2:
        text += ".0"
    return text


def spoilt(gold: str, others: list[str], rng: random.Random) -> str:
    """A wrong answer: one number changed, or another problem's gold if there is no number to change."""
    numbers = list(re.finditer(r"\d+", gold))
    if not numbers or rng.random() < 0.2:
        return rng.choice([other for other in rng.sample(others, 20) if other != gold] or ["0"])
    place = rng.choice(numbers)
    return gold[: place.start()] + str(int(place[0]) + rng.randint(1, 9)) + gold[place.end() :]


def make_rows(path: Path) -> list[Submission]:
    """50,000 responses, every second one wrong."""
    rng = random.Random(0)
    golds = [extract_boxed(json.loads(line)["solution"]) or "" for line in path.read_text(encoding="utf-8").splitlines()]
    rows = []
    for number in range(ROWS):
        gold = golds[number % len(golds)]
        answer = spoilt(gold, golds, rng) if number % 2 else respelt(gold, rng)
        rows.append(Submission(str(number), gold, f"We add up and simplify. Therefore the answer is $\\boxed{{{answer}}}$."))
    rng.shuffle(rows)
    return rows


def loop_rate(pairs: list[tuple[str, str]]) -> tuple[float, list[bool]]:
    """(Gold, text) pairs per second of math-verify's parse and verify, called one after the other, and its verdicts."""
    from math_verify import parse, verify

    parse("$1$")  # imports and grammars are loaded before the clock runs
    started = time.perf_counter()
    verdicts = [verify(parse(f"${gold}$"), parse(text)) for gold, text in pairs]
    return len(pairs) / (time.perf_counter() - started), verdicts


def main() -> None:
    rows = make_rows(Path(sys.argv[1]))
    profile = PROFILES["math"]
    started = time.perf_counter()
    grade_many(rows[:SMALL], profile, jobs=JOBS)
    print(f"{SMALL} rows, start included: {time.perf_counter() - started:.1f} s")
    with WorkerPool(JOBS) as pool:
        grade_many(rows[:200], profile, pool=pool)  # steady state: the workers are up
        started = time.perf_counter()
        grades = grade_many(rows, profile, pool=pool)
        rate = ROWS / (time.perf_counter() - started)
        print(f"{ROWS} rows, steady state: {rate:.0f} rows/s;", dict(Counter(grade.outcome.value for grade in grades)), pool.counts)
    sample = random.Random(1).sample(range(ROWS), LOOP)
    bare, _ = loop_rate([(rows[i].gold, f"${grades[i].extracted}$") for i in sample])
    print(f"math-verify in a loop, {LOOP} of these rows, answers extracted for it: {bare:.0f} rows/s; ratio {rate / bare:.1f}")
    loop, verdicts = loop_rate([(rows[i].gold, rows[i].text) for i in sample])
    print(f"math-verify in a loop, {LOOP} of these rows, whole responses: {loop:.0f} rows/s; ratio {rate / loop:.1f}")
    pairs = Counter((grades[i].outcome.value, verdict) for i, verdict in zip(sample, verdicts, strict=True))
    print("verdicts (ours, math-verify's):", dict(pairs))
    differ = [i for i, verdict in zip(sample, verdicts, strict=True) if (grades[i].outcome == "correct") != verdict]
    for i in differ[:15]:
        print(f"  {grades[i].outcome.value:<8} gold {rows[i].gold!r}  answer {grades[i].extracted!r}")


if __name__ == "__main__":
    main()
