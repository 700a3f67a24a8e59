"""The paper's claims and what a store says of them.

Claims are data (cft_lab/published/claims.yaml); their published effects are computed from published.csv.
"""

from __future__ import annotations

from dataclasses import dataclass

from cft_lab.report.tables import ITEMS

KINDS = ("greater", "close", "not_better")
REPLICATED, CONTRADICTED, NOT_SEPARABLE, NOT_RUN = "replicated", "contradicted", "not separable yet", "not run"


@dataclass(frozen=True)
class Place:
    """A place of a table: the labels of a cell of its sweep file."""

    row: str
    column: str = ""


@dataclass(frozen=True)
class Claim:
    """What is claimed of one number: d = the mean of the cells of `first`, minus that of the best of `rivals`, on `benchmark`.

    greater: d is above 0. close: d lies within plus or minus `margin`. not_better: d is below `margin`. `smallest_effect` is the
    smallest d that would matter, for `greater`. Both are fractions. `scale` is paper or lab; of the lab world only the direction
    is judged: margins of `greater` and `not_better` and the smallest effect are 0 there.
    """

    id: str
    statement: str
    scale: str
    sweep: str
    kind: str
    benchmark: str
    first: tuple[Place, ...]
    rivals: tuple[tuple[Place, ...], ...]
    smallest_effect: float = 0.0
    margin: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What a store says of a claim: replicated, contradicted, not separable yet, or not run; fractions, None if not run.

    `low` and `high` are limits of the interval at `confidence`, corrected for the number of claims in the family; `covers` says
    what it is over. `published` is the effect by the paper's printed values in the version asked for. `seeds_needed` (in each
    trained arm) and `items_needed` (of the benchmarks together) would each, alone, separate the smallest effect of interest with
    80 % power; None if that alone cannot. `reason` is one sentence; `command` makes what is missing. `first` and `rivals` are ids
    of arms.
    """

    claim: Claim
    word: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    covers: str = ITEMS
    n_items: int = 0
    seeds: int = 0
    published: float | None = None
    p_holm: float | None = None
    seeds_needed: int | None = None
    items_needed: int | None = None
    reason: str = ""
    command: str | None = None
    first: tuple[str, ...] = ()
    rivals: tuple[tuple[str, ...], ...] = ()
