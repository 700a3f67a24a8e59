import pytest

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
