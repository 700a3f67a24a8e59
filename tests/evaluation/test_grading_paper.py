import pytest

from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.profiles import ANY


@pytest.mark.parametrize(
    ("gold", "answer", "strict", "paper"),
    [
        ("3.14", "3.11", "wrong", "correct"),  # both round to 3.1
        ("3.14", "3.16", "wrong", "wrong"),
        ("0.04", "0", "wrong", "correct"),
        ("x = 5", "y = 5", "wrong", "correct"),  # only what follows the last "=" counts
        ("5", "2 + 3 = 5", "correct", "correct"),
        ("5", "2 + 2 = 5", "wrong", "correct"),  # a chain that does not hold is no answer
        ("2 \\times 10^{5}", "7 \\times 10^{5}", "wrong", "correct"),  # the same power of ten
        ("2 \\times 10^{5}", "2 \\times 10^{6}", "wrong", "wrong"),
        ("(1.01, 2)", "(1.04, 2)", "wrong", "correct"),
        ("(1, 2)", "(2, 1)", "wrong", "wrong"),
        ("[0, 1)", "[0, 1]", "wrong", "correct"),  # the numbers agree
        ("x + 1", "x + 2", "wrong", "wrong"),
        ("y^2 = x + 1", "z = 1 + x", "wrong", "correct"),
        ("Evelyn", "Briana", "wrong", "wrong"),
    ],
)
def test_strict_and_paper(gold: str, answer: str, strict: str, paper: str) -> None:
    [made] = grade_many([Submission("p", gold, answer, extracted=True)], ANY)
    assert made.paper is not None
    assert (made.outcome.value, made.paper.value) == (strict, paper)
