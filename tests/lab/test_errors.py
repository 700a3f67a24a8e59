import pytest

from cft_lab.lab.errors import KINDS, classify

QUESTION = "Ada has 4 yards of rope. Ada on Monday loses 5 feet. How many feet does Ada have?"
FIRST, SECOND = "Step 1: has 4 yards, so 4 * 3 = 12.", "Step 2: Monday loses 5, so 12 - 5 = 7."


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("right", [FIRST, SECOND, "The answer is \\boxed{7}."]),
        ("unreadable", ["Step 1 is right: has 4 yards.", "The answer is \\boxed{7}."]),
        ("sentence", [FIRST, "Step 2: Tuesday buys 5, so 12 - 5 = 7.", "The answer is \\boxed{8}."]),
        ("operation", [FIRST, "Step 2: Monday loses 5, so 12 + 5 = 17.", "The answer is \\boxed{17}."]),
        ("number", ["Step 1: has 4 yards, so 4 * 2 = 8.", SECOND, "The answer is \\boxed{3}."]),
        ("arithmetic", ["Step 1: has 4 yards, so 4 * 3 = 13.", SECOND, "The answer is \\boxed{8}."]),
        ("length", [FIRST, "The answer is \\boxed{12}."]),
        ("answer", [FIRST, SECOND, "The answer is \\boxed{9}."]),
    ],
)
def test_classify(kind: str, lines: list[str]) -> None:
    assert kind in KINDS
    assert classify(QUESTION, "\n".join(lines)) == kind


def test_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match="not a question of the lab world"):
        classify("What is love?", "\\boxed{42}")
