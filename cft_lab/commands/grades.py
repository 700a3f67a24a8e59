"""`python -m cft_lab grades KEY`: how the items of a scores stage were graded, and where the two graders disagree."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence

from cft_lab.commands.listing import find_stage, printable
from cft_lab.config import DataError
from cft_lab.evaluation.benchmarks import BENCHMARKS, load_items
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Grade, Outcome, to_row
from cft_lab.stages import GRADES, SCORE

SHOWN = ("disagreements", *(outcome.value for outcome in Outcome))


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("key", help="key of a scores stage, or how it begins (`python -m cft_lab stages --stage scores`)")
    command.add_argument("--show", choices=SHOWN, default="disagreements", help="which items to list (default: disagreements)")
    command.add_argument("--paths", nargs="*", default=[], metavar="NAME=PATH", help="benchmarks.paths of the run, for the golds")
    command.add_argument("--json", action="store_true", help="the listed grades as JSON lines")


def run(options: argparse.Namespace) -> int:
    """Lists the grades of one scores stage."""
    folder = find_stage(options.store, "scores", options.key)
    if folder is None:
        return 2
    benchmark = read_json(folder / SCORE)["benchmark"]
    grades = read_records(folder / GRADES, Grade)
    listed = [grade for grade in grades if _fits(grade, options.show)]
    private = BENCHMARKS[benchmark].private
    if options.json:
        for grade in listed:
            row = to_row(grade)
            print(json.dumps(row | ({"extracted": None, "reason": None} if private else {})))
        return 0
    strict = Counter(str(grade.outcome) for grade in grades)
    paper = Counter(str(grade.paper) for grade in grades)
    print(f"{benchmark}: {len(grades)} graded; strict {dict(strict)}; paper {dict(paper)}")
    rules = Counter(grade.rule for grade in grades if grade.rule)
    print(f"answers found by: {dict(rules.most_common())}")
    golds = {} if private else _golds(benchmark, options.paths)
    for grade in listed:
        texts = "" if private else f"  gold {printable(golds.get(grade.problem_id, '?'))}  answer {printable(str(grade.extracted))}"
        reason = f"  ({grade.reason})" if grade.reason and not private else ""
        print(f"{grade.problem_id}#{grade.sample}  strict {grade.outcome}  paper {grade.paper}  rule {grade.rule}{texts}{reason}")
    return 0


def _fits(grade: Grade, show: str) -> bool:
    if show == "disagreements":
        return grade.paper is not None and grade.paper is not grade.outcome
    return grade.outcome.value == show


def _golds(benchmark: str, paths: Sequence[str]) -> dict[str, str]:
    named = dict(path.split("=", 1) for path in paths if "=" in path)
    if BENCHMARKS[benchmark].missing(named):
        print(
            f"golds are not shown: the rows of {benchmark} are not here; name them with --paths {benchmark}=PATH", file=sys.stderr
        )
        return {}
    try:
        return {item.id: str(item.answer) for item in load_items(benchmark, paths=named)}
    except DataError as error:
        print(f"golds are not shown: {error}", file=sys.stderr)
        return {}
