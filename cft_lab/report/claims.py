"""The paper's claims and what a store says of them.

Claims are data (cft_lab/published/claims.yaml); their published effects are computed from published.csv. The rule of verdicts:

    replicated         the interval lies wholly in the claim's direction, beyond its margin
    contradicted       the interval excludes the smallest effect of interest in that direction
    not separable yet  neither; how many seeds or items would settle it is told
    not run            a cell is missing

Intervals hold for all claims of a family (the paper's, or the lab's) at once: each is at 1 - 0.05 / (their number), Bonferroni's
correction. The family is all claims of the file, whether they were run or not, so that a verdict does not change with other cells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from cft_lab.evaluation.comparisons import detectable_difference, holm, times_needed
from cft_lab.report.deltas import published_difference
from cft_lab.report.measure import Compared, NotComparable
from cft_lab.report.tables import AVG, ITEMS, ITEMS_AND_SEEDS

if TYPE_CHECKING:
    from cft_lab.report.arms import Arm
    from cft_lab.report.study import Study, SweepArms

ERROR_RATE = 0.05  # the chance of any false verdict in a family of claims

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
    smallest d that would matter. Both are fractions. `scale` is paper or lab; of the lab world only the direction is judged: there
    `greater` is contradicted by d below 0, not below the smallest effect, which only says what power is asked for, and
    `not_better` has no margin.
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
    80 % power; None if that alone cannot. `both_needed`, seeds on items, do so together; None if one alone can. `reason` is one
    sentence; `command` makes what is missing. `first` and `rivals` are ids of arms.
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
    both_needed: tuple[int, int] | None = None
    reason: str = ""
    command: str | None = None
    first: tuple[str, ...] = ()
    rivals: tuple[tuple[str, ...], ...] = ()

    @property
    def settled_by(self) -> str:
        """The seeds or items that would settle it; empty if it is settled, or if the power calculation tells no number."""
        ways = [f"{self.seeds_needed:,} seeds of each trained arm"] if self.seeds_needed is not None else []
        ways += [f"{self.items_needed:,} items of this kind"] if self.items_needed is not None else []
        if self.both_needed is not None:
            ways.append(f"{self.both_needed[0]:,} seeds of each trained arm on {self.both_needed[1]:,} items of this kind")
        return " or ".join(ways)


def read_claims() -> tuple[Claim, ...]:
    """The claims of claims.yaml, the paper's first, then their lab twins. Raises ValueError on a strange file."""
    import yaml

    written = yaml.safe_load(resources.files("cft_lab.published").joinpath("claims.yaml").read_text(encoding="utf-8"))
    smallest = float(written["smallest_effect"])
    paper = [_claim(one, one, "paper", smallest) for one in written["claims"]]
    lab = [_claim(one, one["lab"], "lab", smallest) for one in written["claims"] if "lab" in one]
    return (*paper, *lab)


def _claim(shared: Mapping[str, Any], own: Mapping[str, Any], scale: str, smallest: float) -> Claim:
    """A claim from its line, or from the part of it about the lab; points become fractions."""
    kind = shared["kind"]
    if kind not in KINDS:
        raise ValueError(f"claim {shared['id']}: kind={kind!r} is none of {', '.join(KINDS)}")
    return Claim(
        id=shared["id"] if scale == "paper" else f"lab-{shared['id']}",
        statement=own["statement"],
        scale=scale,
        sweep=own["sweep"],
        kind=kind,
        benchmark=own.get("benchmark", AVG),
        first=_places(own["first"]),
        rivals=tuple(_places(rival) for rival in own["rivals"]),
        smallest_effect=float(shared.get("smallest_effect", smallest)) / 100,
        margin=0.0 if scale == "lab" and kind != "close" else float(shared.get("margin", 0.0)) / 100,
    )


def _places(told: Mapping[str, Any]) -> tuple[Place, ...]:
    columns = told.get("column", "")
    return tuple(Place(told["row"], column) for column in (columns if isinstance(columns, list) else [columns]))


def judge(study: Study, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
    """A verdict on each claim. Raises ConfigError if a claim names a cell that its sweep file has not."""
    swept = {one.sweep.name: one for one in study.sweeps(list(dict.fromkeys(claim.sweep for claim in claims)))}
    families = {scale: sum(claim.scale == scale for claim in claims) for scale in ("paper", "lab")}
    found = [_judge(study, swept[claim.sweep], claim, 1 - ERROR_RATE / families[claim.scale]) for claim in claims]
    return tuple(_with_holm(found))


def _judge(study: Study, swept: SweepArms, claim: Claim, confidence: float) -> Verdict:
    first = [swept.at(place.row, place.column) for place in claim.first]
    rivals = [[swept.at(place.row, place.column) for place in group] for group in claim.rivals]
    names = swept.benchmarks if claim.benchmark == AVG else (claim.benchmark,)
    blank = Verdict(
        claim,
        NOT_RUN,
        published=published_difference(study, swept, first, rivals, claim.benchmark),
        command=study.commands.sweep(claim.sweep, claim.scale),
        first=tuple(arm.id for arm in first),
        rivals=tuple(tuple(arm.id for arm in group) for group in rivals),
    )
    try:
        compared = study.measures.compare(first, rivals, names, swept.arms, confidence)
    except NotComparable as reason:
        return dataclasses.replace(blank, reason=_why_not(reason, [*first, *(arm for group in rivals for arm in group)]))
    word = decide(claim, compared.low, compared.high)
    seeds, items, both = needed(claim, compared, confidence) if word == NOT_SEPARABLE else (None, None, None)
    found = dataclasses.replace(
        blank,
        word=word,
        estimate=compared.estimate,
        low=compared.low,
        high=compared.high,
        confidence=confidence,
        covers=compared.covers,
        n_items=compared.n_items,
        seeds=compared.seeds,
        p_holm=compared.p_value(),
        seeds_needed=seeds,
        items_needed=items,
        both_needed=both,
        command=None,
    )
    return dataclasses.replace(found, reason=_reason(found, compared, confidence))


def _why_not(reason: NotComparable, arms: Sequence[Arm]) -> str:
    told = dict.fromkeys(f"{arm.label}: {arm.state}" for arm in arms if arm.reason)
    return f"{reason} ({'; '.join(told)}: the table says why)" if told else str(reason)


def decide(claim: Claim, low: float, high: float) -> str:
    """The verdict that an interval gives."""
    if claim.kind == "close":
        if -claim.margin < low and high < claim.margin:
            return REPLICATED
        return CONTRADICTED if low > claim.margin or high < -claim.margin else NOT_SEPARABLE
    if claim.kind == "not_better":
        return REPLICATED if high < claim.margin else CONTRADICTED if low > claim.margin else NOT_SEPARABLE
    if low > claim.margin:
        return REPLICATED
    return CONTRADICTED if high < (claim.smallest_effect if claim.scale == "paper" else 0.0) else NOT_SEPARABLE


def needed(claim: Claim, compared: Compared, confidence: float) -> tuple[int | None, int | None, tuple[int, int] | None]:
    """Seeds of each trained arm, and items, that would each alone find `effect_to_find` with 80 % power: None where more of that
    alone would never do. Where neither would, the seeds and items that do so together, as many times more of either.
    """
    effect = effect_to_find(claim, compared, confidence)
    if effect <= 0:
        return None, None, None
    seeds = times_needed(compared.seed_se, compared.item_se, effect, confidence=confidence)
    items = times_needed(compared.item_se, compared.seed_se, effect, confidence=confidence)
    known = compared.covers == ITEMS_AND_SEEDS and compared.seed_se > 0
    enough_seeds = max(compared.seeds + 1, math.ceil(seeds * compared.seeds)) if known and seeds is not None else None
    enough_items = max(compared.n_items + 1, math.ceil(items * compared.n_items)) if items is not None else None
    times = times_needed(compared.standard_error, 0.0, effect, confidence=confidence)
    if times is None or enough_seeds is not None or enough_items is not None:
        return enough_seeds, enough_items, None
    return None, None, (math.ceil(times * compared.seeds), math.ceil(times * compared.n_items))


def effect_to_find(claim: Claim, compared: Compared, confidence: float) -> float:
    """The difference that has to be found for a verdict: the claim's margin, or its smallest effect of interest.

    Where the items and seeds that there are would find this four times in five and the interval still holds both answers, the truth
    is near a bound: then it is the distance of the observed difference to the bound that it could pass first.
    """
    effect = claim.margin or claim.smallest_effect
    if detectable_difference(compared.standard_error, confidence=confidence) > effect:
        return effect
    if claim.kind == "close":
        return abs(abs(compared.estimate) - claim.margin)
    if claim.kind == "not_better":
        return abs(compared.estimate - claim.margin)
    contradicted = claim.smallest_effect if claim.scale == "paper" else 0.0
    return max(compared.estimate - claim.margin, contradicted - compared.estimate)


def _with_holm(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """The verdicts with p-values (of a difference of 0) adjusted over those of their family that were run."""
    for scale in ("paper", "lab"):
        family = [verdict for verdict in verdicts if verdict.claim.scale == scale]
        adjusted = holm({verdict.claim.id: verdict.p_holm for verdict in family if verdict.p_holm is not None})
        for verdict in family:
            yield dataclasses.replace(verdict, p_holm=adjusted.get(verdict.claim.id))


def _reason(verdict: Verdict, compared: Compared, confidence: float) -> str:
    """One sentence that follows from the numbers."""
    low, high = 100 * compared.low, 100 * compared.high
    told = (
        f"{100 * compared.estimate:+.1f} points [{low:+.1f}, {high:+.1f}] at {100 * confidence:.2f} % over {compared.covers}, "
        f"{compared.n_items:,} items"
    )
    if verdict.word != NOT_SEPARABLE:
        return f"{told}."
    if not verdict.settled_by:
        return f"{told}; it lies on the very bound, and no number of seeds or items follows from that."
    effect = 100 * effect_to_find(verdict.claim, compared, confidence)
    return f"{told}; it would take {verdict.settled_by} to separate {effect:.1f} points four times in five."
