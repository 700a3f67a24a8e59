"""`python -m cft_lab critiques KEY`: how good the critiques of a stage are, with samples."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cft_lab.commands.listing import find_stage, printable
from cft_lab.data.critique_quality import response_grades
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Critique, Failure, Grade, Problem, Response
from cft_lab.store import MANIFEST, PRUNED

SHOWN = ("any", "disagreeing", "unparsed")
_RATES = {
    "agreement": "verdicts that agree with the gold answer",
    "false_right": "wrong responses judged right",
    "false_wrong": "right responses judged wrong",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("key", help="key of a critiques stage, or how it begins (`python -m cft_lab stages --stage critiques`)")
    command.add_argument("--samples", type=_count, default=3, help="critiques to show (default: 3)")
    command.add_argument("--show", choices=SHOWN, default="any", help="which critiques the samples are drawn from")
    command.add_argument("--seed", type=int, default=0, help="seed of the draw of samples")
    command.add_argument("--json", action="store_true", help="the manifest's counts as JSON, without samples")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Prints the quality report of one critiques stage."""
    folder = find_stage(options.store, "critiques", options.key)
    if folder is None:
        return 2
    manifest = read_json(folder / MANIFEST)
    if options.json:
        print(json.dumps(manifest["counts"], indent=2))
        return 0
    _print_report(manifest)
    if (folder / PRUNED).exists():
        print("  no samples: this store has only the record of this stage (`python -m cft_lab import`)")
        return 0
    _print_samples(options, folder, manifest["upstream"])
    return 0


def _print_report(manifest: Mapping[str, Any]) -> None:
    counts = manifest["counts"]
    print(f"critiques {manifest['key']}, by {manifest['label']}, made {manifest['created']}")
    verdicts = ", ".join(f"{counts[name]} judged {name}" for name in ("right", "wrong"))
    print(f"  {counts['critiques']} critiques: {verdicts}, {counts['unparsed']} without a readable verdict")
    lost = {name: counts[name] for name in ("failed", "refused", "cut_off", "no_response") if counts.get(name)}
    if lost:
        print("  " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in lost.items()))
    if "cost_usd" in counts:
        dollars = "" if counts["cost_usd"] is None else f", ${counts['cost_usd']:.4f}"  # None: the price is unknown
        print(f"  {counts['prompt_tokens']:,} prompt tokens, {counts['tokens']:,} generated{dollars}")
    quality = counts["quality"]
    for name, meaning in _RATES.items():
        rate = quality[name]
        if rate["share"] is None:
            print(f"  {meaning}: not measured, no response of that kind has a gold answer that is not its own")
            continue
        low, high = rate["interval"]
        print(f"  {meaning}: {100 * rate['share']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({rate['count']} of {rate['n']})")
    print(f"  {quality['ungraded']} responses could not be graded; {quality['unparsed']} graded ones have no readable verdict")


def _print_samples(options: argparse.Namespace, folder: Path, upstream: Mapping[str, str]) -> None:
    problems = {row.id: row for row in _upstream(options.store, upstream, "problems", "problems.jsonl", Problem)}
    responses = {row.problem_id: row for row in _upstream(options.store, upstream, "responses", "responses.jsonl", Response)}
    right = response_grades(_upstream(options.store, upstream, "responses", "grades.jsonl", Grade))
    rows = [row for row in read_records(folder / "critiques.jsonl", Critique) if _fits(row, right, options.show)]
    for row in random.Random(options.seed).sample(rows, min(options.samples, len(rows))):
        problem, response = problems.get(row.problem_id), responses.get(row.problem_id)
        gold = problem.answer if problem else None
        grade = {True: "right", False: "wrong", None: "not graded"}[right.get(row.problem_id)]
        print(f"\n--- {row.problem_id}, gold {printable(str(gold))}, response {grade}, verdict {row.verdict}")
        for title, text in (
            ("question", problem.question if problem else ""),
            ("response", response.text if response else ""),
            ("critique", row.text),
        ):
            print(f"[{title}] {printable(text)}")
    failed = read_records(folder / "failed.jsonl", Failure) if (folder / "failed.jsonl").exists() else []
    for failure in failed[: options.samples]:
        print(f"\n--- {failure.problem_id} {failure.finish}: {printable(failure.reason)}")


def _upstream(store: Path, keys: Mapping[str, str], stage: str, file: str, kind: type[Any]) -> list[Any]:
    """The records of an upstream stage; empty if the folder was deleted since."""
    names = ("responses", "answers") if stage == "responses" else (stage,)
    found = [path for name in names if (path := store / name / keys[stage] / file).exists()]
    return read_records(found[0], kind) if found else []


def _fits(row: Critique, right: Mapping[str, bool | None], show: str) -> bool:
    if show == "unparsed":
        return row.verdict is None
    graded = right.get(row.problem_id)
    return show == "any" or (row.verdict is not None and graded is not None and row.verdict is not graded)
