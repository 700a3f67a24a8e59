"""From a command line to a sweep that runs: expanded, composed, checked, planned, frozen, and handed to an executor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cft_lab import pipeline
from cft_lab.config import Config, ConfigError
from cft_lab.hydra_config import Composer
from cft_lab.store import Store
from cft_lab.sweeps import local, run_folder, slurm
from cft_lab.sweeps.expand import Problems, Request, compose_all, expand
from cft_lab.sweeps.plan import Plan, is_made, make_plan, result_stages, to_make
from cft_lab.sweeps.run_folder import RunFolder

Say = Callable[[str], None]


def request(arguments: Sequence[str], hydra_overrides: Sequence[str]) -> tuple[Request, Plan]:
    """What a command line asks for, and its plan. Raises ConfigError with all that is wrong with any cell."""
    asked = expand(arguments)
    plan, problems = make_plan(compose_all(asked.cells, Composer(hydra_overrides)))
    problems.refuse(len(asked.cells))
    return asked, plan


def start(asked: Request, plan: Plan, say: Say) -> RunFolder:
    """Checks this machine, freezes the plan and runs it. Raises ConfigError, before anything is made, with all that is lacking."""
    cluster = plan.configs[0].cluster
    _check_machine(plan)
    if cluster.kind == "slurm":
        slurm.check_machine(plan.configs[0])
    elif cluster.workers > 1:
        local.deal_gpus(plan.configs[0])
    store = Store(pipeline.output_root(plan.configs[0]), say)
    for config in plan.configs:
        pipeline.reopen_failed(config, store, pipeline.plan(config).result)
    for note in asked.notes:
        say(f"   note {note}")
    folder = run_folder.freeze(plan, asked.name, sys.argv)
    missing = len(to_make(plan, folder.store_root))
    counts = (
        f"{len(plan.cells)} cells, {len(plan.configs)} of them distinct; {len(plan.stages)} distinct stages, {missing} to be made"
    )
    say(f"  sweep {counts}; frozen in {folder.path}")
    (slurm.run if cluster.kind == "slurm" else local.run)(folder, say)
    return folder


def _check_machine(plan: Plan) -> None:
    """Refuses the sweep if this machine lacks anything for a cell that is yet to be made."""
    problems = Problems()
    results = result_stages(plan)
    for index, config in enumerate(plan.configs):
        if config.tracking.kind == "none" and not _retries(config) and is_made(results[index], pipeline.output_root(config)):
            continue
        try:
            pipeline.check(config, computes=config.cluster.kind == "local")
        except ConfigError as error:
            for cell in plan.cells:
                if cell.config == index:
                    problems.add(cell, *error.problems)
    problems.refuse(len(plan.cells))


def _retries(config: Config) -> bool:
    return config.teacher.retry_failed or config.responses.retry_failed
