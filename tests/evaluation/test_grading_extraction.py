import pytest

from cft_lab.evaluation.extraction import Question, extract_boxed, without_letter
from cft_lab.evaluation.grading import Submission, grade_many, picked_option
from cft_lab.evaluation.profiles import ANY


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("so \\boxed{4}.", "4"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\fbox{7}", "7"),
        ("\\boxed 5", "5"),
        ("\\boxed {6}", "6"),
        ("\\boxed{}", None),
        ("\\boxed{4", None),
        ("\\boxed{42}. Hence the final answer is \\boxed{", None),
        ("the answer is 4", None),
    ],
)
def test_extract_boxed(text: str, extracted: str | None) -> None:
    assert extract_boxed(text) == extracted


def test_boxes_that_only_separators_part_are_one_answer_if_the_gold_has_several_parts() -> None:
    text = "first \\boxed{9}. So $\\boxed{1}$, $\\boxed{2}$ and $\\boxed{3}$."
    assert extract_boxed(text, Question(parts=3)) == "1, 2, 3"
    assert extract_boxed(text, Question(parts=1)) == "3"


#: (gold, response, extracted, rule, outcome)
RESPONSES = [
    ("72", "So 48 + 24 = 72. The answer is 72.", "72", "answer", "correct"),
    ("72", "She sold 48/2 = 24.\n#### 72", "72", "hashes", "correct"),
    ("5", "Final Answer: The final answer is $5$. I hope it is correct.", "5", "final-answer", "correct"),
    ("x+1", "Answer: $x + 1$ metres", "x + 1", "answer", "correct"),
    ("3", "The answer is 3 because 4 - 1 = 3", "3", "answer", "correct"),
    ("18", "She makes $18 every day.", "18", "last-number", "correct"),
    ("2/3", "the probability that Alice wins the game is 2/3.", "2/3", "last-number", "correct"),
    ("\\sqrt{3}", "Hence the length is $\\sqrt{3}$.", "\\sqrt{3}", "last-formula", "correct"),
    ("220", "Réponse: elle aura encore 220 $ à payer.", "220", "answer", "correct"),
    ("13", "所以一共有3 + 10 = 13只鸟和鹳鸟。", "13", "last-number", "correct"),
    ("42", "<think>is it \\boxed{41}? the answer is 41</think> The answer is 42.", "42", "answer", "correct"),
    ("5", "<think>maybe \\boxed{3}</think> So the final answer is 5.", "5", "final-answer", "correct"),
    ("5", "<think>\\boxed{3}</think> hence \\boxed{5}", "5", "boxed", "correct"),
    ("5", "<think>so it is \\boxed{5}</think> I checked it 3 times.", "5", "boxed", "correct"),
    ("42", "<think>the answer is 41</think> The answer is 42.", "42", "answer", "correct"),
    ("even", "I cannot say.", None, None, "unparsed"),
    ("B", "I think A is wrong, so B.", "B", "choice-phrase", "correct"),
    ("B", "Option B is correct", "B", "choice-phrase", "correct"),
    ("A", "A long time ago they met. The answer is A", "A", "answer", "correct"),
    ("D", "**Answer: D**", "D", "answer", "correct"),
    ("C", "So the answer is\n\nC", "C", "answer", "correct"),
    ("C", "(A) is too small and (C) fits", "C", "last-choice", "correct"),
    ("B", "The answer is a matter of taste, but (C)", "C", "answer", "wrong"),
    ("C", "c", "C", "choice-phrase", "correct"),
    ("B", "The answer is not A. It is B.", "B", "choice-phrase", "correct"),
    ("B", "The best choice is B. Option D would be wrong.", "B", "choice-phrase", "correct"),
    ("B", "I choose (B), because option (C) is not a prime.", "B", "choice-phrase", "correct"),
    ("12", "The answer is that each of the 3 friends gets 12 cookies.", "12", "answer", "correct"),
    ("12", "The answer is that each of the 3 friends gets 12 cookies in 2 hours.", "12", "answer", "correct"),
    ("12", "The answer is about 12 cookies for each of the 3 friends.", "12", "answer", "correct"),
    ("18", "The answer is $9 * 2 = $18.", "$9*2=$18", "answer", "correct"),
    ("18", "The answer is $9 * 2 =$ 18 dollars.", "$9*2=$18dollars", "answer", "correct"),
    ("10", "The answer is 5 + 5 = 10 apples.", "5+5=10apples", "answer", "correct"),
    ("x+1", "So $x + 1$ is what we get, as $y =$", "x + 1", "last-formula", "correct"),
]


@pytest.mark.parametrize(("gold", "response", "extracted", "rule", "outcome"), RESPONSES)
def test_which_rule_fires(gold: str, response: str, extracted: str | None, rule: str | None, outcome: str) -> None:
    [made] = grade_many([Submission("p", gold, response)], ANY)
    assert (made.rule, made.outcome.value) == (rule, outcome), made
    assert (made.extracted or "").replace(" ", "").strip(".") == (extracted or "").replace(" ", "")


def test_weak_rules_do_not_fire_in_a_text_that_was_cut_off() -> None:
    [made] = grade_many([Submission("p", "18", "first, 3 times 6 is 18", "length")], ANY)
    assert made.outcome.value == "truncated"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(b)", "B"), ("\\text{(B)}", "B"), ("B. 5 cm", "B"), ("5 cm", "B"), ("0.05 m", None), ("3.0 cm", "A"),
        ("E", None), ("-5", "C"), ("5", "B"), ("Carbon", None), ("C (Carbon)", "D"),
    ],
)  # fmt: skip
def test_options_are_picked_by_letter_or_text(answer: str, letter: str | None) -> None:
    assert picked_option(answer, ("3 cm", "5 cm", "-5", "C (Carbon)")) == letter


def test_a_gold_with_letter_and_text_takes_either() -> None:
    answers = {"B": "correct", "12 cm": "correct", "C": "wrong", "13 cm": "wrong"}
    grades = grade_many([Submission("p", "(B) 12 cm", answer, extracted=True) for answer in answers], ANY)
    assert [row.outcome.value for row in grades] == list(answers.values())


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("27", "\\textbf{(D) }27", "correct"),
        ("27", "\\textbf{(D)}~27", "correct"),
        ("27", "\\text{(D) 27}", "correct"),
        ("27", "(D)\\ 27", "correct"),
        ("27", "(D)\\ 28", "wrong"),
        ("\\frac{1}{2}", "\\textbf{(D)}\\ \\frac{1}{2}", "correct"),
        ("2", "(D) + 2", "wrong"),
        ("\\text{(B)}", "\\textbf{(B)}\\ 12", "correct"),
        ("\\text{(B)}", "\\textbf{(C)}\\ 12", "wrong"),
    ],
)
def test_boxes_with_letter_and_value(gold: str, answer: str, outcome: str) -> None:
    [made] = grade_many([Submission("p", gold, f"so \\boxed{{{answer}}}")], ANY)
    assert made.outcome.value == outcome, made


def test_a_letter_that_the_gold_holds_is_mathematics() -> None:
    assert without_letter("(D) 2", "27") == "2"
    assert without_letter("(D) 2", "2D") == "(D) 2"
