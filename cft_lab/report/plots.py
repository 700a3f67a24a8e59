"""The plots of the page: small SVG figures by matplotlib that take their colours from the page.

Each holds one panel, so that a row of them wraps on a narrow screen. Colours are drawn as marks and become CSS variables
(`--series-0`, `--ink`, ...; templates/page/style.css), so that one figure serves light and dark. Series differ in marker and dash
as well as in colour, and are labelled beside their points. Every figure has a title and a description that says its numbers.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
_SVG = "http://www.w3.org/2000/svg"
_WIDTH, _WIDE, _LINE_HEIGHT = 3.05, 6.4, 2.2  # inches; the page shows an inch as 100 pixels
_SIZE = 8.5  # points
_LABEL_GAP = 0.085  # height of a line of a label, in heights of a panel
_MARKED = 20  # points up to which each has a marker, and is told in the description
_LABEL_LETTERS = 14  # of a line of a label
#: colour that is drawn -> what stands in the page
_MARKS = {f"#0a0b{place:02x}": f"var(--series-{place})" for place in range(len(MARKERS))} | {
    "#010203": "var(--ink)",
    "#020304": "var(--muted)",
    "#030405": "var(--grid)",
}
_SERIES = [mark for mark, shown in _MARKS.items() if "series" in shown]
_INK, _MUTED, _GRID = (mark for mark, shown in _MARKS.items() if "series" not in shown)
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": _SIZE,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "text.parse_math": False,  # labels are names, not formulas
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "cft_lab",
}


@dataclass(frozen=True)
class Point:
    """A point; `low` and `high` are the limits of its interval, None for none. Accuracies are fractions."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one arm in order of x. `style` is its place among the colours and markers."""

    label: str
    points: tuple[Point, ...]
    style: int = 0


@dataclass(frozen=True)
class Dot:
    """A value of one arm with its interval, and the published one; either may be missing. `marker` replaces that of the style."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    style: int = 0
    marker: str | None = None


def dots(name: str, title: str, rows: Sequence[Dot], limits: tuple[float, float]) -> Markup:
    """Accuracies of some arms, one line each: value, interval, and the published value as a hollow diamond. `name` is unique."""
    with _figure(0.75 + 0.26 * len(rows)) as (figure, axes):
        _draw_dots(axes, rows)
        for place, row in enumerate(rows):
            if row.value is not None:
                axes.text(1.04, place, f"{100 * row.value:.1f}", transform=axes.get_yaxis_transform(), va="center")
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        axes.set_xlabel("accuracy, %")
        _frame(figure, axes, title, 0.36, 0.86)
        return _svg(figure, name, title, "; ".join(_told_dot(row) for row in rows))


def effects(name: str, title: str, rows: Sequence[Dot]) -> Markup:
    """Differences in points, one line each: estimate, interval, and the published one; a line at no difference."""
    ends = [value for row in rows for value in (row.value, row.low, row.high, row.published, 0.0) if value is not None]
    with _figure(0.75 + 0.26 * len(rows), _WIDE) as (figure, axes):
        axes.axvline(0, color=_INK, linewidth=0.8)
        _draw_dots(axes, rows)
        axes.set_xlim(100 * min(ends) - 2, 100 * max(ends) + 2)
        axes.set_xlabel("difference, points")
        _frame(figure, axes, title, 0.36, 0.98)
        return _svg(figure, name, title, "; ".join(_told_dot(row, " points") for row in rows))


def _draw_dots(axes: Axes, rows: Sequence[Dot]) -> None:
    for place, row in enumerate(rows):
        colour, marker = _SERIES[row.style % len(_SERIES)], row.marker or MARKERS[row.style % len(MARKERS)]
        if row.low is not None and row.high is not None:
            axes.plot(
                [100 * row.low, 100 * row.high], [place, place], color=colour, linewidth=1.5, solid_capstyle="butt", clip_on=False
            )
        if row.value is not None:
            axes.plot([100 * row.value], [place], color=colour, marker=marker, markersize=5, linestyle="none", clip_on=False)
        if row.published is not None:
            axes.plot(
                [100 * row.published], [place], "D", markersize=5, markerfacecolor="none", markeredgecolor=_INK, markeredgewidth=0.9
            )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _frame(figure: Figure, axes: Axes, title: str, left: float, right: float) -> None:
    """Margins that leave room for labels (shares of the width), and the title at the left edge."""
    height = figure.get_figheight()
    figure.subplots_adjust(left=left, right=right, top=1 - 0.3 / height, bottom=0.45 / height)
    figure.text(0.0, 1 - 0.03 / height, title, fontsize=_SIZE + 1, fontweight="bold", va="top")


def lines(
    name: str, title: str, series: Sequence[Series], x_label: str, y_label: str = "accuracy, %", *, percent: bool = True
) -> Markup:
    """Curves with intervals where points have them. Series of one label (seeds) share a style and are labelled once."""
    scale = 100.0 if percent else 1.0
    with _figure(_LINE_HEIGHT) as (figure, axes):
        offsets = _offsets(series)
        for one in series:
            colour, dash, marker = (choices[one.style % len(choices)] for choices in (_SERIES, DASHES, MARKERS))
            shift = offsets[one.label]
            xs, ys = [point.x + shift for point in one.points], [scale * point.y for point in one.points]
            if len(one.points) <= _MARKED:
                axes.plot(xs, ys, color=colour, linestyle=dash, marker=marker, markersize=3.5, linewidth=1.2)
            else:
                axes.plot(xs, ys, color=colour, linewidth=0.7)
            for x, point in zip(xs, one.points, strict=True):
                if point.low is not None and point.high is not None:
                    axes.plot([x, x], [scale * point.low, scale * point.high], color=colour, linewidth=0.9)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        xs = sorted({point.x for one in series for point in one.points})
        if len(xs) <= 6:
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
            axes.margins(x=0.08)
        _frame(figure, axes, title, 0.15, 0.68)
        _label_ends(axes, series, scale)
        return _svg(figure, name, title, "; ".join(_told_series(one, scale, percent) for one in series))


@contextmanager
def _figure(height: float, width: float = _WIDTH) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def _offsets(series: Sequence[Series]) -> Mapping[str, float]:
    """Shifts of x that keep intervals of several series apart; none where points have no intervals."""
    labels = list(dict.fromkeys(one.label for one in series))
    xs = [point.x for one in series for point in one.points]
    if not any(point.low is not None for one in series for point in one.points) or len(set(xs)) < 2:
        return dict.fromkeys(labels, 0.0)
    step = 0.012 * (max(xs) - min(xs))
    return {label: step * (place - (len(labels) - 1) / 2) for place, label in enumerate(labels)}


def _label_ends(axes: Axes, series: Sequence[Series], scale: float) -> None:
    """The name of each series beside its last point, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ends: dict[str, tuple[float, int]] = {}
    for one in series:
        ends.setdefault(one.label, (scale * one.points[-1].y, one.style))
    wanted = {label: (y - low) / (high - low) for label, (y, _) in ends.items()}
    told = {label: "\n".join(textwrap.wrap(label, _LABEL_LETTERS)) or label for label in wanted}
    sizes = {label: _LABEL_GAP * (1 + text.count("\n")) for label, text in told.items()}
    for label, height in _apart(wanted, sizes).items():
        colour = _SERIES[ends[label][1] % len(_SERIES)]
        axes.text(1.04, height, told[label], color=colour, transform=axes.transAxes, va="center", linespacing=1.05)


def _apart(wanted: Mapping[str, float], sizes: Mapping[str, float]) -> dict[str, float]:
    """Heights of the middles of labels, in the order of those wanted, moved so that labels of these sizes do not overlap.

    The highest stays below 1 as far as the others leave room.
    """
    order = sorted(wanted, key=lambda label: wanted[label])
    heights: list[float] = []
    for place, label in enumerate(order):
        floor = heights[-1] + (sizes[order[place - 1]] + sizes[label]) / 2 if place else 0.0
        heights.append(max(wanted[label], floor))
    for place in reversed(range(len(order))):
        last = place == len(order) - 1
        ceiling = 1.0 if last else heights[place + 1] - (sizes[order[place]] + sizes[order[place + 1]]) / 2
        heights[place] = min(heights[place], ceiling)
    return dict(zip(order, heights, strict=True))


def _told_dot(row: Dot, unit: str = " %") -> str:
    value = "not run" if row.value is None else f"{100 * row.value:.1f}{unit}"
    limits = f" [{100 * row.low:.1f}, {100 * row.high:.1f}]" if row.low is not None and row.high is not None else ""
    return f"{row.label} {value}{limits}" + (f", published {100 * row.published:.1f}{unit}" if row.published is not None else "")


def _told_series(one: Series, scale: float, percent: bool) -> str:
    points = one.points if len(one.points) <= _MARKED else (one.points[0], one.points[-1])
    told = ", ".join(f"{scale * point.y:.1f} at {point.x:g}" if percent else f"{point.y:.3g} at {point.x:g}" for point in points)
    return f"{one.label}: {told}"


def _svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as an element of the page: named, described, its ids its own, its colours the page's."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(written.getvalue())  # noqa: S314 (written by matplotlib just now)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] == "metadata":
                parent.remove(child)
    for element in root.iter():
        _localise(element, name)
    for place, (tag, text) in enumerate([("title", title), ("desc", description)]):
        told = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        told.text = _printable(text)
        root.insert(place, told)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    root.set("width", f"{100 * figure.get_figwidth():.0f}")
    root.set("height", f"{100 * figure.get_figheight():.0f}")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 (made by the XML library, which escapes texts)


def _localise(element: ElementTree.Element, name: str) -> None:
    for key, value in list(element.attrib.items()):
        plain = key.rpartition("}")[2]
        if plain == "id":
            element.set(key, f"{name}-{value}")
        elif plain == "href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif plain in ("style", "clip-path", "fill", "stroke"):
            for mark, shown in _MARKS.items():
                value = value.replace(mark, shown)
            element.set(key, value.replace("url(#", f"url(#{name}-"))


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(letter for letter in text if letter.isprintable())


def shared_limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Limits from 0 that hold all of these fractions, up to the next tenth."""
    known = [value for value in itertools.chain(values, (0.0,)) if value is not None]
    return 0.0, min(1.0, math.ceil(10 * max(known) + 1e-9) / 10 or 0.1)
