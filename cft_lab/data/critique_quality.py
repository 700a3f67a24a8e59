"""How good critiques are, where a gold answer lets the response be graded: the verdict against the grade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.evaluation.statistics import Interval, wilson
from cft_lab.records import Critique, Grade, Outcome


@dataclass(frozen=True)
class Rate:
    """A share of `count` in `n` with its 95 % Wilson interval; both None where n is 0, because nothing was measured."""

    count: int
    n: int

    @property
    def share(self) -> float | None:
        """count / n."""
        return self.count / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """95 % Wilson interval of the share."""
        return wilson(self.count, self.n)

    def row(self) -> dict[str, Any]:
        """As it stands in manifests."""
        return {"count": self.count, "n": self.n, "share": self.share, "interval": self.interval}


def response_grades(grades: Iterable[Grade]) -> dict[str, bool | None]:
    """Of each graded response whether it is right; None where no answer could be read, which settles nothing."""
    known = {Outcome.CORRECT: True, Outcome.WRONG: False}
    return {grade.problem_id: known.get(grade.outcome) for grade in grades}


def quality(critiques: Iterable[Critique], right: Mapping[str, bool | None]) -> dict[str, Any]:
    """Verdicts against grades, for the manifest.

    agreement      parsed verdicts that agree with the grade, of all parsed verdicts on graded responses
    false_right    of graded wrong responses with a parsed verdict, those judged right
    false_wrong    of graded right responses with a parsed verdict, those judged wrong
    ungraded       critiques of responses without a gold answer, or without a readable answer
    unparsed       critiques of graded responses without a readable verdict: in none of the rates
    """
    table: Counter[tuple[bool | None, bool | None]] = Counter(
        (right.get(critique.problem_id), critique.verdict) for critique in critiques
    )
    both, false_right, false_wrong = (table[True, True] + table[False, False]), table[False, True], table[True, False]
    return {
        "agreement": Rate(both, both + false_right + false_wrong).row(),
        "false_right": Rate(false_right, false_right + table[False, False]).row(),
        "false_wrong": Rate(false_wrong, false_wrong + table[True, True]).row(),
        "ungraded": sum(count for (grade, _), count in table.items() if grade is None),
        "unparsed": table[True, None] + table[False, None],
    }
