"""How each benchmark is graded: which extraction rules may fire, in order, and what tolerance its own scorer grants.

GSM8K   "... so 48 + 24 = 72 clips. The answer is 72."    gold "72"      rules boxed ... last-number
GPQA    "... Therefore the answer is (B)."                gold "B"       rules for choices
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from cft_lab.evaluation.decimals import STRICT, Terms

_PHRASES = ("boxed", "hashes", "final-answer", "answer")
_CHOICE = ("boxed", "final-answer", "answer", "choice-phrase", "last-choice", "option-text")


@dataclass(frozen=True)
class Profile:
    """`rules` for free answers and `choice_rules` for golds that are a letter (None: such golds are answers like others)."""

    name: str
    rules: tuple[str, ...]
    choice_rules: tuple[str, ...] | None = None
    plain_numbers: bool = False  # golds are numbers and an answer must be written as one: see plain_numbers.py
    always_choice: bool = False  # every gold is a letter of an option
    number_fallback: bool = False  # the last number of a text counts if the gold is a number
    formula_fallback: bool = False  # the last formula of a text counts if the gold is neither a number nor a word
    terms: Terms = STRICT


#: the lab prompts ask for a box and nothing else counts
LAB = Profile("lab", ("boxed",), plain_numbers=True)
#: files from anywhere: every rule that the gold allows
ANY = Profile("any", (*_PHRASES, "bool-word"), _CHOICE, number_fallback=True, formula_fallback=True)

#: TheoremQA's published scorer takes floats within 4 % of the gold and whole numbers exactly
_THEOREMQA = Terms(relative=Fraction(4, 100), lists_are_tuples=True)

PROFILES: Mapping[str, Profile] = {
    "lab": LAB,
    "any": ANY,
    "math": Profile("math", _PHRASES, _CHOICE),
    "math500": Profile("math500", _PHRASES, _CHOICE),
    "minerva-math": Profile("minerva-math", _PHRASES),
    "olympiadbench": Profile("olympiadbench", _PHRASES),
    "gsm8k": Profile("gsm8k", _PHRASES, number_fallback=True),
    "aime24": Profile("aime24", _PHRASES, number_fallback=True),
    "amc23": Profile("amc23", _PHRASES, number_fallback=True),
    "theoremqa": Profile("theoremqa", (*_PHRASES, "bool-word"), _CHOICE, number_fallback=True, terms=_THEOREMQA),
    "math-train-clean": Profile("math-train-clean", _PHRASES, _CHOICE),
    "gpqa-diamond": Profile("gpqa-diamond", _PHRASES, _CHOICE, always_choice=True),
    "mmlu-pro": Profile("mmlu-pro", _PHRASES, _CHOICE, always_choice=True),
}


def profile_of(benchmark: str) -> Profile:
    """The profile of a benchmark by its name in conf/benchmarks. Raises ValueError, naming the choices, for an unknown one."""
    if benchmark.startswith("lab-"):
        return LAB
    if benchmark not in PROFILES:
        raise ValueError(
            f"benchmark {benchmark!r} is not known; choose one of: {', '.join(PROFILES)}, or a lab benchmark (lab-...)"
        )
    return PROFILES[benchmark]
