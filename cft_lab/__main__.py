"""`python -m cft_lab <command>`: what is in a store, and keeping it; grading of answers from anywhere."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cft_lab.commands import (
    cancel,
    cells,
    critiques,
    gc,
    grade,
    grades,
    plan,
    prefetch,
    report,
    retry,
    status,
    sync,
    table1,
    transfer,
    wandb_dashboard,
)
from cft_lab.commands.listing import printable
from cft_lab.config import PROJECT_ROOT
from cft_lab.json_files import read_json, read_records
from cft_lab.store import PRUNED, Store

_DEFAULT_STORE = PROJECT_ROOT / "outputs"


def parse(typed: list[str]) -> argparse.Namespace:
    """What a command line asks for; ends the process with code 2, and a message, on one that is not understood."""
    parser = argparse.ArgumentParser(prog="python -m cft_lab", description="cft_lab: what is in a store, and keeping it; grading")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (add_arguments, _, what) in _COMMANDS.items():
        parsed = commands.add_parser(name, help=what, description=what)
        add_arguments(parsed)
        parsed.add_argument("--store", type=Path, default=_DEFAULT_STORE, help="folder of the store (default: outputs)")
    for command in (grade, plan, prefetch):
        command.add_parser(commands)
    if typed and typed[0] in _INTERMIXED:
        return commands.choices[typed[0]].parse_intermixed_args(typed[1:], argparse.Namespace(command=typed[0]))
    return parser.parse_args(typed)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.command in _STORELESS:
        return _STORELESS[options.command](options)
    if not options.store.is_dir() and options.command != "import":
        print(f"--store {options.store} is not a folder: name the output_root of your runs", file=sys.stderr)
        return 2
    return _COMMANDS[options.command][1](options)


def _add_stages_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="whole manifests, one JSON object a line")
    command.add_argument("--stage", help="only stages of this name")


def _list_stages(options: argparse.Namespace) -> int:
    for folder, manifest in Store(options.store).finished():
        if options.stage in (None, manifest["stage"]):
            print(json.dumps(manifest) if options.json else _line(folder, manifest))
    return 0


def _line(folder: Path, manifest: dict[str, Any]) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return (
        f"{manifest['stage']:<12} {manifest['key']}  {manifest['created']}  {manifest['seconds']:>8.1f} s  "
        f"{size / 1e6:>9.2f} MB  {printable(manifest['label'])}{'  (record)' if (folder / PRUNED).exists() else ''}"
    )


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """For a command that has no arguments of its own."""


def _list_lab_errors(options: argparse.Namespace) -> int:
    results = [(folder, manifest) for folder, manifest in Store(options.store).finished() if manifest["stage"] == "result"]
    for folder, manifest in sorted(results, key=lambda item: item[1]["label"]):
        _print_lab_errors(options.store, folder, manifest)
    return 0


def _print_lab_errors(root: Path, folder: Path, manifest: dict[str, Any]) -> None:
    from cft_lab.evaluation.benchmarks import load_items
    from cft_lab.lab.errors import KINDS, classify
    from cft_lab.records import Generation
    from cft_lab.stages import GENERATIONS, RESULT

    keys = read_json(folder / RESULT)["keys"]
    for name in [name for name in keys if name.startswith("generations/lab-")]:
        generated = root / "generations" / keys[name]
        if not (generated / GENERATIONS).exists():
            continue
        questions = {item.id: item.question for item in load_items(name.removeprefix("generations/"))}
        rows = read_records(generated / GENERATIONS, Generation)
        counts = Counter(classify(questions[row.problem_id], row.final_text) for row in rows)
        told = " ".join(f"{kind}={counts[kind]}" for kind in KINDS)
        print(f"{manifest['label']:<50} {name.removeprefix('generations/'):<15} {told}")


#: commands whose overrides may stand before and after options
_INTERMIXED = ("plan", "prefetch", "report")
#: commands that have their own say about a store, or need none
_STORELESS: dict[str, Callable[[argparse.Namespace], int]] = {"grade": grade.run, "plan": plan.run, "prefetch": prefetch.run}
#: commands on a store: name -> what adds its arguments, what does it and returns the exit code, help
_SWEEPS = {"status": status, "retry": retry, "cancel": cancel}
_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]] = {
    "stages": (_add_stages_arguments, _list_stages, "lists the finished stages: name, key, when, size, from which config"),
    "cells": (cells.add_arguments, cells.run, cells.HELP),
    "lab-errors": (_add_nothing, _list_lab_errors, "for each lab result and benchmark: where its wrong solutions go wrong"),
    "critiques": (critiques.add_arguments, critiques.run, "how good the critiques of a stage are, with samples"),
    "table1": (table1.add_arguments, table1.run, "the paper's Table 1: training sets as published and as counted here"),
    "grades": (grades.add_arguments, grades.run, "how the items of a scores stage were graded, and where the graders disagree"),
    "report": (report.add_arguments, report.run, report.HELP),
    **{name: (module.add_arguments, module.run, module.HELP) for name, module in _SWEEPS.items()},
    "gc": (gc.add_arguments, gc.run, "removes what no recorded result needs, after showing it and asking"),
    "export": (transfer.add_export_arguments, transfer.run_export, "writes results, scores and grades to an archive"),
    "sync": (sync.add_arguments, sync.run, "uploads to W&B what runs wrote offline, segments of requeued runs in order"),
    "wandb-dashboard": (wandb_dashboard.add_arguments, wandb_dashboard.run, wandb_dashboard.HELP),
    "import": (transfer.add_import_arguments, transfer.run_import, "reads such an archive into a store"),
}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt as interrupted:
        print(f"\n{interrupted}" if str(interrupted) else "\nInterrupted: the same command goes on.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
