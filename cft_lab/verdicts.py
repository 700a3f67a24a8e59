"""The one parser for a critique's conclusion: used to filter data, to stop self-critique rounds, to measure teachers.

Training data concludes `Conclusion: right/wrong [END]`, the paper's self-critique prompt asks for
`Critique Conclusion: Correct/Incorrect`; both are read here, so that no caller has an opinion of its own.
"""

from __future__ import annotations

import re

_CONCLUSION = re.compile(
    r"conclusion[\s*_`]*[:\-][\s*_`\"'\[({]*"
    r"(?P<verdict>incorrect|not\s+correct|not\s+right|correct|right|wrong|true|false)\b",
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
