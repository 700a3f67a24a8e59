"""The published values of Critique Fine-Tuning, arXiv 2501.17703, as printed in its tables.

`published.csv` holds versions v1 (January 2025) and v4 (the latest revision), long form, accuracies in percent. Table numbers
are v1's; v4's self-critique table (its 11) is filed as table 8. AVG is printed by the paper, not computed here.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

SOURCE = "arXiv 2501.17703"
VERSIONS = ("v1", "v4")
#: benchmark of a config -> what the paper's tables call it
PRINTED_BENCHMARKS = {
    "math": "MATH",
    "math500": "MATH-500",
    "minerva-math": "Minerva-Math",
    "gsm8k": "GSM8K",
    "olympiadbench": "OlympiadBench",
    "aime24": "AIME24",
    "amc23": "AMC23",
    "gpqa-diamond": "GPQA",
    "theoremqa": "TheoremQA",
    "mmlu-pro": "MMLU-Pro",
    "AVG": "AVG",
}


@dataclass(frozen=True)
class PublishedValue:
    """One printed number: accuracy in percent. `data` and `condition` are empty where the table does not vary them."""

    version: str
    table: int
    model: str
    method: str
    data: str
    condition: str
    benchmark: str
    value: float


@functools.lru_cache(maxsize=1)
def _all_values() -> tuple[PublishedValue, ...]:
    with resources.files(__name__).joinpath("published.csv").open(encoding="utf-8") as file:
        return tuple(
            PublishedValue(
                row["version"],
                int(row["table"]),
                row["model"],
                row["method"],
                row["data"],
                row["condition"],
                row["benchmark"],
                float(row["value"]),
            )
            for row in csv.DictReader(file)
        )


def published_values(table: int, version: str = "v1") -> list[PublishedValue]:
    """All printed values of one table in one version of the paper, in print order.

    Raises ValueError for a version or table that is not on record.
    """
    if version not in VERSIONS:
        raise ValueError(f"version={version!r} is not on record: choose one of {', '.join(VERSIONS)}")
    values = [value for value in _all_values() if value.version == version and value.table == table]
    if not values:
        tables = sorted({value.table for value in _all_values() if value.version == version})
        raise ValueError(f"table={table!r} has no values in {version}: choose one of {', '.join(map(str, tables))}")
    return values
