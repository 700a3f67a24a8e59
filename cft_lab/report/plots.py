"""The plots of the page: small SVG figures by matplotlib that take their colours from the page.

Each holds one panel, so that a row of them wraps on a narrow screen. Colours are drawn as marks and become CSS variables
(`--series-0`, `--ink`, ...; templates/page/style.css), so that one figure serves light and dark. Series differ in marker and dash
as well as in colour, and are labelled beside their points. Every figure has a title and a description that says its numbers.
"""

from __future__ import annotations

import io
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cft_lab.report.strips import COLOURS, colour_of, marker_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
_SVG = "http://www.w3.org/2000/svg"
_WIDTH, _LINE_HEIGHT = 3.05, 2.2  # inches; the page shows an inch as 100 pixels
_SIZE = 8.5  # points
_LABEL_GAP = 0.085  # height of a line of a label, in heights of a panel
_MARKED = 20  # points up to which each has a marker, and is told in the description
_LABEL_LETTERS = 14  # of a line of a label
#: colour that is drawn -> what stands in the page
_MARKS = {f"#0a0b{place:02x}": f"var(--series-{place})" for place in range(COLOURS)} | {
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
    """Points of one arm in order of x, and the published ones. `style` is its place among the colours and markers, `chosen` the x
    of the point that was chosen."""

    label: str
    points: tuple[Point, ...]
    style: int = 0
    published: tuple[Point, ...] = ()
    chosen: float | None = None


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
            _draw(axes, one, offsets[one.label], scale)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        xs = sorted({point.x for one in series for point in (*one.points, *one.published)})
        if len(xs) <= 6:
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
            axes.margins(x=0.08)
        _frame(figure, axes, title, 0.15, 0.68)
        _label_ends(axes, series, scale)
        return _svg(figure, name, title, "; ".join(_told_series(one, scale, percent) for one in series))


def _draw(axes: Axes, one: Series, shift: float, scale: float) -> None:
    """A curve with its intervals, a ring around the chosen point, and hollow diamonds for published ones."""
    colour, dash, marker = _SERIES[colour_of(one.style)], DASHES[one.style % len(DASHES)], marker_of(one.style)
    xs, ys = [point.x + shift for point in one.points], [scale * point.y for point in one.points]
    if len(one.points) <= _MARKED:
        axes.plot(xs, ys, color=colour, linestyle=dash, marker=marker, markersize=3.5, linewidth=1.2)
    else:
        every = max(1, len(xs) // 5)
        axes.plot(xs, ys, color=colour, linestyle=dash, marker=marker, markevery=(every // 2, every), markersize=3.5, linewidth=0.8)
    for x, point in zip(xs, one.points, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot([x, x], [scale * point.low, scale * point.high], color=colour, linewidth=0.9)
        if point.x == one.chosen:
            ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": _INK, "markeredgewidth": 1.0}
            axes.plot([x], [scale * point.y], "o", markersize=8, **ring)
    if one.published:
        printed = [(point.x + shift, scale * point.y) for point in one.published]
        hollow: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "none", "markeredgewidth": 0.9}
        axes.plot(*zip(*printed, strict=True), color=colour, linestyle=":", linewidth=0.7, **hollow)


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
    xs = [point.x for one in series for point in (*one.points, *one.published)]
    if not any(point.low is not None for one in series for point in one.points) or len(set(xs)) < 2:
        return dict.fromkeys(labels, 0.0)
    step = 0.012 * (max(xs) - min(xs))
    return {label: step * (place - (len(labels) - 1) / 2) for place, label in enumerate(labels)}


def _label_ends(axes: Axes, series: Sequence[Series], scale: float) -> None:
    """The name of each series beside its last point, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ends: dict[str, tuple[float, int]] = {}
    for one in series:
        ends.setdefault(one.label, (scale * (one.points or one.published)[-1].y, one.style))
    wanted = {label: (y - low) / (high - low) for label, (y, _) in ends.items()}
    told = {label: "\n".join(textwrap.wrap(label, _LABEL_LETTERS)) or label for label in wanted}
    sizes = {label: _LABEL_GAP * (1 + text.count("\n")) for label, text in told.items()}
    for label, height in _apart(wanted, sizes).items():
        colour = _SERIES[colour_of(ends[label][1])]
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


def _told_series(one: Series, scale: float, percent: bool) -> str:
    points = one.points if len(one.points) <= _MARKED else (one.points[0], one.points[-1])
    told = ", ".join(f"{scale * point.y:.1f} at {point.x:g}" if percent else f"{point.y:.3g} at {point.x:g}" for point in points)
    said = [told] if told else []
    if one.chosen is not None:
        said.append(f"chosen at {one.chosen:g}")
    if one.published:
        said.append("published " + ", ".join(f"{scale * point.y:.1f} at {point.x:g}" for point in one.published))
    return f"{one.label}: {', '.join(said)}"


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
