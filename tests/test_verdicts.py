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
