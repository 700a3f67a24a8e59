"""`python -m cft_lab wandb-dashboard TABLE...`: a W&B report with the tables of a store and the curves of its runs.

Exit codes: 0 made, or shown; 1 W&B refused it or cannot be reached; 2 bad input, no key, or W&B's library is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from cft_lab.config import ConfigError
from cft_lab.hydra_config import explain
from cft_lab.published import VERSIONS
from cft_lab.report.build import ALL, GROUPS, build_with_claims
from cft_lab.report.study import Study
from cft_lab.results import open_store

HELP = "makes a W&B report as code: tables of the store, curves and scores of its runs"
_KEY = "WANDB_API_KEY"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument(
        "tables", nargs="+", metavar="TABLE", help=f"{', '.join((*GROUPS, *ALL))}, claims, or a sweep file of your own"
    )
    command.add_argument("--project", default="cft-lab", help="W&B project of the runs (default: cft-lab, as tracking.project)")
    command.add_argument("--entity", default="", help="W&B user or team (default: the key's own)")
    command.add_argument("--version", choices=VERSIONS, default="v1", help="version of the paper (default: v1)")
    command.add_argument("--dry-run", action="store_true", help="only says what it would make: no network")
    command.add_argument("--json", action="store_true", help="only prints what it would send: no network")


def run(options: argparse.Namespace) -> int:
    """Makes the W&B report, or shows it."""
    from cft_lab.report.page_parts import cost_parts
    from cft_lab.report.wandb_dashboard import build_dashboard, panel_metrics, spec

    online = not (options.dry_run or options.json)
    if online and not os.environ.get(_KEY):
        print(f"{_KEY} is not set: set it, or look at the report with --dry-run or --json", file=sys.stderr)
        return 2
    try:
        study = Study(open_store(options.store), options.version)
        report, verdicts = build_with_claims(study, options.tables)
        dashboard = build_dashboard(report, options.project, options.entity, verdicts, cost_parts(report, study.results))
    except Exception as error:
        told = error.problems if isinstance(error, ConfigError) else (explain(error),)
        if told == (None,):
            raise
        print("Not made, for this reason:", *(f"  - {line}" for line in told), sep="\n", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(spec(dashboard), indent=1))
    elif options.dry_run:
        shown = [*(["claims"] if verdicts else []), *(table.title for table in report.tables)]
        print(f"{dashboard.title}, in project {options.project}: {', '.join(shown)}")
        print("panels of:", *(f"  {name}" for name in sorted(panel_metrics(spec(dashboard)["spec"]))), sep="\n")
    return _save(dashboard) if online else 0


def _save(dashboard: Any) -> int:
    """Sends the report with the key of the environment, which is never printed."""
    import wandb

    try:
        dashboard.entity = dashboard.entity or wandb.Api().default_entity
        dashboard.save()
    except Exception as error:  # W&B's client has many
        print(f"W&B did not take the report: {str(error).replace(os.environ[_KEY], '***')}", file=sys.stderr)
        return 1
    print(dashboard.url)
    return 0
