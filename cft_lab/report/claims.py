"""The paper's claims and what a store says of them.

Claims are data (cft_lab/published/claims.yaml); their published effects are computed from published.csv. Verdicts follow from an
interval of the difference d that a claim is about:

                 replicated               contradicted
    greater      wholly above 0           paper: wholly below the smallest effect of interest; lab: wholly below 0
    close        wholly within +-margin   wholly beyond it on one side
    not better   wholly below the margin  wholly above the margin (in the lab the margin is 0)

`not separable yet` is all between, with the seeds or items that would settle it; `not run` is said where a cell is missing. So lab
claims are judged on direction only, except for `close`, which means nothing without its margin. `rule_of` says it of one claim.

Intervals hold for all claims of a family (the paper's, or the lab's) at once: each is at 1 - 0.05 / (their number), Bonferroni's
correction. The family is all claims of the file, whether they were run or not, so that a verdict does not change with other cells.
With one training run of each arm an interval is over items only, and a verdict says so (`qualified`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from cft_lab.evaluation.comparisons import POWER, holm
from cft_lab.report.deltas import published_difference
from cft_lab.report.lost import lost_places, unmeasured
from cft_lab.report.measure import NotComparable
from cft_lab.report.power import Needed, chance, needed
from cft_lab.report.seeds import Compared
from cft_lab.report.tables import AVG, ITEMS

if TYPE_CHECKING:
    from cft_lab.report.arms import Arm
    from cft_lab.report.study import Study, SweepArms

ERROR_RATE = 0.05  # the chance of any false verdict in a family of claims

KINDS = ("greater", "close", "not_better")
_SEEN, _SMALLEST, _TO_BOUND = (
    "the difference seen",
    "the smallest effect of interest",
    "the distance of the difference seen to a bound",
)
_ONE_RUN = "One training run of each arm: what another training would change is not in this interval."
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
    smallest d that would matter. Both are fractions. `scale` is paper or lab; `direction_only` is what the lab's are judged on, but
    for `close`: there the smallest effect only says what power is asked for at least, and `not_better` has no margin.
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

    @property
    def direction_only(self) -> bool:
        """Whether only the sign of d is judged."""
        return self.scale == "lab" and self.kind != "close"

    @property
    def contradicted_below(self) -> float:
        """For `greater`: an interval wholly below this contradicts it."""
        return 0.0 if self.direction_only else self.smallest_effect


@dataclass(frozen=True)
class Verdict:
    """What a store says of a claim: replicated, contradicted, not separable yet, or not run; fractions, None if not run.

    `low` and `high` are limits of the interval at `confidence`, corrected for the number of claims in the family; `covers` says
    what it is over; `one_run`: trained arms have one run each, and it leaves out what another training would change. `published`
    is the effect by the paper's printed values in the version asked for. `p_holm` is Holm's p-value of d at the claim's bound, None
    for `close`. `seeds_needed` (in each trained arm) and `items_needed` (of the benchmarks together) would each, alone, find
    `sought` with 80 % power; None if that alone cannot. `both_needed`, seeds on items, do so together; None if one alone can.
    `reason` says what was found and what is lacking; `command` makes what is missing. `first` and `rivals` are ids of arms.
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
    one_run: bool = False
    published: float | None = None
    p_holm: float | None = None
    seeds_needed: int | None = None
    items_needed: int | None = None
    both_needed: tuple[int, int] | None = None
    sought: str = ""
    reason: str = ""
    command: str | None = None
    first: tuple[str, ...] = ()
    rivals: tuple[tuple[str, ...], ...] = ()

    @property
    def qualified(self) -> str:
        """The verdict as it should be shown: with one training run of each arm it says so."""
        return f"{self.word}, on one training run" if self.one_run else self.word

    @property
    def settled_by(self) -> str:
        """The seeds or items that would settle it; empty if it is settled, or if the power calculation tells no number."""
        ways = [f"{self.seeds_needed:,} seeds of each trained arm"] if self.seeds_needed is not None else []
        ways += [f"{self.items_needed:,} items of this kind"] if self.items_needed is not None else []
        if self.both_needed is not None:
            ways.append(f"{self.both_needed[0]:,} seeds of each trained arm on {self.both_needed[1]:,} items of this kind")
        if self.one_run and self.word == NOT_SEPARABLE:
            ways = [
                "at least 2 seeds of each trained arm, to know how much they matter",
                *(f"then, if little, {way}" for way in ways),
            ]
            return ", and ".join(ways)
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
    arms = list({arm.id: arm for arm in (*first, *(arm for group in rivals for arm in group))}.values())
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
        return dataclasses.replace(blank, reason=_why_not(study, reason, arms, names))
    word = decide(claim, compared.low, compared.high)
    sought = effect_to_find(claim, compared, confidence)
    wanted = needed(compared, sought.effect, confidence, sought.power) if word == NOT_SEPARABLE else Needed()
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
        one_run=compared.blind_to_seeds,
        p_holm=None if claim.kind == "close" else compared.p_value(claim.margin),
        seeds_needed=wanted.seeds,
        items_needed=wanted.items,
        both_needed=wanted.both,
        sought=sought.told if word == NOT_SEPARABLE else "",
        command=None,
    )
    lost = [f"{told}: {claim.sweep} says what makes it." for arm in arms for told, _ in lost_places(study, arm, names)]
    return dataclasses.replace(found, reason=" ".join([_reason(found, compared), *lost]))


def _why_not(study: Study, reason: NotComparable, arms: Sequence[Arm], benchmarks: Sequence[str]) -> str:
    """The reason, with what is known of arms that failed, are refused, or were run and cannot be read."""
    told = [f"{arm.label}: {arm.state}: the table says why" for arm in arms if arm.reason]
    unread = [arm for arm in arms if arm.runs and any(study.measures.value(arm, name) is None for name in benchmarks)]
    told += [f"{arm.label}: {unmeasured(study, arm, benchmarks)}" for arm in unread]
    return f"{reason} ({'; '.join(dict.fromkeys(told))})" if told else str(reason)


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
    return CONTRADICTED if high < claim.contradicted_below else NOT_SEPARABLE


def rule_of(claim: Claim) -> str:
    """One sentence: the rule of `decide` for this claim."""
    margin = f"{100 * claim.margin:.1f} points"
    if claim.kind == "close":
        return (
            f"Replicated if the interval lies wholly within plus or minus {margin}, the margin of this claim; "
            "contradicted if it lies wholly beyond on one side."
        )
    bound = margin if claim.margin else "0"
    if claim.kind == "not_better":
        return f"Replicated if the interval lies wholly below {bound}; contradicted if it lies wholly above."
    if claim.contradicted_below == claim.margin:
        return f"Replicated if the interval lies wholly above {bound}; contradicted if it lies wholly below."
    return (
        f"Replicated if the interval lies wholly above {bound}; contradicted if it lies wholly below "
        f"{100 * claim.contradicted_below:.1f} points, the smallest effect of interest."
    )


@dataclass(frozen=True)
class Sought:
    """A difference that has to be found for a verdict, what it is, and the power on one side that is asked for."""

    effect: float
    name: str
    power: float = POWER

    @property
    def told(self) -> str:
        """In words, in points."""
        return f"{100 * self.effect:.1f} points, {self.name}"


def effect_to_find(claim: Claim, compared: Compared, confidence: float) -> Sought:
    """The claim's margin, or its smallest effect of interest; judged on direction only, the difference seen if that is larger.

    `close` has to be told from either side of its margin, so that each may be missed half as often. Where the items and seeds that
    there are would find this four times in five and the interval still holds both answers, the truth is near a bound: then it is
    the distance of the observed difference to the bound that it could pass first.
    """
    if claim.direction_only:
        seen = abs(compared.estimate)
        found = Sought(seen, _SEEN) if seen >= claim.smallest_effect else Sought(claim.smallest_effect, _SMALLEST)
    elif claim.kind == "close":
        found = Sought(claim.margin, "the margin", (1 + POWER) / 2)
    else:
        found = Sought(claim.margin, "the margin") if claim.margin else Sought(claim.smallest_effect, _SMALLEST)
    if chance(compared, found.effect, confidence) < found.power:
        return found
    if claim.direction_only:
        return Sought(abs(compared.estimate), _SEEN)
    if claim.kind == "close":
        return Sought(abs(abs(compared.estimate) - claim.margin), _TO_BOUND)
    if claim.kind == "not_better":
        return Sought(abs(compared.estimate - claim.margin), _TO_BOUND)
    return Sought(max(compared.estimate - claim.margin, claim.contradicted_below - compared.estimate), _TO_BOUND)


def _with_holm(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """The verdicts with p-values adjusted over those of their family that were run and have one."""
    for scale in ("paper", "lab"):
        family = [verdict for verdict in verdicts if verdict.claim.scale == scale]
        adjusted = holm({verdict.claim.id: verdict.p_holm for verdict in family if verdict.p_holm is not None})
        for verdict in family:
            yield dataclasses.replace(verdict, p_holm=adjusted.get(verdict.claim.id))


def _reason(verdict: Verdict, compared: Compared) -> str:
    """One sentence that follows from the numbers, and a second where there is one training run of each arm."""
    low, high = 100 * compared.low, 100 * compared.high
    told = (
        f"{100 * compared.estimate:+.1f} points [{low:+.1f}, {high:+.1f}] at {100 * (verdict.confidence or 0):.2f} % over "
        f"{compared.covers}, {compared.n_items:,} items"
    )
    if compared.seeds:
        told += f", {compared.seeds} seed{'s' if compared.seeds > 1 else ''} of each trained arm"
    if compared.spread is not None and compared.spread.borrowed:
        told += f"; how much seeds matter is taken from other arms of the table ({compared.spread.degrees} degrees of freedom)"
    if verdict.word == NOT_SEPARABLE and verdict.settled_by:
        told += f"; it would take {verdict.settled_by} to separate {verdict.sought}, four times in five"
    elif verdict.word == NOT_SEPARABLE:
        told += "; it lies on the very bound, and no number of seeds or items follows from that"
    return f"{told}.{f' {_ONE_RUN}' if verdict.one_run else ''}"
