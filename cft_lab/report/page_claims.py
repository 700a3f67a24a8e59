"""The claims as the page shows them: for each scale what was found, and for each claim a short name and the side it is on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cft_lab.report.claims import CONTRADICTED, NOT_RUN, NOT_SEPARABLE, REPLICATED, Claim, Place, Verdict, rule_of
from cft_lab.report.strips import Strip, StripPlot, effect_plot

TITLES = {"paper": "The paper's claims", "lab": "Claims about the lab world"}
WORDS = (REPLICATED, CONTRADICTED, NOT_SEPARABLE, NOT_RUN)
#: verdict -> colour and marker
MARKS = {REPLICATED: ("var(--good)", "o"), CONTRADICTED: ("var(--bad)", "s"), NOT_SEPARABLE: ("var(--open)", "^")}
_CLAIMED = {"greater": "One is better", "not_better": "One is not better", "close": "Two are close"}
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class ScaleClaims:
    """The verdicts on the claims of one scale. `tally` counts those that were judged; `rules` say what the words mean here."""

    scale: str
    title: str
    verdicts: tuple[Verdict, ...]
    tally: tuple[tuple[str, int], ...]
    finding: str
    rules: tuple[str, ...]
    plot: StripPlot | None

    @property
    def judged(self) -> tuple[Verdict, ...]:
        """Those that have a verdict."""
        return tuple(one for one in self.verdicts if one.word != NOT_RUN)

    @property
    def unrun(self) -> tuple[Verdict, ...]:
        """Those that lack a cell."""
        return tuple(one for one in self.verdicts if one.word == NOT_RUN)


def scale_claims(verdicts: Sequence[Verdict]) -> list[ScaleClaims]:
    """The paper's claims and the lab's, as far as they were asked for."""
    found = []
    for scale, title in TITLES.items():
        own = tuple(one for one in verdicts if one.claim.scale == scale)
        counts = Counter(one.word for one in own)
        tally = tuple((word, counts[word]) for word in WORDS if counts[word] and word != NOT_RUN)
        rules = tuple(dict.fromkeys(rule(one.claim) for one in own))
        if own:
            found.append(ScaleClaims(scale, title, own, tally, finding(own), rules, _plot(title, own)))
    return found


def finding(verdicts: Sequence[Verdict]) -> str:
    """One sentence on what was found for the claims of one scale, which follows from the verdicts alone."""
    where = "the lab world's tiny models" if verdicts[0].claim.scale == "lab" else "the paper's models"
    if all(one.word == NOT_RUN for one in verdicts):
        return f"Nothing is said here about {where}: no claim about them has all of its cells in this store."
    ours = [one for one in verdicts if against_imitation(one.claim)]
    rest = [one for one in verdicts if one not in ours]
    parts = [f"of {_many(ours)} that critique fine-tuning beats imitation, {_counted(ours)}"] if ours else []
    parts += [f"of {_many(rest, 'the other ' if ours else '')}, {_counted(rest, told=True)}"] if rest else []
    lone = sum(one.one_run for one in verdicts)
    parts += [f"{lone} of these verdicts {'stands' if lone == 1 else 'stand'} on one training run of each arm"] if lone else []
    return f"About {where}: {'; '.join(parts)}."


def against_imitation(claim: Claim) -> bool:
    """Whether a claim says that CFT beats SFT on the same questions."""
    rivals = [place for group in claim.rivals for place in group]
    cft = all((place.column or place.row).startswith("CFT") for place in claim.first)
    return claim.kind == "greater" and cft and all((place.column or place.row).startswith("SFT") for place in rivals)


def _many(verdicts: Sequence[Verdict], before: str = "") -> str:
    return f"{before or 'the '}{len(verdicts)} claim{'' if len(verdicts) == 1 else 's'}"


def _counted(verdicts: Sequence[Verdict], *, told: bool = False) -> str:
    """How many got which word; with what was replicated or contradicted, if `told`."""
    parts = []
    for word in WORDS:
        own = [one for one in verdicts if one.word == word]
        if own or word in (REPLICATED, CONTRADICTED):
            names = f" ({'; '.join(_quoted(one.claim) for one in own)})" if own and told and word in WORDS[:2] else ""
            parts.append(f"{len(own) or 'none'} {'is' if len(own) < 2 else 'are'} {word}{names}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _quoted(claim: Claim) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{claim.statement}\N{RIGHT DOUBLE QUOTATION MARK}"


def short_label(claim: Claim) -> str:
    """The difference that a claim is about, in the labels of its table: `lab-qwen2: CFT - best SFT`."""
    first, rivals = claim.first, claim.rivals
    places = [place for group in (first, *rivals) for place in group]
    if any(place.column for place in places) and len({place.row for place in places}) == 1:
        names, shared = [[place.column for place in group] for group in (first, *rivals)], f"{first[0].row}: "
    elif all(_columns(group) == _columns(first) for group in rivals):
        names, shared = [list(dict.fromkeys(place.row for place in group)) for group in (first, *rivals)], ""
        shared = f"{first[0].column}: " if len(_columns(first)) == 1 and first[0].column else ""
    else:
        names, shared = [[", ".join(filter(None, (place.row, place.column))) for place in group] for group in (first, *rivals)], ""
    told = [" + ".join(group) for group in names]
    return f"{shared}{told[0]} {_MINUS} {told[1] if len(told) == 2 else _best(told[1:])}"


def _columns(group: Sequence[Place]) -> tuple[str, ...]:
    return tuple(place.column for place in group)


def _best(names: Sequence[str]) -> str:
    stem = min(names, key=len)
    return f"best {stem}" if all(name.startswith(stem) for name in names) else f"best of {len(names)}"


def region(claim: Claim) -> tuple[float, float]:
    """Where the whole interval has to lie for the claim to be replicated (`claims.decide`)."""
    if claim.kind == "close":
        return -claim.margin, claim.margin
    return (-math.inf, claim.margin) if claim.kind == "not_better" else (claim.margin, math.inf)


def side(claim: Claim) -> str:
    """`region` in words."""
    low, high = region(claim)
    if claim.kind == "close":
        return f"claimed: within {100 * high:g} points of 0"
    return f"claimed: {f'below {_bound(high)}' if claim.kind == 'not_better' else f'above {_bound(low)}'}"


def rule(claim: Claim) -> str:
    """What the words of verdicts mean for a claim of this kind and scale."""
    return f"{_CLAIMED[claim.kind]}: {rule_of(claim)}"


def _bound(value: float) -> str:
    return f"{100 * value:+g} points" if value else "0"


def _plot(title: str, verdicts: Sequence[Verdict]) -> StripPlot | None:
    strips = [_strip(one) for one in verdicts if one.estimate is not None]
    return effect_plot(f"{title}: effects with their intervals", strips) if strips else None


def _strip(one: Verdict) -> Strip:
    colour, marker = MARKS[one.word]
    limits = "" if one.low is None or one.high is None else f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    told = f"{short_label(one.claim)}: {100 * (one.estimate or 0):+.1f} points{limits}, {side(one.claim)}, {one.qualified}"
    told += "" if one.published is None else f"; published {100 * one.published:+.1f}"
    return Strip(
        short_label(one.claim),
        told,
        one.estimate,
        one.low,
        one.high,
        one.published,
        region(one.claim),
        colour,
        marker,
        f"{side(one.claim)}; {one.qualified}",
    )
