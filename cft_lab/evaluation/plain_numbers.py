"""Box and equality for golds that are plain numbers, as in the lab world: the same text after normalising, or the same exact value.

Nothing else counts here: 3 + 4 is not 7, so that a model has to finish its sum.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})")
_FRACTION = re.compile(r"(?P<sign>[-+]?)\\?frac\{(?P<a>[-+]?\d{1,400})\}\{(?P<b>[-+]?\d{1,400})\}")
_RATIO = re.compile(r"(?P<a>[-+]?\d{1,400})/(?P<b>[-+]?\d{1,400})")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:([, ])\d{3})(?:\1\d{3})*(?:\.\d+)?")


def plain_box(text: str) -> str | None:
    """The content of the last \\boxed{...} (or \\fbox) with balanced braces; None if there is none or it is empty.

    Stricter than extraction.extract_boxed (a box is \\boxed{ and nothing else): lab results stay comparable over time.
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip() or None
    return None


def plain_equal(gold: str, answer: str) -> bool:
    """Exact equality of the normalised strings, or of the numbers that they write."""
    gold, answer = normalise(gold), normalise(answer)
    if gold == answer:
        return True
    values = number_value(gold), number_value(answer)
    return values[0] is not None and values[0] == values[1]


def normalise(answer: str) -> str:
    """Drops what does not change an answer's meaning: spaces, dollar signs, thousands separators, a final full stop."""
    answer = re.sub(r"\\(?:left|right|,|!|;|:| )", "", answer.strip())
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = answer.replace("\\$", "").replace("$", "").strip().removesuffix(".")
    if _GROUPED.fullmatch(answer):  # thousands are grouped only in a number that stands alone, not in a list
        return re.sub(r"[, ]", "", answer)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", answer)


def number_value(text: str) -> Fraction | None:
    """The exact value of a plain number, of a/b or of \\frac{a}{b}; None for anything else."""
    if _NUMBER.fullmatch(text):
        return Fraction(text.removesuffix("."))
    match = _RATIO.fullmatch(text) or _FRACTION.fullmatch(text)
    if match is None or int(match["b"]) == 0:
        return None
    value = Fraction(int(match["a"]), int(match["b"]))
    return -value if match.groupdict().get("sign") == "-" else value
