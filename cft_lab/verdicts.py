"""The one parser for a critique's conclusion: used to filter data, to stop self-critique rounds, to measure teachers.

Training data concludes `Conclusion: right/wrong [END]`, the paper's self-critique prompt asks for
`Critique Conclusion: Correct/Incorrect`; both are read here, so that no caller has an opinion of its own.
"""

from __future__ import annotations

import re

_MARKS = r"[\s*_`\"'\[({$]*(?:\\(?:boxed|text|textbf|mathbf)\{)*"  # what may stand around the verdict: bold, quotes, LaTeX
_CONCLUSION = re.compile(
    rf"\bconclusion[\s*_`]*(?:[:=\-–—]|\n){_MARKS}"
    r"(?:(?:the|this)\s+(?:(?:student'?s?|student’s|given|provided|proposed|overall)\s+)?"
    rf"(?:final\s+)?(?:solution|answer|response|work)\s+is{_MARKS})?"
    r"(?P<verdict>incorrect|not\s+correct|not\s+right|correct|right|wrong|true|false)\b"
    r"(?!\s+(?:triangle|angle|cone|prism|pyramid|hand|side)|\s+(?:answer|value|result|option|choice)\s+(?:is|=|would|should))",
    re.IGNORECASE,
)
_RIGHT = {"correct", "right", "true"}


def parse_verdict(critique: str) -> bool | None:
    """True if the critique concludes that the solution is right, False if wrong, None if it does not say.

    The last conclusion wins, because a critique may quote an earlier one. Nothing is guessed from the prose, and a
    conclusion that offers both words (`right/wrong`, the prompt echoed) says nothing.
    """
    verdict: bool | None = None
    for match in _CONCLUSION.finditer(critique):
        echoed = re.match(r"\s*(/|or\b)", critique[match.end() :], re.IGNORECASE)
        verdict = None if echoed else match.group("verdict").lower() in _RIGHT
    return verdict
