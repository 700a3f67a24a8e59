import time
from collections.abc import Callable, Iterator

import pytest

from cft_lab.evaluation.grading import equal, extract_boxed, grade
from cft_lab.records import Outcome

Rows = Callable[[str], Iterator[dict[str, object]]]


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("12", "12", True),
        ("12", "13", False),
        ("025", "25", True),
        ("27.0", "27", True),
        ("0.5", "1/2", True),
        ("\\frac{1}{2}", "0.5", True),
        ("\\dfrac{3}{6}", "\\frac{1}{2}", True),
        ("-\\frac{1}{2}", "-0.5", True),
        ("1,000", "1000", True),
        ("1,000", "1 000", True),
        ("1,00", "100", False),
        ("12", "1 2", False),
        ("(1,200)", "(1200)", False),
        ("(1, 200)", "(1,200)", True),
        ("1 000 000", "1000000", True),
        ("$5$", "5.", True),
        ("\\left(1, 2\\right)", "(1,2)", True),
        ("(1,2)", "(2,1)", False),
        ("x+1", "x + 1", True),
        ("1/3", "0.333", False),
        ("1/0", "0", False),
        ("12", "12%", False),
        ("9" * 500, "9" * 500, True),
        ("9" * 500, "8" * 500, False),
    ],
)
def test_equal(gold: str, answer: str, expected: bool) -> None:
    assert equal(gold, answer) is expected


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("so \\boxed{4}.", "4"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\fbox{7}", "7"),
        ("\\boxed{}", None),
        ("\\boxed{4", None),
        ("the answer is 4", None),
    ],
)
def test_extract_boxed(text: str, extracted: str | None) -> None:
    assert extract_boxed(text) == extracted


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [
        ("\\boxed{4}", "stop", Outcome.CORRECT),
        ("\\boxed{5}", "stop", Outcome.WRONG),
        ("4", "stop", Outcome.UNPARSED),
        ("well, let me", "length", Outcome.TRUNCATED),
        ("\\boxed{4} and so on and", "length", Outcome.CORRECT),
        ("\\boxed{4}", "error", Outcome.ERROR),
    ],
)
def test_grade(text: str, finish: str, outcome: Outcome) -> None:
    assert grade("p", "4", text, finish).outcome is outcome


def test_hostile_strings_neither_hang_nor_raise(shared_rows: Rows) -> None:
    started = time.monotonic()
    count = 0
    for row in shared_rows("grading/hostile.jsonl"):
        text = str(row.get("response") or row.get("pred") or "")
        for wrapped in (text, f"\\boxed{{{text}}}"):
            assert grade("p", str(row.get("gold", "")), wrapped).outcome in set(Outcome)
        count += 1
    assert count > 0
    assert time.monotonic() - started < 60
