"""`python -m cft_lab report TABLE...`: the paper's tables with the values of a store, and which of the paper's claims stand in it.

Exit codes: 0 reported, also where cells are missing or records cannot be used, which is said; 2 bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cft_lab.config import ConfigError
from cft_lab.hydra_config import explain
from cft_lab.published import VERSIONS
from cft_lab.report.build import ALL, CLAIMS, GROUPS, build_with_claims
from cft_lab.report.claims import Verdict
from cft_lab.report.csv_tables import notes_csv
from cft_lab.report.render import FORMATS, notes_of, render
from cft_lab.report.study import Study
from cft_lab.report.tables import Report
from cft_lab.results import open_store

HELP = "the paper's tables with this store's values beside the published ones, and which claims stand"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument(
        "asked",
        nargs="+",
        metavar="TABLE|OVERRIDE",
        help=f"{', '.join((*GROUPS, *ALL))}, claims, or a sweep file of your own; field=value is added to every cell",
    )
    command.add_argument("--format", default="md", help=f"{','.join(FORMATS)}, one or several (default: md)")
    command.add_argument("--version", choices=VERSIONS, default="v1", help="version of the paper (default: v1)")
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE.html",
        help="folder for a file of each table; html is one page, in it or in a FILE.html (default: prints)",
    )
    command.add_argument("--rates", action="store_true", help="also truncation and no-answer rates, and the paper's grader")


def run(options: argparse.Namespace) -> int:
    """Prints the report, or writes it into files."""
    formats = options.format.split(",")
    if strange := [name for name in formats if name not in FORMATS]:
        print(f"--format {','.join(strange)} is not known: choose from {', '.join(FORMATS)}", file=sys.stderr)
        return 2
    if options.out is not None and options.out.suffix == ".html" and formats != ["html"]:
        print(f"--out {options.out} is one page: use --format html, or name a folder", file=sys.stderr)
        return 2
    if options.out is not None and (why_not := _unwritable(options.out)):
        print(f"--out {options.out}: {why_not}", file=sys.stderr)
        return 2
    overrides = [word for word in options.asked if "=" in word]
    words = [word for word in options.asked if "=" not in word]
    study = Study(open_store(options.store), options.version, overrides)
    try:
        report, verdicts = build_with_claims(study, words)
    except Exception as error:
        told = error.problems if isinstance(error, ConfigError) else (explain(error),)
        if told == (None,):
            raise
        print("Not reported, for this reason:", *(f"  - {line}" for line in told), sep="\n", file=sys.stderr)
        return 2
    for format in formats:
        if options.out is None:
            print(render(report, format, verdicts, rates=options.rates), end="")
            for table, note in notes_of(report, verdicts) if format == "csv" else ():
                print(": ".join(filter(None, (table, note))), file=sys.stderr)
        elif format == "html":
            from cft_lab.report.page import write_page  # plots are drawn for pages only

            print(write_page(report, verdicts, study.results, options.out))
        else:
            _write(options.out, report, verdicts, format, options.rates)
    return 0


def _unwritable(out: Path) -> str | None:
    """Why nothing can be written there, found out by making the folder; None if it can."""
    folder = out.parent if out.suffix == ".html" else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{folder} is no folder and cannot be made ({error.strerror}): name another"
    if out.suffix == ".html" and out.is_dir():
        return "it is a folder: name a file in it"
    return None if os.access(folder, os.W_OK) else f"{folder} cannot be written to: name another folder"


def _write(folder: Path, report: Report, verdicts: Sequence[Verdict], format: str, rates: bool) -> None:
    """A file for each table and one for the claims, each with what is to be said about the store; for csv that is a file too."""
    texts = {table.name: render(dataclasses.replace(report, tables=(table,)), format, rates=rates) for table in report.tables}
    if verdicts:
        texts[CLAIMS] = render(dataclasses.replace(report, tables=()), format, verdicts)
    if format == "csv":
        texts["notes"] = notes_csv(notes_of(report, verdicts))
    for name, text in texts.items():
        file = folder / f"{name.replace('/', '-')}.{format}"
        file.write_text(text, encoding="utf-8", errors="replace")
        print(file)
