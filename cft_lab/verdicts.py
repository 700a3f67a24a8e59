"""The one parser for a critique's conclusion: used to filter data, to stop self-critique rounds, to measure teachers.

Training data concludes `Conclusion: right/wrong [END]`, the paper's self-critique prompt asks for
`Critique Conclusion: Correct/Incorrect`; both are read here, so that no caller has an opinion of its own.
"""

from __future__ import annotations

import re

_MARKS = r"[\s*_`\"'\[({$<]{0,20}"  # what may stand before a verdict: blanks, bold, quotes, brackets
_CLOSE = r"[*_`\"'\])}$>]{0,20}"
_VERDICT = r"incorrect|not\s{1,3}correct|not\s{1,3}right|correct|right|wrong|true|false"
#: a verdict ends its clause; "right triangle", "correct approach but ..." or "right-angled" are none
_END = rf"(?={_CLOSE}\s{{0,20}}(?:$|\n|\[|\(|[.;!,]|(?:because|since|as|due)\b|[–—]|-\s)|{_CLOSE}\s{{0,3}}(?:/|\||or\b))"
_CONCLUSION = re.compile(
    rf"\bconclusion[ \t*_`]{{0,10}}(?:[:=\-–—]|\n){_MARKS}(?:\\(?:boxed|text|textbf|mathbf)\{{){{0,2}}"
    r"(?:(?:the|this)\s{1,3}(?:(?:student'?s?|student’s|given|provided|proposed|overall)\s{1,3})?"
    rf"(?:final\s{{1,3}})?(?:solution|answer|response|work)\s{{1,3}}is{_MARKS})?"
    rf"(?P<verdict>{_VERDICT})(?![a-zA-Z0-9]){_END}",
    re.IGNORECASE,
)
#: the other word offered beside the first: `right/wrong`, `'right' or 'wrong'`, `right, wrong`
_OFFER = re.compile(rf"{_CLOSE}\s{{0,3}}(?:/|\||,|or\b)\s{{0,3}}{_MARKS}(?:{_VERDICT})(?![a-zA-Z0-9])", re.IGNORECASE)
#: what lies between two conclusions that are offered as alternatives: `... right [END]' or 'Conclusion: ...`
_BETWEEN = re.compile(rf"{_CLOSE}\s*(?:\[END\])?{_CLOSE}\s*(?:/|\||or)\s*{_MARKS}(?:critique\s)?", re.IGNORECASE)
_RIGHT = {"correct", "right", "true"}


def parse_verdict(critique: str) -> bool | None:
    """True if the critique concludes that the solution is right, False if wrong, None if it does not say.

    The last conclusion wins, because a critique may quote an earlier one. Nothing is guessed from the prose, and a
    conclusion that offers both words (the prompt echoed) says nothing.
    """
    found = list(_CONCLUSION.finditer(critique))
    if not found:
        return None
    last = found[-1]
    if _OFFER.match(critique, last.end()):
        return None
    if len(found) > 1 and _BETWEEN.fullmatch(critique[found[-2].end() : last.start()][:200]):
        return None
    return last.group("verdict").lower() in _RIGHT
