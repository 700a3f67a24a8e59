"""One spelling for LaTeX and plain answers: what carries no meaning is dropped, what has several spellings gets one.

`clean` keeps units, words and structure (cft_lab.evaluation.answers reads those); `plain_words` is how text answers are compared.
The conventions are in docs/grading.md.
"""

from __future__ import annotations

import functools
import re

#: longer texts are compared as strings only; a real answer has a few hundred characters at most
MAX_LENGTH = 5_000
#: stands for the double backslash that ends a row of a matrix
ROW_END = "⏎"

_UNICODE = str.maketrans(
    {
        **{"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "√": r"\sqrt ", "≈": r"\approx "},
        **{"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in "},
        **{"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "²": "^2", "³": "^3", "°": r"^\circ ", "∞": r"\infty "},
        **{"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "ω": r"\omega ", "λ": r"\lambda ", "μ": r"\mu "},
        **{"’": "'", "′": "'", "“": '"', "”": '"', "ℝ": r"\mathbb{R}", "\xa0": " ", "\u202f": " ", "\u2009": " "},
        **dict.fromkeys("\n\t\r", " "),
    }
)

#: (pattern, replacement), in order; all are linear in the length of the text
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$", "¤"),
        (r"(?<=\d),\\!\s*(?=\d{3}(?!\d))", ""),
        (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),
        (r"\*\*|\$|\\[()]|\\\[|\\\](?![a-z])|\\displaystyle|\\textstyle|\\limits|\\!|\\tiny|\\small|\\large", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
        (r"\{\s*,\s*\}", ","),
        (r"(?<=\d)\\,(?=\d{3}(?!\d))", ""),
        (r"\\[,;: ]|\\q?quad(?![a-zA-Z])|~(?!=)", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\[dt]?binom", r"\\binom"),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le "),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge "),
        (r"\\neq(?![a-zA-Z])", r"\\ne "),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"(?<=\s)!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:lbrace|\{)", r"\\{"),
        (r"\\(?:rbrace|\})", r"\\}"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\varnothing(?![a-zA-Z])|^\s*\\\{\s*\\\}\s*$", r"\\emptyset "),
        (r"\\overline\s*\{\s*([A-Z]{2,})\s*\}", r"\1"),
        (r"\\[lr]?vert(?![a-zA-Z])|\\mid(?![a-zA-Z])", "|"),
        (r"\\(?:mathrm|textbf|textit|textrm|textsf|texttt|textnormal|mbox|hbox|mathit|mathsf|mathtt|rm)(?![a-zA-Z])", r"\\text"),
        (r"\\(?:mathbf|boldsymbol|bm|mathcal|mathfrak)\s*\{([^{}]*)\}", r"\1"),
        (r"\\mathbb\{R\}|\\mathbb\s*R|\\R(?![a-zA-Z])|\\Reals", r"\\reals "),
        (r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}", r"\\\1 "),
        (r"\\text\s+\{", r"\\text{"),
        (r"_\s*\{\s*\\text\{([^{}]*)\}\s*\}|_\s*\\text\{([^{}]*)\}", r"_{\1\2}"),
        (r"\\%", "%"),
        (r"\\(?:degree|degrees)(?![a-zA-Z])", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])", r"^\\circ "),
        (r"\\(?:prime)(?![a-zA-Z])", "'"),
        (r"\^\s*\{\s*('+)\s*\}|\^\s*('+)", r"\1\2"),
        (r"\\(?:dots|ldots|cdots)(?![a-zA-Z])|\.\.\.", "…"),
        (r"(?<![a-zA-Z.])(?:np|numpy|math)\.(?=[a-z])", ""),
        (r"(\^(?:\{[^{}]*\}|\w))\s*(_(?:\{[^{}]*\}|\w))", r"\2\1"),
        (r"\+\s*-|-\s*\+", "-"),
        (r"\s+", " "),
    )
]
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WORD_SEPARATORS = re.compile(r"\\text\{([^{}]*)\}")


@functools.lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """The answer with decoration removed and one spelling per command; at most MAX_LENGTH characters are rewritten."""
    text = text.strip()
    if len(text) > MAX_LENGTH:
        return text
    text = text.translate(_UNICODE)
    if "\\\\begin" in text:  # escaped twice
        text = text.replace("\\\\", "\\")
    pattern, replacement = (r"\\\\(?:\[[^\]]*\])?", ROW_END) if "\\begin" in text else (r"\\\\(?=[a-zA-Z])", r"\\")
    text = re.sub(pattern, replacement, text)
    text = _unbox(text)
    for rewrite, written in _REWRITES:
        text = rewrite.sub(written, text)
    return _strip_punctuation(text)


def _unbox(text: str) -> str:
    """A text that is one \\boxed{...} stands for its content."""
    stripped = text.strip("$ .")
    match = _BOX.match(stripped)
    if match and closing_brace(stripped, match.end() - 1) == len(stripped) - 1:
        return stripped[match.end() : -1]
    return text


def _strip_punctuation(text: str) -> str:
    text = text.strip()
    while text and (text[-1] in ",;:。\\" or (text[-1] == "." and not re.search(r"[ap]\.\s?m\.$", text))):
        text = text[:-1].rstrip()
    return text.lstrip(",;: ")


def closing_brace(text: str, opening: int) -> int:
    """The place of the brace that closes the one at `opening`, -1 if there is none. Escaped braces do not count."""
    depth = 0
    place = opening
    while place < len(text):
        character = text[place]
        if character == "\\":
            place += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return -1


def canonical(cleaned: str) -> str:
    """The cleaned text without spaces (kept between digits, where they matter) and with text commands opened."""
    text = _WORD_SEPARATORS.sub(r"\1", cleaned)
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


_SYNONYMS = {"yes": "true", "no": "false", "correct": "true", "incorrect": "false"}


def plain_words(cleaned: str) -> str:
    """A text answer's words and numbers in lower case, without articles; yes is true and no is false."""
    text = re.sub(r"\\[a-zA-Z]+", " ", _WORD_SEPARATORS.sub(r" \1 ", cleaned)).lower()
    text = re.sub(r"(?<=[ap])\.\s?(?=m\b)", "", text)  # a.m. is am
    found = re.findall(r"-?\d+(?:\.\d+)?|\w+", text)
    words = [word for word in found if word not in ("a", "an", "the")] or found
    return "".join(_SYNONYMS.get(word, word) for word in words)
