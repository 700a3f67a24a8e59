"""`python -m cft_lab plan`: the cells and distinct stages of sweeps, what is made already, what the rest is expected to cost."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cft_lab import pipeline
from cft_lab.config import ConfigError
from cft_lab.hydra_config import Composer, explain, initialized
from cft_lab.sweeps.costs import Cost, plan_costs, total
from cft_lab.sweeps.expand import Request, compose_all, expand
from cft_lab.sweeps.plan import Plan, PlannedStage, is_made, make_plan, to_make

_BASE = "base"


def add_parser(commands: Any) -> None:
    """Adds the command to those of `python -m cft_lab`."""
    command = commands.add_parser("plan", help="what sweeps would make and cost: no GPU, network or weights are needed")
    command.add_argument(
        "asked", nargs="+", metavar="SWEEP|OVERRIDE", help="sweep files, such as table2, and overrides: seed=0,1,2"
    )
    command.add_argument("--json", action="store_true", help="everything, as one JSON object")
    command.add_argument("--graph", action="store_true", help="every distinct stage with what it stands on")


def run(options: argparse.Namespace) -> int:
    """Prints the plan and returns the exit code."""
    names = [word for word in options.asked if "=" not in word and not word.startswith("~")]
    arguments = [word for word in options.asked if word not in names] + ([f"sweeps={','.join(names)}"] if names else [])
    try:
        with initialized():
            asked = expand(arguments)
            plan, problems = make_plan(compose_all(asked.cells, Composer()))
    except Exception as error:
        told = error.problems if isinstance(error, ConfigError) else (explain(error),)
        if told == (None,):
            raise
        print("Not planned, for this reason:", *(f"  - {line}" for line in told), sep="\n", file=sys.stderr)
        return 2
    described = describe(asked, plan, problems.lines(len(asked.cells)))
    if options.json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        _print(described, options.graph)
    return 0


def describe(asked: Request, plan: Plan, not_planned: Sequence[str]) -> dict[str, Any]:
    """All that is known of a plan, as one JSON object; stages are counted by name, fine-tunings as `train`."""
    if not plan.configs:
        return {"cells": len(asked.cells), "distinct_cells": 0, "stages": {}, "not_planned": list(not_planned)}
    root = pipeline.output_root(plan.configs[0])
    missing = to_make(plan, root)
    costs = plan_costs(plan, missing, root)
    by_name = {name: total(costs[stage.key] for stage in missing if _counted(stage) == name) for name in _count(missing)}
    return {
        "cells": len(asked.cells),
        "distinct_cells": len(plan.configs),
        "tables": dict(Counter(cell.sweep for cell in asked.cells)),
        "stages": _count(plan.stages),
        "made": _count(stage for stage in plan.stages if is_made(stage, root)),
        "to_make": _count(missing),
        "plain_multirun_trainings": sum(plan.configs[cell.config].method.name != _BASE for cell in plan.cells),
        "costs": {"all": _row(total(costs.values())), "by_stage": {name: _row(cost) for name, cost in by_name.items()}},
        "not_planned": list(not_planned),
        "notes": list(asked.notes),
        "cell_list": [dataclasses.asdict(cell) for cell in plan.cells],
        "graph": [dataclasses.asdict(stage) | {"made": is_made(stage, root), "to_make": stage in missing} for stage in plan.stages],
    }


def _counted(stage: PlannedStage) -> str:
    return "train" if stage.name == "candidates" else stage.name


def _count(stages: Iterable[PlannedStage]) -> dict[str, int]:
    return dict(Counter(_counted(stage) for stage in stages))


def _row(cost: Cost) -> dict[str, Any]:
    rounded = {
        name: None if value is None else round(value, 2) for name, value in dataclasses.asdict(cost).items() if name != "bases"
    }
    return rounded | {"bases": list(cost.bases)}


def _print(told: dict[str, Any], graph: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    for line in told["not_planned"]:
        print(f"not planned: {line}")
    if not told["stages"]:
        return
    for line in told["notes"]:
        print(f"note: {line}")
    of = ", ".join(f"{name or 'grid'} {count}" for name, count in told["tables"].items())
    print(f"{told['cells']} cells ({of}), {told['distinct_cells']} distinct")
    print(f"{told['stages'].get('train', 0)} trainings; a plain multirun would train {told['plain_multirun_trainings']} times")
    table = Table(title="Distinct stages, and what those to be made are expected to cost")
    for head in ("stage", "distinct", "made", "to make", "GPU-hours", "dollars", "disk GB"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for name, count in told["stages"].items():
        cost = told["costs"]["by_stage"].get(name, _row(Cost()))
        table.add_row(name, str(count), str(told["made"].get(name, 0)), str(told["to_make"].get(name, 0)), *_figures(cost))
    table.add_section()
    counts = [str(sum(told[part].values())) for part in ("stages", "made", "to_make")]
    table.add_row("all", *counts, *_figures(told["costs"]["all"]))
    Console(width=None if Console().is_terminal else 120).print(table)
    for basis in told["costs"]["all"]["bases"]:
        print(f"basis: {basis}")
    for stage in told["graph"] if graph else ():
        mark = "made" if stage["made"] else "    " if not stage["to_make"] else "make"
        print(f"{mark} {stage['kind']:<10} {stage['name']:<12} {stage['key']}  {stage['label']}  <- {' '.join(stage['upstream'])}")


def _figures(cost: dict[str, Any]) -> list[str]:
    return ["unknown" if cost[name] is None else f"{cost[name]:,.1f}" for name in ("gpu_hours", "usd", "disk_gb")]
