"""How a model judges its own solutions: the rounds of two-stage inference, each solution graded as the final one is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cft_lab.records import Generation, Problem
from cft_lab.stages.common import grade_all

COLUMNS = ("item", "sample", "round", "solution", "solution_outcome", "critique", "verdict")


def rounds(benchmark: str, rows: Sequence[Generation], items: Mapping[str, Problem]) -> list[dict[str, Any]]:
    """A row of COLUMNS for each solution that was judged, of the items that are known. `verdict` is None where none was read."""
    judged = [pair for row in rows if row.problem_id in items for pair in _judged(row)]
    grades = grade_all(benchmark, [solved for solved, _ in judged], list(items.values()))
    return [
        {
            "item": solved.problem_id,
            "sample": solved.sample,
            "round": told["round"],
            "solution": solved.final_text,
            "solution_outcome": grade.outcome.value,
            "critique": told["critique"],
            "verdict": told["verdict"],
        }
        for (solved, told), grade in zip(judged, grades, strict=True)
    ]


def _judged(row: Generation) -> Iterator[tuple[Generation, dict[str, Any]]]:
    """Each solution of a draw that a critique follows, as a generation of its own, and that critique. Rounds count from 0."""
    for number, (turn, after) in enumerate(zip(row.turns[0::2], row.turns[1::2], strict=False)):
        if turn.purpose == "solve" and after.purpose == "critique" and after.completion.answered:
            solved = dataclasses.replace(row, final_text=turn.completion.text, finish=turn.completion.finish)
            yield solved, {"round": number, "critique": after.completion.text, "verdict": after.verdict}
