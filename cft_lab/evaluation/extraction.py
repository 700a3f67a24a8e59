r"""Finds the answer in a model's text. Each rule returns the last place where it fits, or None; the first rule of a profile that
finds something decides, and its name is recorded. Linear in the length of the text: a run of blanks or stars in a phrase is matched
possessively (`*+`: once taken, never given back in part), and other repetitions have an upper bound.

    boxed          ... so \boxed{4}.                        4
    final-answer   The final answer is $x = 4$.             x = 4
    answer         Answer: 4 apples                         4 apples
    hashes         #### 4                                   4
    choice-phrase  I choose option (B).                     B
    last-choice    A is too small, so it must be **B**      B
    option-text    (options given) ... it is Paris          Paris
    bool-word      ... hence the statement is false         false
    last-formula   ... hence it is $x + 1$.                 x + 1
    last-number    ... which makes 4 apples                 4
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cft_lab.evaluation.answer_text import clean, closing_brace, plain_words
from cft_lab.evaluation.answers import Sequence as Several
from cft_lab.evaluation.answers import readings
from cft_lab.evaluation.expressions import FUNCTIONS

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Extraction:
    """What was found and by which rule."""

    answer: str
    rule: str


@dataclass(frozen=True)
class Question:
    """What a rule may know beside the text: the options' texts, how many parts the gold has, whether it is a number."""

    options: tuple[str, ...] = ()
    parts: int = 1
    numeric: bool = False

    @property
    def letters(self) -> str:
        """The letters that name an option."""
        return LETTERS[: len(self.options)] if self.options else LETTERS


def extract(text: str, rules: Sequence[str], question: Question, cut_off: bool = False) -> Extraction | None:
    """The answer of a text by the first rule that fires. In a text that was cut off the weak rules do not count.

    What follows </think> is the answer; a box before it counts only if no strong rule fires behind it.
    """
    thoughts, _, behind = text.rpartition("</think>")
    strong = [(rule, behind) for rule in rules if rule not in WEAK]
    in_thoughts = [("boxed", thoughts)] if "boxed" in rules else []
    weak = [] if cut_off else [(rule, behind) for rule in rules if rule in WEAK]
    for rule, part in (*strong, *in_thoughts, *weak):
        found = RULES[rule](part, question)
        if found:
            return Extraction(found, rule)
    return None


# boxes

_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_ONE_TOKEN = re.compile(r"\s*(\\[a-zA-Z]+|-?[\w.]+)")
_BETWEEN_BOXES = re.compile(
    r"[\s$,;&*]{0,20}(?:\\[)\]])?[\s$,;&*]{0,20}(?:\\text\{)?\s{0,5}(?:and|or)?\s{0,5}\}?[\s$,;&*]{0,20}(?:\\[(\[])?\s{0,20}"
)


def extract_boxed(text: str, question: Question | None = None) -> str | None:
    """The content of the last \\boxed{...} (or \\fbox) with balanced braces; None if there is none, it is empty or unclosed.

    If the gold has n parts and the last n boxes have nothing but separators between them, all of them.
    """
    boxes = _last_boxes(text, question.parts if question else 1)
    if boxes and question and len(boxes) == question.parts:
        return ", ".join(boxes)
    return boxes[-1] if boxes else None


def extract_linked_boxes(text: str) -> str | None:
    """The contents of the last boxes that have nothing but separators between them; for golds, which list what they mean."""
    return ", ".join(_last_boxes(text, 20)) or None


def _last_boxes(text: str, most: int) -> list[str]:
    """Contents of the last box and of those before it that only separators part from it, in order, `most` at most."""
    starts = [match.start() for match in _BOX_COMMAND.finditer(text)]
    contents: list[str] = []
    following: int | None = None
    for start in reversed(starts):
        box = _box_at(text, start)
        if box is None or (following is not None and not _BETWEEN_BOXES.fullmatch(text[box[1] : following])):
            break
        contents.insert(0, box[0])
        following = start
        if len(contents) == most:
            break
    return contents


def _box_at(text: str, start: int) -> tuple[str, int] | None:
    """(content, where it ends) of the box whose command is at `start`; \\boxed 5 has one token."""
    command = _BOX_COMMAND.match(text, start)
    assert command is not None
    brace = re.compile(r"\s*\{").match(text, command.end())
    if brace is None:
        token = _ONE_TOKEN.match(text, command.end())
        return (token[1].rstrip("."), token.end()) if token else None
    end = closing_brace(text, brace.end() - 1)
    content = text[brace.end() : end].strip() if end > 0 else ""
    return (content, end + 1) if content else None


# phrases

_FINAL = re.compile(r"final\s++answer(?:\s*+\([^()\n]{0,40}\))?[*_\s]*+(?:is|:|=)[*_\s]*+:?\s*+", re.IGNORECASE)
#: the word in other languages, because models answer in the language of their thoughts
ANSWER_WORDS = r"(?:\b(?:answer|r[ée]ponse|respuesta|resposta|risposta|antwort|ответ)\b|答案|答え|정답|الإجابة|الجواب|उत्तर)"
_ANSWER = re.compile(
    ANSWER_WORDS + r"[*_]*+(?:\s++(?:to|for|of)\b[^.\n:]{0,80}?)?(?:\s*+\([^()\n]{0,40}\))?[*_]*+\s*+"
    r"(?:(?:is|would be|should be|must be|are|est|es|é|è|ist)\b|是|为|は|है|:|：|=)"
    r"[*_\s]*+(?:indeed|simply|just|therefore|thus|then|clearly|for sure|option|choice)?[*_:\s]*+(?!not\b)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"\n|[。！]|(?<=[^\s\d])\.(?=\s|$)|(?<=\d)\.(?=\s|$)|[?!](?=\s+[A-Z])|(?:,|\s)\s*(?:because|since|which|so that|where|as it)\b"
)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def _after(pattern: re.Pattern[str], text: str, question: Question) -> str | None:
    """What follows the last match of a phrase, to the end of its sentence; its formula if it holds one.

    If the gold is a number and the rest is prose: the number that opens it ("12 cookies for 3 friends"), else the last one
    that does not say when ("each of the 3 friends gets 12 cookies in 2 hours").
    """
    place = None
    for match in pattern.finditer(text):
        place = match.end()
    if place is None:
        return None
    found = _statement(text[place : place + 2000])
    if found and question.numeric and (is_prose(found) or re.search(r",\s+[a-zA-Z]", found)):
        opening = _NUMBER.match(found, _OPENING_WORDS.match(found).end())  # type: ignore[union-attr]  # it can match nothing
        numbers = [opening] if opening else list(_NUMBER.finditer(found))
        amounts = [number for number in numbers if not _WHEN.search(found[max(0, number.start() - 20) : number.start()])]
        return (amounts or numbers)[-1][0].strip() if numbers else found
    return found


_OPENING_WORDS = re.compile(
    r"(?:(?:that|is|about|approximately|roughly|around|nearly|almost|exactly|only|just|equal to|a total of)\s++)*+[$\\(*]*+",
    re.IGNORECASE,
)
_WHEN = re.compile(r"\b(?:in|after|within|during|until|dans|d['’]ici)\s?$", re.IGNORECASE)
_WORDS = re.compile(r"(?<![^\W\d_])[^\W\d_]++(?:[^\w\n=+*/^]++[^\W\d_]++){2,}+")  # possessive: linear
_OTHER_SCRIPTS = re.compile(r"[\u0590-\u06ff\u0900-\u0dff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")


def is_prose(text: str) -> bool:
    """Whether there are sentences around an answer: three words in a row, or a script that mathematics does not use."""
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[a-zA-Z]+", " ", text)
    runs = _WORDS.findall(text)
    longest = (word for run in runs for word in re.findall(r"[^\W\d_]{4,}", run))
    return _OTHER_SCRIPTS.search(text) is not None or any(word.lower() not in FUNCTIONS for word in longest)


def _statement(rest: str) -> str | None:
    rest = rest.lstrip("*_ \n:")
    boxed = extract_boxed(rest)
    if boxed:
        return boxed
    opening = re.match(r"\\\[|\$\$", rest)
    end = None if opening else _end_of_sentence(rest)
    sentence = rest[:end].replace("**", "").strip()
    formulas = _formulas(sentence)
    return formulas or (sentence.strip(' .*_`"') or None)


def _end_of_sentence(rest: str) -> int | None:
    """The first sentence end outside of formulas."""
    spans = [match.span() for match in _MATH.finditer(rest)]
    for match in _SENTENCE_END.finditer(rest):
        if not any(start < match.start() < end for start, end in spans):
            return match.start()
    return None


def _formulas(sentence: str) -> str | None:
    """The last formula of a sentence, or all if only separators lie between. None if there is none, or if what it equals stands
    behind it ("$9 * 2 =$ 18")."""
    matches = list(_MATH.finditer(sentence))
    if not matches or _content(matches[-1]).endswith("="):
        return None
    if all(
        re.fullmatch(r"[\s,;]*(?:and|or)?\s*", sentence[first.end() : second.start()])
        for first, second in itertools.pairwise(matches)
    ):
        return ", ".join(_content(match) for match in matches)
    return _content(matches[-1])


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _final_answer(text: str, question: Question) -> str | None:
    return _after(_FINAL, text, question)


def _answer(text: str, question: Question) -> str | None:
    return _after(_ANSWER, text, question)


def _hashes(text: str, question: Question) -> str | None:
    matches = re.findall(r"####[ \t]*([^\n#]{1,200})", text)
    return matches[-1].strip() if matches else None


# choices

_CHOICE_PHRASE = re.compile(
    r"(?i:\b(?:option|choice|alternative|choose|select|pick|answer|opt for|go with)\b"
    r"[*_\s:]*+(?:is|are|would be|must be|should be)?[*_\s:]*+"
    r"(?:option|choice|answer|letter)?[*_\s:]*+|(?:it's|it is|it must be|must be|is|therefore|thus|hence|so)\s++)"
    r"(?:\\text\{|\$|\\\(|\\boxed\{|\(|\[|\*\*|\"|')*+\s*+"
    r"([B-HJ](?![a-zA-Z'’]|\s+[-+*/=]\s)|[AI](?![a-zA-Z'’]|\s+(?!is\b)[a-z]|\s+[-+*/=]\s))",
)
#: behind a letter: the option is ruled out
_RULED_OUT = re.compile(
    r"[\s*_)\]}$.:]{0,8}(?:(?:is|are|was|would|must|can|could|does|seems|looks)(?:\s(?:be|also|clearly|therefore)){0,2}\s)?"
    r"(?:not|cannot|(?:is|ca|wo|does|would)n['’]t|wrong|incorrect|false|invalid|impossible|too|ruled\sout|eliminated)\b"
)
_CHOICE_LINE = re.compile(r"^\W*(?:option\s+|choice\s+)?\(?([A-J])(?:[).:](?:\s.*)?|\W*)$", re.MULTILINE | re.IGNORECASE)
_MARKED_CHOICE = re.compile(r"\(([A-J])\)|\*\*\(?([A-J])[).:]?\*\*|(?<![\w$\\^_{(])([A-J])(?=[).,:;]?(?:\s*$|\s*\n))")
_STANDALONE = re.compile(r"(?<![a-zA-Z\\'’])([A-J])(?![a-zA-Z'’])")


def choice_letter(answer: str, letters: str = LETTERS) -> str | None:
    """The letter that a found answer begins with or consists of: B, (b), "B. 12 cm", \\text{(B)}; None if it is something else."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|rm)(?![a-zA-Z])\s*|\\ |~|[{}$*_\"'`]|\\[()\[\]]", "", answer).strip()
    match = re.match(
        r"(?:(?:the\s++)?(?:correct\s++)?(?:option|choice|answer)\s*+(?:is)?\s*+)?[(\[]?\s*+([A-Ja-j])\s*+(?:[)\].:,。，、：;]|$|(?=[^\x00-\u02ff]))",
        text,
        re.IGNORECASE,
    )
    if match is None:
        match = re.match(r"([A-J])\s+(?=[-A-Z0-9(\\])", text)
    letter = match[1].upper() if match else None
    return letter if letter and letter in letters else None


_OPTION_IN_FRONT = re.compile(r"\s*(?:\\text\s*\{\s*)?\(([A-J])\)\s*(\})?\s*(?=[-\d.\\¤£€(])")


def without_letter(answer: str, gold: str) -> str:
    """The value behind an option's letter, \\textbf{(D) }27 or (D) 27, for a gold that is no letter; else the answer as it is.

    A letter that the gold holds is part of the mathematics.
    """
    cleaned = clean(answer)
    match = _OPTION_IN_FRONT.match(cleaned)
    if match is None or match[1] in gold:
        return answer
    opened_in_front = "{" in match[0] and match[2] is None  # \text{(D) 27}
    return ("\\text{" if opened_in_front else "") + cleaned[match.end() :]


def _choice_phrase(text: str, question: Question) -> str | None:
    """An announced letter that is not ruled out ("option D is wrong").

    A letter that opens a line counts only in the last lines, where no options are listed any more.
    """
    announced = [match for match in _CHOICE_PHRASE.finditer(text) if match[1] in question.letters]
    found = [match[1] for match in announced if not _RULED_OUT.match(text, match.end())]
    if found:
        return found[-1]
    lines = [line for line in text.strip().split("\n") if line.strip()]
    for line in (*lines[-1:], *lines[:1]):
        match = _CHOICE_LINE.fullmatch(line.strip()[:500])
        others = {letter for groups in _MARKED_CHOICE.findall(line) for letter in groups if letter}
        if (
            match
            and others <= {match[1].upper()}
            and match[1].upper() in question.letters
            and (match[1].isupper() or len(line.strip()) <= 4)
        ):
            return match[1].upper()
    return None


def _last_choice(text: str, question: Question) -> str | None:
    marked = [next(filter(None, match.groups())) for match in _MARKED_CHOICE.finditer(text)]
    alone = [letter for letter in _STANDALONE.findall(text) if letter not in "AI"]
    found = [letter for letter in marked or alone if letter in question.letters]
    return found[-1] if found else None


def _option_text(text: str, question: Question) -> str | None:
    """The option that the last line names, if it names exactly one."""
    lines = [line for line in text.strip().split("\n") if line.strip()]
    words = plain_words(clean(lines[-1])) if lines else ""
    named = [option for option in question.options if (own := plain_words(clean(option))) and own in words]
    return named[0] if len(named) == 1 else None


# last resorts

_NUMBER = re.compile(
    r"(?<![a-zA-Z0-9_.])-?\s?[$€£]?\s?-?\d{1,50}(?:,\d{3}){0,20}(?:\.\d{1,50})?(?:\s*/\s*\d{1,50}|e[-+]?\d{1,4})?\s?%?|-?\\frac\{-?\d{1,50}\}\{\d{1,50}\}"
)


def _last_number(text: str, question: Question) -> str | None:
    found = _NUMBER.findall(text[-20_000:])
    return found[-1].replace("$", "").strip() if found else None


def _last_formula(text: str, question: Question) -> str | None:
    contents = [_content(match) for match in _MATH.finditer(text[-5_000:])]
    return next((content for content in reversed(contents) if not content.endswith("=")), None)


def _bool_word(text: str, question: Question) -> str | None:
    found = re.findall(r"\b(true|false|yes|no)\b", text, re.IGNORECASE)
    return found[-1].lower() if found else None


RULES: Mapping[str, Callable[[str, Question], str | None]] = {
    "boxed": extract_boxed,
    "final-answer": _final_answer,
    "answer": _answer,
    "hashes": _hashes,
    "choice-phrase": _choice_phrase,
    "last-choice": _last_choice,
    "option-text": _option_text,
    "bool-word": _bool_word,
    "last-formula": _last_formula,
    "last-number": _last_number,
}
#: rules that would take a number or letter out of an unfinished calculation for an answer
WEAK = frozenset({"last-choice", "option-text", "bool-word", "last-formula", "last-number"})


def count_parts(gold: str) -> int:
    """How many answers a gold lists: 1, 3 and 5 are three, a tuple is one."""
    value = readings(gold)[0]
    return len(value.items) if isinstance(value, Several) and value.opening == "" else 1
