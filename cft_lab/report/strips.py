"""Strips: values on lines above one another, drawn by the page itself (templates/page/strips.html).

Labels are texts of the page and places are percentages of the width, so that a strip is as legible on a phone as on a desk. Series
differ in marker as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COLOURS = 6  # --series-0 ... of style.css; the first is the base model's
#: marker, by matplotlib's names -> its outline around (0, 0), in pixels
SHAPES = {
    "o": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "s": "M-4 -4h8v8h-8z",
    "^": "M0 -5l5 9h-10z",
    "D": "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "v": "M0 5l5 -9h-10z",
    "P": "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
}
MARKERS = tuple(SHAPES)
_TICKS = 6  # at most
_ROOM = 0.04  # of the width, beyond the outermost value


@dataclass(frozen=True)
class Strip:
    """One line: a value with its interval, the published value, and the stretch where a claim would hold; fractions, None for none.

    `colour` is a CSS colour, `told` all of it in words, `note` stands below the label, `href` is where the label leads.
    """

    label: str
    told: str
    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    claimed: tuple[float, float] | None = None
    colour: str = "var(--ink)"
    marker: str = "o"
    note: str = ""
    href: str = ""


@dataclass(frozen=True)
class StripGroup:
    """Strips that stand together; `label` is what they share."""

    label: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class StripPlot:
    """Strips over one axis from `low` to `high`, which are fractions; `unit` says what the axis counts."""

    title: str
    unit: str
    groups: tuple[StripGroup, ...]
    low: float
    high: float
    signed: bool = False

    def at(self, value: float) -> float:
        """Where a value stands, in percent of the width; beyond an end, the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[float]:
        """Round values along the axis."""
        return ticks(self.low, self.high)


def accuracy_plot(title: str, groups: Sequence[StripGroup], limits: tuple[float, float]) -> StripPlot:
    """Accuracies between given limits."""
    return StripPlot(title, "accuracy, %", tuple(groups), *limits)


def effect_plot(title: str, strips: Sequence[Strip]) -> StripPlot:
    """Differences: the axis holds all of them, their intervals, and 0."""
    ends = [value for strip in strips for value in (strip.value, strip.low, strip.high, strip.published, 0.0) if value is not None]
    room = _ROOM * (max(ends) - min(ends)) or 0.01
    return StripPlot(title, "difference, points", (StripGroup("", tuple(strips)),), min(ends) - room, max(ends) + room, signed=True)


def ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2, 5, 10, ... hundredths within the limits, as many as are legible."""
    sizes = (factor * 10**power for power in range(-2, 3) for factor in (0.1, 0.2, 0.5))
    step = next((size for size in sizes if (high - low) / size <= _TICKS), high - low)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 9) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def shared_limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Limits from 0 that hold all of these fractions, up to the next tenth."""
    known = [value for value in values if value is not None]
    return 0.0, min(1.0, math.ceil(10 * max([*known, 0.0]) + 1e-9) / 10 or 0.1)


def colour_of(style: int) -> int:
    """The colour of a series: 0 is the base model's alone. No two of the first 31 series share both colour and marker."""
    return 0 if style == 0 else 1 + (style - 1) % (COLOURS - 1)


def marker_of(style: int) -> str:
    """The marker of a series."""
    if style == 0:
        return MARKERS[0]
    turn, place = divmod(style - 1, COLOURS - 1)
    return MARKERS[(place + turn + 1) % len(MARKERS)]
