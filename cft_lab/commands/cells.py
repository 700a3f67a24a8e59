"""`python -m cft_lab cells`: the finished cells of a store, one line each, with their accuracies.

Exit codes: 0 listed, also if there are none; 1 some records cannot be read, which is said, and the rest is listed.
"""

from __future__ import annotations

import argparse
import sys

from cft_lab.commands.listing import printable
from cft_lab.final_table import print_grid
from cft_lab.report.commands import Commands
from cft_lab.report.render import percent
from cft_lab.results import open_store

HELP = "lists the finished cells: what they differ in, seed, accuracies, when"
_KEPT = ("label", "seed", "accuracy", "created")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("--csv", action="store_true", help="every column of cft_lab.results' cells(), and accuracies, as CSV")


def run(options: argparse.Namespace) -> int:
    """Prints the cells."""
    results = open_store(options.store)
    cells, scores = results.cells(), results.scores()
    wide = scores.pivot(index="result", columns="benchmark", values="accuracy")
    wide = wide[list(dict.fromkeys(scores["benchmark"]))]  # in the order of the cells, not of the alphabet
    if options.csv:
        print(cells.join(wide).to_csv(lineterminator="\n"), end="")
    elif cells.empty:
        print(f"{options.store} has no finished cell: make one with `{Commands(options.store).default()}`")
    else:
        table = cells[list(_KEPT)].join(wide).sort_values(["label", "seed"], kind="stable")
        head = ["cell", "seed", *wide.columns, "AVG", "created", "result"]
        rows = [
            [
                printable(str(row["label"])),
                str(row["seed"]),
                *(percent(None if row[name] != row[name] else row[name]) for name in (*wide.columns, "accuracy")),
                str(row["created"]),
                str(key),
            ]
            for key, row in table.iterrows()
        ]
        print_grid([head, *rows], f"{len(rows)} finished cells, accuracy in %")
    for problem in results.problems:
        print(f"cannot be used: {problem}", file=sys.stderr)
    return 1 if results.problems else 0
