"""Which training questions overlap with questions that are evaluated: shared runs of words, 13 by default.

Words are what is left of a question after these steps, in this order:

1. NFKC (full-width letters, superscripts and ligatures become plain ones), then casefold.
2. LaTeX: environments and the commands that only lay out or stand for a symbol (`_MARKUP`: \\frac, \\left, \\text, \\cdot ...) are
   dropped; every other command keeps its name as a word (\\sin is sin). Greek letters become their names (π is pi, as \\pi is).
3. Thousands commas are closed up (1,000 and 1{,}000 are 1000).
4. Words are the maximal runs of letters and digits that remain; everything else, operators included, only separates them.

A training question is contaminated by an evaluated one of at least n words if both contain the same n words in a row, and by a
shorter one if the two are the same words from beginning to end. A short question inside a longer one does not count: `Find x.`
stands in thousands of harmless ones, and runs shorter than n agree by chance, which is why there is an n. Since operators only
separate, `Compute 2 - 2.` counts as the same question: a training question too many is left out rather than one too few.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: LaTeX commands that lay out, or stand for a symbol that is no letter or digit
_MARKUP = """
    frac dfrac tfrac cfrac sqrt left right middle big bigg bigl bigr biggl biggr limits quad qquad hspace vspace phantom
    text textbf textit textrm mathrm mathbf mathit mathsf mathbb mathcal mathfrak operatorname boldsymbol displaystyle textstyle
    boxed overline underline widehat hat vec bar dot ddot tilde hline item label ref
    cdot cdots ldots dots vdots ddots times div pm mp circ degree le leq ge geq ne neq lt gt leqslant geqslant
    approx equiv sim cong propto to rightarrow leftarrow longrightarrow mapsto infty cap cup subset subseteq in notin setminus
    emptyset varnothing lfloor rfloor lceil rceil langle rangle lvert rvert vert mid parallel perp angle triangle
    sum prod int partial nabla forall exists neg land lor prime star ast bullet oplus otimes
"""
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
_COMMAND = re.compile(r"\\([a-z]+)|\\[^a-z]")
_CLOSED_COMMA = re.compile(r"(?<=\d)(?:,|\{,\}|,\\!)(?=\d{3}(?!\d))")
_WORD = re.compile(r"[^\W_]+")
_DROPPED = frozenset(_MARKUP.split())
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega"
)
_GREEK = {ord(letter): f" {name} " for letter, name in zip("αβγδεζηθικλμνξοπρστυφχψω", _LETTERS.split(), strict=True)}
_MAX_EXAMPLES = 5
_QUOTED = 100  # characters of a training question that an example shows


def words_of(text: str) -> list[str]:
    """The words of a question, by the four steps above."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    if "\\" in plain:
        plain = _CLOSED_COMMA.sub("", _ENVIRONMENT.sub(" ", plain))
        plain = _COMMAND.sub(_command_word, plain)
    plain = _CLOSED_COMMA.sub("", plain).translate(_GREEK)
    return _WORD.findall(plain)


def _command_word(match: re.Match[str]) -> str:
    name = match[1]
    return " " if name is None or name in _DROPPED else f" {name.removeprefix('var')} "  # \\varphi is phi


@dataclass(frozen=True)
class Overlap:
    """What a training question shares: for each benchmark, the index of one of its items and the shared words."""

    question: str
    hits: tuple[tuple[str, int, str], ...]  # (benchmark, index of the item in its benchmark from 0, shared words)


@dataclass
class _Index:
    """One benchmark: its n-grams and its short questions, by hash, with the item where each stands."""

    items: list[str] = field(default_factory=list)  # normalised questions, framed by blanks
    grams: dict[int, int] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)


class Decontaminator:
    """Finds the overlap of training questions with `evaluated`, pairs of (benchmark, question).

    Hashes only find candidates; what is reported was compared word by word, so equal hashes of different words do no harm.
    """

    def __init__(self, evaluated: Iterable[tuple[str, str]], words: int) -> None:
        if words < 1:
            raise ValueError(f"words={words} must be at least 1: without a check no Decontaminator is needed")
        self._words = words
        self._indexes: dict[str, _Index] = {}
        for benchmark, question in evaluated:
            index = self._indexes.setdefault(benchmark, _Index())
            found = words_of(question)
            number, text = len(index.items), " ".join(found)
            index.items.append(f" {text} ")
            if len(found) < words and found:
                index.whole.setdefault(text, number)
            for gram in self._grams(found):
                index.grams.setdefault(hash(gram), number)

    def overlap(self, question: str) -> Overlap | None:
        """What the question shares with the evaluated ones; None if nothing."""
        found = words_of(question)
        text = " ".join(found)
        grams = {hash(gram): gram for gram in self._grams(found)}
        hits = []
        for benchmark, index in self._indexes.items():
            if text in index.whole:
                hits.append((benchmark, index.whole[text], text))
                continue
            shared = [(gram, index.grams[key]) for key, gram in grams.items() if key in index.grams]
            confirmed = [(gram, item) for gram, item in shared if f" {' '.join(gram)} " in index.items[item]]
            if confirmed:
                hits.append((benchmark, confirmed[0][1], " ".join(confirmed[0][0])))
        return Overlap(question, tuple(hits)) if hits else None

    def _grams(self, found: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(found[start : start + self._words]) for start in range(len(found) - self._words + 1)]


def report(refused: Sequence[tuple[str, Overlap]], words: int, private: Collection[str] = ()) -> dict[str, Any]:
    """What the manifest says about the (problem id, overlap) pairs that were left out: how many, by benchmark, and five examples.

    `by_benchmark` counts a question once for each benchmark that it overlaps with, so it may sum to more than `left_out`.
    Of a benchmark named in `private`, neither the shared words nor the training question are quoted: that would publish the item.
    """
    by_benchmark = Counter(benchmark for _, overlap in refused for benchmark, _, _ in overlap.hits)
    examples = []
    for problem_id, overlap in refused[:_MAX_EXAMPLES]:
        secret = any(benchmark in private for benchmark, _, _ in overlap.hits)
        benchmark, item, shared = overlap.hits[0]
        texts = {} if secret else {"question": overlap.question[:_QUOTED], "shared": shared}
        examples.append({"id": problem_id, "benchmark": benchmark, "item": item} | texts)
    return {"words": words, "left_out": len(refused), "by_benchmark": dict(sorted(by_benchmark.items())), "examples": examples}
