"""Reads one value: a number or expression with its unit, percent sign or base, a time of day, or words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cft_lab.evaluation.answer_text import canonical
from cft_lab.evaluation.expressions import FUNCTIONS
from cft_lab.evaluation.units import CURRENCY_SIGNS, is_unit_word, known_unit


@dataclass(frozen=True)
class Scalar:
    """One value. `body` is the text without unit and percent sign; `text` is the whole, for comparison as a string."""

    body: str
    text: str
    unit: str | None = None  # one name of a known unit
    percent: bool = False
    base: str | None = None  # subscript of a number in another base
    is_text: bool = False  # words, not mathematics


_LARGE_WORDS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_TIME = re.compile(r"\d{1,2}(?::\d{2})?\s*[ap]\.?\s?m\b\.?$", re.IGNORECASE)
_BASE = re.compile(r"(-?[0-9A-Z]*\.?[0-9A-Z]+)\s*(?:_\{?(?:\\text\{)?\s*(\w+)\s*\}?\}?|(?:\\text\{)?\s*base\s+(\w+)\}?)")
_BASE_WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_UNIT_END = re.compile(r"\\text\{([^{}]*)\}\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?\s*\.?$")
_WORDS_END = re.compile(r"(?<![a-zA-Z\\{_^])([a-zA-Z][a-zA-Z ./-]*)(?:\^\{?(\d)\}?)?$")


def read_scalar(text: str) -> Scalar:
    """One value from a cleaned text; whatever it is, it can at least be compared as a string."""
    whole = canonical(text)
    based = _BASE.fullmatch(text)
    if based:
        base = based[2] or based[3]
        return Scalar(based[1], whole, base=_BASE_WORDS.get(base, base))
    if re.fullmatch(r"[^a-zA-Z:]*\d[^a-zA-Z:]*(?::[^a-zA-Z:]*\d[^a-zA-Z:]*)+", text):
        first, *others = text.split(":")
        if len(others) == 1:
            return Scalar(f"({first})/({others[0]})", whole)
    if _TIME.match(text):
        return Scalar(text, whole, is_text=True)
    body, unit, percent = _split_unit(_REPEATING.sub(_repeating_as_fraction, text))
    return Scalar(_join_spaced_thousands(body), whole, unit, percent, is_text=_is_text(body))


_REPEATING = re.compile(r"(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)\s*\{(\d{1,30})\}")


def _repeating_as_fraction(match: re.Match[str]) -> str:
    """0.1\\overline{6} is 15/90."""
    whole, fixed, repeating = match.groups()
    top = int(whole + fixed + repeating) - int((whole + fixed) or 0)
    return f"(\\frac{{{top}}}{{{(10 ** len(repeating) - 1) * 10 ** len(fixed)}}})"


def _join_spaced_thousands(body: str) -> str:
    return body.replace(" ", "") if re.fullmatch(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?", body) else body


def _split_unit(text: str) -> tuple[str, str | None, bool]:
    """(value, known unit, whether in percent); the text itself if nothing but words is in it."""
    unit: str | None = None
    percent = False
    body = text.strip()
    for sign in CURRENCY_SIGNS:
        if sign in body:
            unit, body = known_unit(sign), body.replace(sign, "").strip()
    for _ in range(3):  # 5 \text{ cm}^2, 20 \% of the total, 45^\circ C
        if re.search(r"\^\\circ\s*$", body) and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", body):
            unit, body = unit or "degree", re.sub(r"\^\\circ\s*$", "", body).rstrip()
        elif body.endswith("%"):
            percent, body = True, body[:-1].rstrip()
        else:
            rest, words, power = _trailing_words(body)
            if not words:
                break
            if re.fullmatch(r"percent(?:age)?|pct", words.strip().lower()) or re.match(r"percent\b", words.strip().lower()):
                percent = True
            elif words.strip().split(" ")[0].lower() in _LARGE_WORDS:
                rest = f"{rest}*10^{{{_LARGE_WORDS[words.strip().split(' ')[0].lower()]}}}"
            elif words.strip().lower() == "dozen":
                rest = f"{rest}*12"
            else:
                unit = known_unit(words, power) or unit
            body = rest
    return (body, unit, percent) if body else (text, None, False)


def _trailing_words(body: str) -> tuple[str, str, str]:
    """(what is before, the words, their power) for words after a value; no words if there is nothing to drop."""
    match = _UNIT_END.search(body)
    if match is None:
        match = _WORDS_END.search(body)
        if match is not None:
            first = re.split(r"[ ./-]", match[1])[0]
            if not (
                is_unit_word(first) or (len(first) > 2 and first.lower() not in FUNCTIONS and first.lower() not in ("pi", "inf"))
            ):
                return body, "", ""
    if match is None:
        return body, "", ""
    rest = body[: match.start()].rstrip()
    if not re.search(r"\d|\\(?:frac|sqrt|pi)|[a-zA-Z]\^", rest):
        return body, "", ""
    return rest, match[1], match[2] or ""


_COMMAND_OR_WORD = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]{3,}")


def _is_text(body: str) -> bool:
    """Words rather than mathematics: a text command, or a word of three letters that is no function and no product like abc."""
    if "\\text" in body:
        return True
    words = [word for word in _COMMAND_OR_WORD.findall(body) if not word.startswith("\\")]
    return any(
        word.lower() not in FUNCTIONS and word.lower() not in ("infty", "infinity", "inf") and (len(word) > 3 or not body.isalpha())
        for word in words
    ) and not re.search(r"[_^\\]", body)
