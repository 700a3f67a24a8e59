"""Builds a report from the results of a store."""

from __future__ import annotations

from collections.abc import Sequence

from cft_lab.report.claims import Verdict
from cft_lab.report.tables import Report
from cft_lab.results import Results

PAPER_TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8", "figure1")
LAB_TABLES = ("lab/table2", "lab/table5", "lab/table6", "lab/table7", "lab/table8")
ALL = (*PAPER_TABLES, *LAB_TABLES)


def build(results: Results, names: Sequence[str] = ALL, version: str = "v1") -> Report:
    """The tables of these names. Raises ConfigError on a name that is no table or sweep file."""
    raise NotImplementedError


def judge_claims(results: Results, version: str = "v1") -> tuple[Verdict, ...]:
    """A verdict on every claim, the paper's first, then their lab twins."""
    raise NotImplementedError
