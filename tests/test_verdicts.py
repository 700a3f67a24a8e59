import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from cft_lab.prompts import FORMATS, TEACHER_CRITIQUE_SYSTEM
from cft_lab.verdicts import parse_verdict


@pytest.mark.parametrize(
    ("critique", "verdict"),
    [
        ("All steps hold.\nConclusion: right [END]", True),
        ("Step 2 fails.\nConclusion: wrong [END]", False),
        ("conclusion: RIGHT", True),
        ("**Conclusion:** right", True),
        ("**Conclusion: wrong**", False),
        ("Conclusion: **wrong** [END]", False),
        ("Critique Conclusion: Correct", True),
        ("Critique Conclusion: Incorrect.", False),
        ("Conclusion: not correct", False),
        ("Conclusion - right", True),
        ("Conclusion: `right`", True),
        ('Conclusion: "wrong"', False),
        ("Conclusion: wrong\nAfter a second look:\nConclusion: right [END]", True),
        ("**Conclusion:** The student's solution is **wrong**. The error was in step 2.  \n**[END]**", False),
        ("Conclusion: this answer is not correct", False),
        ("### Conclusion\n\nright [END]", True),
        ("Conclusion: \\boxed{wrong}", False),
        ("CRITIQUE CONCLUSION:CORRECT[END]", True),
        ("Conclusion: wrong because step 2 adds instead of multiplying", False),
        ("Conclusion: right triangles are similar.", None),
        ("Conclusion: the correct answer is 12", None),
        ("Conclusion: correct answer is 12", None),
        ("Conclusion: partially correct", None),
        ("Conclusion: the solution is mostly right", None),
        ("In conclusion, right.", None),
        ("Conclusion: _right_ [END]", True),
        ("Conclusion: <wrong>", False),
        ("Conclusion: right, since every step holds", True),
        ("Conclusion: correct approach but wrong answer", None),
        ("Conclusion: right idea, wrong answer", None),
        ("Conclusion: right, wrong", None),
        ("Conclusion: right | wrong", None),
        ("Conclusion: 'right' or 'wrong'", None),
        ("Conclusion: right-angled triangles are needed", None),
        (TEACHER_CRITIQUE_SYSTEM, None),
        ("Conclude with 'Conclusion: right/wrong [END]'.", None),
        ("Conclusion: right or wrong", None),
        ("Conclusion: cannot judge [END]", None),
        ("The answer is right.", None),
        ("Conclusion: rightly so", None),
        ("", None),
    ],
)
def test_parse_verdict(critique: str, verdict: bool | None) -> None:
    assert parse_verdict(critique) is verdict


@pytest.mark.parametrize("name", FORMATS)
def test_an_echoed_instruction_says_nothing(name: str) -> None:
    assert parse_verdict(FORMATS[name].critique_instruction) is None
    assert parse_verdict(FORMATS[name].self_critique_instruction) is None


@pytest.mark.parametrize("filler", ["\n", " ", "*", "(", "conclusion ", "conclusion:"])
def test_long_texts_are_read_in_no_time(filler: str) -> None:
    started = time.perf_counter()
    assert parse_verdict("Conclusion" + filler * 100_000) is None
    assert time.perf_counter() - started < 5  # quadratic reading would take minutes


def test_the_real_samples_are_all_read(shared_rows: Callable[[str], Iterator[dict[str, object]]]) -> None:
    released = Counter(parse_verdict(str(row["output"])) for row in shared_rows("train/cft_alpaca_sample.jsonl"))
    assert released == {True: 106, False: 14}
    taught = Counter(parse_verdict(str(row["critique"])) for row in shared_rows("train/teacher_critiques_sample.jsonl"))
    assert taught == {True: 77, False: 43}
