"""`python -m cft_lab <command>`: looks at what was made, and grades answers from anywhere."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from cft_lab.commands import cancel, critiques, grade, grades, plan, retry, status, table1
from cft_lab.config import PROJECT_ROOT
from cft_lab.store import MANIFEST, Store, read_json, read_records

_COMMANDS = {
    "critiques": critiques.run,
    "grades": grades.run,
    "table1": table1.run,
    "status": status.run,
    "retry": retry.run,
    "cancel": cancel.run,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cft_lab", description="cft_lab: what is in the store; grading")
    commands = parser.add_subparsers(dest="command", required=True)
    stages = commands.add_parser("stages", help="lists the finished stages: name, key, when, size, from which config")
    stages.add_argument("--json", action="store_true", help="whole manifests, one JSON object a line")
    stages.add_argument("--stage", help="only stages of this name")
    errors = commands.add_parser("lab-errors", help="for each lab result and benchmark: where its wrong solutions go wrong")
    quality = commands.add_parser("critiques", help="how good the critiques of a stage are, with samples")
    critiques.add_arguments(quality)
    sets = commands.add_parser("table1", help="the paper's Table 1: training sets as published and as counted here")
    table1.add_arguments(sets)
    graded = commands.add_parser("grades", help="how the items of a scores stage were graded, and where the graders disagree")
    grades.add_arguments(graded)
    sweeps = []
    for name, module in (("status", status), ("retry", retry), ("cancel", cancel)):
        sweeps.append(commands.add_parser(name, help=module.HELP))
        module.add_arguments(sweeps[-1])
    for command in (stages, errors, quality, sets, graded, *sweeps):
        command.add_argument("--store", type=Path, default=PROJECT_ROOT / "outputs", help="folder of the store (default: outputs)")
    grade.add_parser(commands)
    plan.add_parser(commands)
    options = parser.parse_args(arguments)
    if options.command == "grade":
        return grade.run(options)
    if options.command == "plan":
        return plan.run(options)
    if not options.store.is_dir():
        print(f"--store {options.store} is not a folder: name the output_root of your runs", file=sys.stderr)
        return 2
    if options.command in _COMMANDS:
        return _COMMANDS[options.command](options)
    finished = Store(options.store).finished()
    if options.command == "lab-errors":
        results = [(folder, manifest) for folder, manifest in finished if manifest["stage"] == "result"]
        for folder, manifest in sorted(results, key=lambda item: item[1]["label"]):
            _print_lab_errors(options.store, folder, manifest)
        return 0
    for folder, manifest in finished:
        if options.stage in (None, manifest["stage"]):
            print(json.dumps(manifest) if options.json else _line(folder, manifest))
    return 0


def _line(folder: Path, manifest: dict[str, Any]) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return (
        f"{manifest['stage']:<12} {manifest['key']}  {manifest['created']}  {manifest['seconds']:>8.1f} s  "
        f"{size / 1e6:>9.2f} MB  {manifest['label']}"
    )


def _print_lab_errors(root: Path, folder: Path, manifest: dict[str, Any]) -> None:
    from cft_lab.evaluation.benchmarks import load_items
    from cft_lab.lab.errors import KINDS, classify
    from cft_lab.records import Generation
    from cft_lab.stages import GENERATIONS, RESULT

    keys = read_json(folder / RESULT)["keys"]
    for name in [name for name in keys if name.startswith("generations/lab-")]:
        generated = root / "generations" / keys[name]
        if not (generated / MANIFEST).exists():
            continue
        questions = {item.id: item.question for item in load_items(name.removeprefix("generations/"))}
        rows = read_records(generated / GENERATIONS, Generation)
        counts = Counter(classify(questions[row.problem_id], row.final_text) for row in rows)
        told = " ".join(f"{kind}={counts[kind]}" for kind in KINDS)
        print(f"{manifest['label']:<50} {name.removeprefix('generations/'):<15} {told}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
