"""Agreement of the strict grader with labelled sets, as tables for docs/grading.md; every row counts, every disagreement is named.

python benchmarks/grading_agreement.py FOLDER    # of JSONL files with gold, pred or response, expected, label

`raw` compares with the labels as they are. `conventional` corrects the labels that contradict a convention of docs/grading.md, and
gives the grader a tolerance where the row's own meta field states one; a disagreement that grading_disagreements.json does not
explain, or explains as ours, counts against it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cft_lab.commands.grade import RowError, submission
from cft_lab.evaluation.grading import Submission, grade_many
from cft_lab.evaluation.profiles import ANY
from cft_lab.records import Outcome

REASONS = Path(__file__).with_name("grading_disagreements.json")


def outcomes(rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Strict outcomes, as the `grade` command gives them: a row that cannot be graded is an error."""
    asked: list[Submission | None] = []
    for row in rows:
        try:
            asked.append(submission(row, "row"))
        except RowError:
            asked.append(None)
    grades = iter(grade_many([one for one in asked if one is not None], ANY))
    return [next(grades).outcome if one is not None else Outcome.ERROR for one in asked]


def with_tolerance(row: Mapping[str, Any]) -> dict[str, Any]:
    precision = (row.get("meta") or {}).get("abs_precision") if isinstance(row.get("meta"), dict) else None
    return {**row, "tolerance": precision} if isinstance(precision, int | float | str) else dict(row)


def agree(rows: Sequence[Mapping[str, Any]], found: Sequence[Outcome]) -> list[bool]:
    return [(outcome is Outcome.CORRECT) == row["expected"] for row, outcome in zip(rows, found, strict=True)]


def main() -> None:
    reasons = {entry["row"]: entry for entry in json.loads(REASONS.read_text(encoding="utf-8"))}
    used: list[str] = []
    pooled = [0, 0, 0]
    print("| file | rows | labels | raw | conventional |\n|---|---|---|---|---|")
    for path in sorted(Path(sys.argv[1]).glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if "expected" in row]
        if not rows:
            continue
        raw = agree(rows, outcomes(rows))
        settled = agree(rows, outcomes([with_tolerance(row) for row in rows]))
        names = [f"{path.stem}:{number}" for number in range(1, len(rows) + 1)]
        used += [name for name, agreed in zip(names, raw, strict=True) if not agreed]
        conventional = [ok or reasons.get(name, {}).get("kind") == "convention" for name, ok in zip(names, settled, strict=True)]
        human = str(rows[0]["label"]).startswith("human")
        if human:
            pooled = [pooled[0] + len(rows), pooled[1] + sum(raw), pooled[2] + sum(conventional)]
        counts = f"{sum(raw)} ({sum(raw) / len(rows):.1%}) | {sum(conventional)} ({sum(conventional) / len(rows):.1%})"
        print(f"| {path.stem} | {len(rows)} | {'human' if human else 'weak'} | {counts} |")
    total, raw_count, conventional_count = pooled
    counts = f"{raw_count} ({raw_count / total:.1%}) | {conventional_count} ({conventional_count / total:.1%})"
    print(f"| **all human-labelled** | {total} | human | {counts} |\n")
    print("| row | why it disagrees |\n|---|---|")
    for name in used:
        entry = reasons.get(name)
        print(f"| {name} | " + (f"{entry['kind']}: {entry['reason']}" if entry else "NOT EXPLAINED") + " |")
    for name in reasons.keys() - set(used):
        print(f"listed as a disagreement but agrees now: {name}")


if __name__ == "__main__":
    main()
