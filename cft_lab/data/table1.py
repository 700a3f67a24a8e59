"""Table 1 of the paper (arXiv 2501.17703, v1): the training sets compared, as published and as counted here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cft_lab.config import DataConfig, DataError
from cft_lab.data.hub import HubRows
from cft_lab.data.sources import missing_source, open_source


@dataclass(frozen=True)
class Table1Row:
    """One data set. Size, seed and discipline are printed in the paper; `data` is its choice of the config group data.

    `counted` is how many rows it has by our own count, None where it was never read whole; `counted_in` says what was read.
    """

    name: str
    size: str
    seed: str
    discipline: str
    data: str
    counted: int | None = None
    counted_in: str | None = None


PUBLISHED = (
    Table1Row("WizardMath", "96K", "GSM8K, MATH", "Math", "wizardmath"),
    Table1Row("MathInstruct", "260K", "GSM8K, MATH, etc", "Math", "mathinstruct"),
    Table1Row("MetaMathQA", "395K", "GSM8K, MATH", "Math", "metamath"),
    Table1Row("XwinMath", "1.4M", "GSM8K, MATH", "Math", "xwinmath"),
    Table1Row("OrcaMath", "200K", "GSM8K", "Math", "orcamath"),
    Table1Row("NuminaMath", "860K", "GSM8K, MATH, AIME", "Math", "numina"),
    Table1Row("AceMath", "1.6M", "GSM8K, MATH, AIME", "Math", "acemath"),
    Table1Row("OpenMath-2", "14M", "GSM8K, MATH", "Math", "openmath2"),
    Table1Row("CFT", "50K", "WebInstruct", "STEM", "webinstruct-cft-50k"),
    Table1Row("CFT-tiny", "4K", "WebInstruct", "STEM", "webinstruct-cft-4k"),
)


def table1(manifests: Iterable[Mapping[str, Any]]) -> list[Table1Row]:
    """The rows of Table 1 in print order, counted by the finished `problems` stages among `manifests`, the last one of a name.

    A stage counts only if it read a data set of the hub, or a folder in its layout (own files may have any name), and read all of
    it (data.scan_rows did not stop it).
    """
    counted: dict[str, Mapping[str, Any]] = {}
    for manifest in manifests:
        if manifest["stage"] != "problems" or _values(manifest.get("config") or {}).get("source") != "hub":
            continue
        if manifest["counts"].get("whole_source"):
            counted[manifest["label"]] = manifest
    return [
        replace(row, counted=counted[row.data]["counts"]["rows"], counted_in=_read_from(counted[row.data]["config"]))
        if row.data in counted
        else row
        for row in PUBLISHED
    ]


def count_rows(data: DataConfig) -> int:
    """How many rows the source has, usable or not, by reading it to the end; a hub data set that is not here is fetched.

    It is what a manifest calls `rows`: lines that cannot be read count, blank ones do not.

    Raises DataError if it is the lab world, which has no end, or cannot be read.
    """
    if data.source == "lab":
        raise DataError(f"data={data.name} is the lab world, which has no size: count a hub or local source")
    if problems := list(missing_source(data)):
        raise DataError("; ".join(problems))
    rows, _ = open_source(data)
    if isinstance(rows, HubRows):
        return rows.count()
    return sum(1 for _ in rows)


def _read_from(config: Mapping[str, Any]) -> str:
    """Which data set, configuration and split a stage's config names."""
    values = _values(config)
    return " ".join(str(values[name]) for name in ("hub_id", "subset", "split") if values.get(name))


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's config by field, whichever group (data, mix_data) it stands in."""
    return {name.rpartition(".")[2]: value for name, value in config.items()}
