"""Tables and claims as Markdown, LaTeX, CSV and fragments of HTML. Here fractions become percent and points, and nowhere else.

A table is shown as parts, each a plain grid: accuracies; beside the paper; differences; on demand by the paper's grader and rates.
`parts` and `claim_parts` make the grids, templates/ writes them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cft_lab.published import PRINTED_BENCHMARKS, SOURCE
from cft_lab.report.claims import Verdict, rule_of
from cft_lab.report.csv_tables import tables_csv, written
from cft_lab.report.tables import (
    AVG,
    CONFLICT,
    FAILED,
    MEASURED,
    MISSING,
    PUBLISHED,
    SEEDS_NOTE,
    DataSetTable,
    Delta,
    Entry,
    Report,
    ReportTable,
    Row,
    Value,
)

FORMATS = ("md", "tex", "csv", "html")
WORDS = {MISSING: "not run", FAILED: "failed", CONFLICT: "refused", PUBLISHED: "-"}
_NONE = "-"
_PROBLEMS = 20  # records that cannot be used which a report lists before it counts
_HOLM = (
    "The verdict is by the interval at this level. p is two-sided for a difference at the claim's bound, adjusted by Holm over the "
    "claims that were run, and may differ from it; a claim of closeness has none."
)
_INTERVALS = "Accuracy in % [95 % interval over items]"


@dataclass(frozen=True)
class Cell:
    """What stands at one place of a grid. `state` is that of an entry, or the word of a verdict; `why` explains it."""

    text: str
    state: str = ""
    why: str = ""


@dataclass(frozen=True)
class Part:
    """A grid under a heading. The first `labels` columns are row headings; `texts` are further columns that hold no numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: int = 1
    texts: tuple[int, ...] = ()

    def aligned(self, place: int) -> str:
        """The side that a column keeps to."""
        return "left" if place < self.labels or place in self.texts else "right"


@dataclass(frozen=True)
class Section:
    """A table, or the claims: its grids, notes, and what would make what is missing (reason, command)."""

    name: str
    title: str
    caption: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    to_make: tuple[tuple[str, str], ...] = ()


def render(report: Report, format: str, verdicts: Sequence[Verdict] = (), *, rates: bool = False) -> str:
    """A whole report in one of FORMATS. html is a fragment without a page around it.

    csv has tables, data sets and claims with an empty line between them, and no notes: these are what `notes_of` returns.
    """
    if format == "csv":
        return "\n".join([*tables_csv(report), *([claims_csv(verdicts)] if verdicts else [])])
    shown = [section(table, rates=rates) for table in report.tables]
    if verdicts:
        shown.insert(0, claims_section(verdicts))
    text: str = _template(format).render(sections=shown, notes=_whole(report), report=report)
    return text


def notes_of(report: Report, verdicts: Sequence[Verdict] = ()) -> list[tuple[str, str]]:
    """What is said besides numbers: (table, note) for each, the table empty for what is about the whole report."""
    sections = [section(table) for table in report.tables] + ([claims_section(verdicts)] if verdicts else [])
    return [("", note) for note in _whole(report)] + [(one.name, note) for one in sections for note in one.notes]


def _whole(report: Report) -> list[str]:
    """The notes on the whole report, records that cannot be used among them."""
    notes = [*report.notes, *(f"cannot be used: {problem}" for problem in report.problems[:_PROBLEMS])]
    if len(report.problems) > _PROBLEMS:
        notes.append(f"and {len(report.problems) - _PROBLEMS} more such records: `problems` of cft_lab.results.open_store has all")
    return notes


def section(table: ReportTable | DataSetTable, *, rates: bool = False) -> Section:
    """A table as grids of texts."""
    if isinstance(table, DataSetTable):
        return Section(table.name, table.title, table.caption, (_data_sets(table),), table.notes, _uncounted(table))
    parts = tuple(part for part in parts_of(table, rates=rates) if part.rows)
    return Section(table.name, table.title, table.caption, parts, table.notes, tuple(_to_make(table)))


def parts_of(table: ReportTable, *, rates: bool = False) -> Iterator[Part]:
    """The grids of a table."""
    names = [benchmark_name(benchmark) for benchmark in table.benchmarks]
    labels = ("row", "column") if any(row.column for row in table.rows) else ("row",)

    def grid(title: str, head: Sequence[str], text: Callable[[Row], list[Cell]]) -> Part:
        named = [(Cell(row.label), Cell(row.column))[: len(labels)] for row in table.rows]
        rows = tuple((*own, *text(row)) for own, row in zip(named, table.rows, strict=True))
        return Part(title, (*labels, *head), rows, len(labels))

    heads = [*("seeds", "supervised tokens"), *(_with_items(table, benchmark) for benchmark in table.benchmarks), "seed sd of AVG"]
    yield grid(_INTERVALS, heads, lambda row: _measured(row, table.benchmarks))
    if table.scale == "paper":
        title = f"Published ({SOURCE} {table.version}), and measured minus published in points"
        yield grid(title, names, lambda row: [_beside(row.entries[benchmark]) for benchmark in table.benchmarks])
    yield from _others(table)
    yield from _delta_parts(table)
    values = [entry.value for row in table.rows for entry in row.entries.values() if entry.value]
    if any(value.paper_grader is not None and abs(value.paper_grader - value.mean) > 5e-4 for value in values) or rates:
        yield grid(
            "By the paper's more lenient grader, in %",
            names,
            lambda row: [_one(row.entries[name], lambda value: percent(value.paper_grader)) for name in table.benchmarks],
        )
    if rates:
        yield grid(
            "No answer / cut off, in % of draws",
            names,
            lambda row: [
                _one(row.entries[name], lambda value: f"{percent(value.unparsed)} / {percent(value.truncated)}")
                for name in table.benchmarks
            ],
        )


def _measured(row: Row, benchmarks: Sequence[str]) -> list[Cell]:
    spread = row.entries[AVG].value
    runs = max((entry.value.seeds for entry in row.entries.values() if entry.value), default=0)
    return [
        Cell(str(runs) if runs else _NONE, why=", ".join(map(str, row.seeds))),
        Cell(f"{row.supervised_tokens:,}" if row.supervised_tokens is not None else _NONE),
        *(_one(row.entries[benchmark], lambda value: with_interval(value, runs)) for benchmark in benchmarks),
        Cell(percent(spread.seed_sd if spread else None)),
    ]


def _one(entry: Entry, text: Callable[[Value], str]) -> Cell:
    """A measured value as text, or why there is none."""
    if entry.value is None:
        return Cell(WORDS.get(entry.state, entry.state), entry.state, entry.reason or entry.command or entry.note or "")
    return Cell(text(entry.value), MEASURED)


def _beside(entry: Entry) -> Cell:
    if entry.published is None:
        return Cell(_NONE)
    difference = "" if entry.difference is None else f" ({points(entry.difference)})"
    return Cell(f"{percent(entry.published)}{difference}{_mark(entry)}", why=entry.note or "")


def _mark(entry: Entry) -> str:
    """A star for what a note of the table explains."""
    return " *" if entry.note and entry.state != PUBLISHED else ""


def _others(table: ReportTable) -> Iterator[Part]:
    """The printed rows on other benchmarks than the table's; none if there are none."""
    names = [*dict.fromkeys(name for row in table.others for name in row.entries if name != AVG), AVG]
    rows = [
        (Cell(row.label), Cell(row.column), *(_beside(row.entries[name]) if name in row.entries else Cell(_NONE) for name in names))
        for row in table.others
    ]
    title = f"Published ({SOURCE} {table.version}) on other benchmarks, which no cell answers to"
    yield Part(title, ("row", "column", *map(benchmark_name, names)), tuple(rows), 2)


def _delta_parts(table: ReportTable) -> Iterator[Part]:
    labels = dict.fromkeys((delta.label, delta.first, delta.rivals) for delta in table.deltas)
    rows = []
    for place in labels:
        own = {delta.benchmark: delta for delta in table.deltas if (delta.label, delta.first, delta.rivals) == place}
        known = [own[name] for name in table.benchmarks if own[name].estimate is not None]
        seeds, covers = _span(delta.seeds for delta in known), " or ".join(dict.fromkeys(delta.covers for delta in known))
        items = own[AVG].n_items if own[AVG].estimate is not None else 0
        texts = (f"{items:,}" if items else _NONE, seeds, covers or _NONE)
        rows.append((Cell(place[0]), *map(Cell, texts), *(_difference(own[name], table.scale) for name in table.benchmarks)))
    title = "Difference in points, paired by item [95 % interval]"
    title += "; published in brackets" if table.scale == "paper" else ""
    head = ("difference", "items", "seeds", "interval over", *(benchmark_name(name) for name in table.benchmarks))
    yield Part(title, head, tuple(rows), texts=(3,))


def _span(counts: Iterable[int]) -> str:
    """One number, or the least and the most; a dash for those without trained arms."""
    found = sorted({count for count in counts if count})
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else str(found[0]) if found else _NONE


def _difference(delta: Delta, scale: str) -> Cell:
    published = f" ({points(delta.published)})" if scale == "paper" and delta.published is not None else ""
    if delta.estimate is None or delta.low is None or delta.high is None:
        return Cell(f"{_NONE}{published}", MISSING, delta.reason or "")
    return Cell(f"{points(delta.estimate)} [{points(delta.low)}, {points(delta.high)}]{published}", MEASURED)


def _to_make(table: ReportTable) -> Iterator[tuple[str, str]]:
    """What is missing and the command that makes it: one for the table if nothing is there, else one for each cell."""
    lacking = [next((e for e in row.entries.values() if e.command), None) for row in table.rows if row.arm]
    told = [entry for entry in lacking if entry is not None]
    if told and all(entry.state in (MISSING, PUBLISHED) for row in table.rows for entry in row.entries.values()):
        yield "nothing of this table was run", table.command
        return
    for entry in told:
        place = ", ".join(filter(None, (entry.row, entry.column)))
        yield f"{place}: {WORDS.get(entry.state, entry.state)}{f' ({entry.reason})' if entry.reason else ''}", str(entry.command)


def _with_items(table: ReportTable, benchmark: str) -> str:
    values = [row.entries[benchmark].value for row in table.rows]
    counts = {value.n_items for value in values if value is not None}
    if not counts or benchmark == AVG:
        return benchmark_name(benchmark)
    low, high = min(counts), max(counts)
    return f"{benchmark_name(benchmark)}, n={low:,}" + (f" to {high:,}" if high > low else "")


def _data_sets(table: DataSetTable) -> Part:
    rows = tuple(
        tuple(
            Cell(text)
            for text in (row.name, row.size, row.seed, row.discipline, f"{row.counted:,}" if row.counted is not None else _NONE)
        )
        for row in table.rows
    )
    return Part("Training sets", ("data set", "size", "source or seed", "discipline", "rows counted here"), rows, texts=(1, 2, 3))


def _uncounted(table: DataSetTable) -> tuple[tuple[str, str], ...]:
    return tuple((f"{row.name}: not counted", row.command) for row in table.rows if row.command)


def claims_section(verdicts: Sequence[Verdict]) -> Section:
    """The verdicts on all claims as grids of texts."""
    titles = {
        "paper": f"Claims of {SOURCE}, judged on this store",
        "lab": "The same claims about the lab world, judged on direction only, but for close ones, which keep their margin: "
        "they say nothing about the paper's models",
    }
    parts = []
    for scale, title in titles.items():
        rows = [_verdict(verdict) for verdict in verdicts if verdict.claim.scale == scale]
        published = ("published, points",) if scale == "paper" else ()
        head = ("claim", "verdict", "measured, points", "seeds", *published, "p (Holm)", "why")
        kept = rows if scale == "paper" else [(*row[:4], *row[5:]) for row in rows]
        parts.append(Part(title, head, tuple(kept), texts=(1, len(head) - 1)))
    parts = [part for part in parts if part.rows]
    families = {verdict.claim.scale: verdict.confidence for verdict in verdicts if verdict.confidence is not None}
    notes = [f"Intervals of the {name} claims hold together at 95 %: each is at {100 * at:.2f} %." for name, at in families.items()]
    notes += [_HOLM, SEEDS_NOTE] if families else []
    lacking = {verdict.claim.sweep: verdict.command for verdict in verdicts if verdict.command is not None}
    to_make = tuple((f"{sweep} is not run whole", command) for sweep, command in lacking.items())
    return Section("claims", "Claims", "Which claims stand in this store", tuple(parts), tuple(notes), to_make)


def _verdict(verdict: Verdict) -> tuple[Cell, ...]:
    measured = _NONE
    if verdict.estimate is not None and verdict.low is not None and verdict.high is not None:
        measured = f"{points(verdict.estimate)} [{points(verdict.low)}, {points(verdict.high)}]"
    return (
        Cell(verdict.claim.statement),
        Cell(verdict.qualified, verdict.word, rule_of(verdict.claim)),
        Cell(measured),
        Cell(str(verdict.seeds) if verdict.seeds else _NONE),
        Cell(points(verdict.published)),
        Cell(_NONE if verdict.p_holm is None else f"{verdict.p_holm:.2g}"),
        Cell(verdict.reason),
    )


def claims_csv(verdicts: Sequence[Verdict]) -> str:
    """Every verdict, one a line; fractions as they are."""
    names = (
        *("qualified", "estimate", "low", "high", "confidence", "covers", "n_items", "seeds", "published", "p_holm"),
        *("seeds_needed", "items_needed", "settled_by", "sought", "reason", "command"),
    )
    places = ((one.claim.id, one.claim.scale, one.claim.kind, one.claim.benchmark, one.word) for one in verdicts)
    lines = ((*place, *(getattr(one, name) for name in names)) for place, one in zip(places, verdicts, strict=True))
    return written(("claim", "scale", "kind", "benchmark", "verdict", *names), lines)


def benchmark_name(benchmark: str) -> str:
    """What the paper calls a benchmark; the lab's have names of their own."""
    return PRINTED_BENCHMARKS.get(benchmark, benchmark)


def percent(value: float | None) -> str:
    """A fraction in percent."""
    return _NONE if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of fractions in points, signed."""
    return _NONE if value is None else f"{100 * value:+.1f}"


def with_interval(value: Value, seeds: int) -> str:
    """An accuracy in percent with its interval, and its seeds if they are fewer than the row's `seeds`."""
    fewer = [f"{value.seeds} seed{'s' if value.seeds > 1 else ''}"] if value.seeds < seeds else []
    told = [f"{value.errors} errors"] if value.errors else []
    more = f" ({', '.join([*fewer, *told])})" if fewer or told else ""
    return f"{percent(value.mean)} [{percent(value.low)}, {percent(value.high)}]{more}"


@functools.lru_cache(maxsize=len(FORMATS))
def _template(format: str) -> Any:
    """The template of a format. HTML is escaped by jinja2 itself, the others by the filters below."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cft_lab.report"),
        autoescape=jinja2.select_autoescape(["html.j2"], default=False),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": _markdown, "prose": _prose, "tex": _latex, "widths": _widths}
    return environment.get_template(f"report.{format}.j2")


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _markdown(text: str) -> str:
    """A text that stays one cell of a Markdown table, and no markup."""
    plain = " ".join(text.split())
    return "".join(f"\\{character}" if character in "|*_`<\\" else character for character in plain)


def _prose(text: str) -> str:
    """A text without markup but for what stands between backticks, which can be copied as it is."""
    return "".join(part if part[:1] == "`" else _markdown(f"x{part}x")[1:-1] for part in re.split(r"(`[^`\n]+`)", text))


def _widths(part: Part) -> list[int]:
    """The width of each column, so that the source of a Markdown table can be read as one."""
    texts = [part.head, *([cell.text for cell in row] for row in part.rows)]
    return [max(3, *(len(_markdown(row[place])) for row in texts)) for place in range(len(part.head))]
