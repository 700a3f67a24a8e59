"""`python -m cft_lab table1`: the training sets of the paper's Table 1, as published and as counted here."""

from __future__ import annotations

import argparse

from cft_lab.config import ConfigError, DataError
from cft_lab.data.table1 import PUBLISHED, count_rows, table1
from cft_lab.hydra_config import compose
from cft_lab.store import Store


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument(
        "--count",
        metavar="DATA",
        choices=[row.data for row in PUBLISHED],
        help="counts one data set of conf/data now, by reading it to the end (from the hub, its cache, or --folder)",
    )
    command.add_argument("--folder", help="a local folder in the layout of the data set that --count names")


def run(options: argparse.Namespace) -> int:
    """Prints the table, or one count."""
    from rich.console import Console
    from rich.table import Table

    if options.count:
        folder = [f"data.hub_id={options.folder}"] if options.folder else []
        try:
            print(f"{options.count}: {count_rows(compose(f'data={options.count}', *folder).data):,} rows")
        except (ConfigError, DataError) as error:
            print(f"Not counted: {error}")
            return 1
        return 0
    table = Table(title="Table 1: training sets, as published (v1) and as counted here")
    for name in ("data set", "size", "source or seed", "discipline", "rows counted here", "in"):
        table.add_column(name, justify="right" if "rows" in name else "left")
    for row in table1(manifest for _, manifest in Store(options.store).finished()):
        counted = f"{row.counted:,}" if row.counted is not None else "-"
        table.add_row(f"{row.name} (data={row.data})", row.size, row.seed, row.discipline, counted, row.counted_in or "")
    Console(width=None if Console().is_terminal else 160).print(table)
    print("- : no problems stage of this store has read the set to its end; `--count DATA` does.")
    return 0
