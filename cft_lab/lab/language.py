"""The language of the lab world: sentence templates, what each means in arithmetic, and the way back from text.

One table (`FAMILIES`) serves both the generator, which fills templates in, and the oracle, which reads them back, so
the oracle needs nothing but the words of a question. All numbers are whole and lie in 0..MAX_NUMBER.

Example row (family `units`, 2 steps):
    Ada has 4 yards of rope. Ada on Monday loses 5 feet. How many feet does Ada have?
    Step 1: has 4 yards, so 4 * 3 = 12.
    Step 2: Monday loses 5, so 12 - 5 = 7.
    The answer is \\boxed{7}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NUMBER = 45
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jane", "Kim", "Leo")
THINGS = ("apples", "books", "cards", "coins", "cups", "pens", "plums", "shells", "stamps", "toys")

#: what a unit is worth in the smaller unit; nobody states it in the question, it has to be known
UNITS = {"yards": (3, "feet"), "gallons": (4, "quarts"), "weeks": (7, "days"), "dozen": (12, "eggs")}
#: the factor that the world's careless authors believe in
MISTAKEN_UNITS = {"yards": 2, "gallons": 3, "weeks": 5, "dozen": 10}
#: percent -> the divisor that takes it, and the divisor that careless authors use
PERCENTS = {50: 2, 25: 4, 20: 5, 10: 10}
MISTAKEN_PERCENTS = {50: 5, 25: 5, 20: 2, 10: 5}


@dataclass(frozen=True)
class Step:
    """One line of a solution: `phrase, so left op right = result`."""

    phrase: str
    left: int
    op: str
    right: int
    result: int

    @property
    def equation(self) -> str:
        """The arithmetic of the step, such as `12 - 5 = 7`."""
        return f"{self.left} {self.op} {self.right} = {self.result}"


def compute(left: int, op: str, right: int) -> int | None:
    """left op right, or None where the world has no such number (negative, too large, not whole)."""
    if op == "/":
        value = left // right if right and left % right == 0 else None
    else:
        value = {"+": left + right, "-": left - right, "*": left * right}[op]
    return value if value is not None and 0 <= value <= MAX_NUMBER else None


@dataclass(frozen=True)
class Template:
    """A sentence with slots, the rule that it stands for, and the phrase that a solution quotes from it."""

    text: str
    rule: str
    phrase: str = ""


@dataclass(frozen=True)
class Family:
    """A kind of problem: how it opens, what may happen next, what is asked. `mistake` is its typical misconception.

    One of the `special` events, where a family has any, always comes first: it is what the family is about.
    """

    openings: tuple[Template, ...]
    events: tuple[Template, ...]
    question: str
    mistake: str
    special: tuple[Template, ...] = ()


#: what may happen to a number of things; every family of word problems shares these verbs
_VERBS = (
    ("buys {n} more", "+"),
    ("finds {n} more", "+"),
    ("gets {n} more", "+"),
    ("wins {n} more", "+"),
    ("loses {n}", "-"),
    ("sells {n}", "-"),
    ("drops {n}", "-"),
    ("gives away {n}", "-"),
)


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def _events(subject: str, of_what: str = "") -> tuple[Template, ...]:
    """The shared verbs with a family's own subject, such as `The boss on {day} sells {n}.`"""
    return tuple(Template(f"{subject} on {{day}} {verb}{of_what}.", rule, f"{{day}} {verb}") for verb, rule in _VERBS)


FAMILIES: dict[str, Family] = {
    "chain": Family(
        openings=(Template("{name} has {n} {thing}.", "start"),),
        events=_events("{name}"),
        question="How many {thing} does {name} have now?",
        mistake="wrong-op",
    ),
    "rates": Family(
        openings=(
            Template("A machine makes {a} {thing} per hour for {b} hours.", "*", "makes {a} per hour for {b} hours"),
            Template("A worker packs {a} boxes with {b} {thing} each.", "*", "packs {a} boxes with {b} each"),
        ),
        events=_events("The boss"),
        question="How many {thing} are there now?",
        mistake="wrong-op",
    ),
    "units": Family(
        openings=(
            Template("{name} has {n} yards of rope.", "yards", "has {n} yards"),
            Template("{name} has {n} gallons of milk.", "gallons", "has {n} gallons"),
            Template("{name} has {n} weeks of leave.", "weeks", "has {n} weeks"),
            Template("{name} has {n} dozen eggs.", "dozen", "has {n} dozen"),
        ),
        events=_events("{name}", " {thing}"),
        question="How many {thing} does {name} have?",
        mistake="factor",
    ),
    "percent": Family(
        openings=(Template("The shop has {n} {thing}.", "start"),),
        events=_events("The shop"),
        special=(
            Template("The shop on {day} uses up {p} percent.", "percent-", "{day} uses up {p} percent"),
            Template("The shop on {day} donates {p} percent.", "percent-", "{day} donates {p} percent"),
            Template("The shop on {day} adds {p} percent.", "percent+", "{day} adds {p} percent"),
            Template("The shop on {day} orders {p} percent.", "percent+", "{day} orders {p} percent"),
        ),
        question="How many {thing} does the shop have now?",
        mistake="factor",
    ),
    "equations": Family(
        openings=(
            Template("Solve {a} x + {b} = {c} for x.", "linear+", "{b}"),
            Template("Solve {a} x - {b} = {c} for x.", "linear-", "{b}"),
        ),
        events=(
            Template("Add {n}.", "+", "add {n}"),
            Template("Raise it by {n}.", "+", "raise it by {n}"),
            Template("Take away {n}.", "-", "take away {n}"),
            Template("Lower it by {n}.", "-", "lower it by {n}"),
        ),
        question="What is the last number?",
        mistake="drop",
    ),
    "office": Family(  # held out: its templates occur in no training text of any kind, though all of its words do
        openings=(
            Template("The worker has {n} {thing}.", "start"),
            Template("The worker packs {a} boxes with {b} {thing} each.", "*", "packs {a} boxes with {b} each"),
        ),
        events=_events("The worker"),
        question="How many {thing} does the worker have now?",
        mistake="wrong-op",
    ),
}
HELD_OUT = ("office",)


def steps_of(template: Template, slots: dict[str, str], total: int) -> tuple[Step, ...] | None:
    """The solution steps that a filled template adds to a running total, or None where a number leaves the world.

    A `start` template has no steps: see `open_problem`.
    """
    number = {name: int(value) for name, value in slots.items() if value.isdigit()}
    phrase = template.phrase.format_map(slots)
    rule = template.rule
    if rule in "+-":
        return _chain((phrase, total, rule, number["n"]))
    if rule == "*":
        return _chain((phrase, number["a"], "*", number["b"]))
    if rule in UNITS:
        return _chain((phrase, number["n"], "*", UNITS[rule][0]))
    if rule.startswith("percent"):
        first = _chain((phrase, total, "/", PERCENTS[number["p"]]))
        if not first:
            return None
        second = _chain((f"{first[0].result} {'fewer' if rule[-1] == '-' else 'more'}", total, rule[-1], first[0].result))
        return first + second if second else None
    if rule.startswith("linear"):
        undo = "-" if rule[-1] == "+" else "+"
        verb = "subtract" if undo == "-" else "add"
        first = _chain((f"{verb} {phrase}", number["c"], undo, number["b"]))
        second = first and _chain((f"divide by {number['a']}", first[0].result, "/", number["a"]))
        return first + second if first and second else None
    raise ValueError(f"unknown rule {rule!r}")


def open_problem(opening: Template, slots: dict[str, str]) -> tuple[tuple[Step, ...], int] | None:
    """The first steps of a solution and the total after a filled opening; a `start` has a total and no steps yet."""
    if opening.rule == "start":
        return (), int(slots["n"])
    steps = steps_of(opening, slots, 0)
    return (steps, steps[-1].result) if steps else None


def _chain(*parts: tuple[str, int, str, int]) -> tuple[Step, ...] | None:
    steps = []
    for phrase, left, op, right in parts:
        result = compute(left, op, right)
        if result is None:
            return None
        steps.append(Step(phrase, left, op, right, result))
    return tuple(steps)


def render_solution(steps: tuple[Step, ...], answer: int) -> str:
    """A worked solution, one line a step, ending in `\\boxed{answer}`."""
    lines = [f"Step {i}: {step.phrase}, so {step.equation}." for i, step in enumerate(steps, start=1)]
    return "\n".join([*lines, f"The answer is \\boxed{{{answer}}}."])


@dataclass(frozen=True)
class Reading:
    """What a question says once read: its family, the steps of its solution and its answer."""

    family: str
    steps: tuple[Step, ...]
    answer: int


_SLOT = {"name": r"[A-Z][a-z]+", "day": r"[A-Z][a-z]+", "thing": r"[a-z]+"}


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", text)
    seen: set[str] = set()
    pattern = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            seen.add(part)
            pattern += f"(?P<{part}>{_SLOT.get(part, '[0-9]+')})"
    return re.compile(pattern)


_PATTERNS = {
    name: (
        [(template, _pattern(template.text)) for template in family.openings],
        [(template, _pattern(template.text)) for template in family.special + family.events],
        _pattern(family.question),
    )
    for name, family in FAMILIES.items()
}


def read_question(question: str) -> Reading | None:
    """Reads a question of the lab world back from its words alone; None if any sentence is not of this world."""
    sentences = re.split(r"(?<=[.?])\s+", question.strip())
    for family, (openings, events, asked) in _PATTERNS.items():
        if len(sentences) < 2 or not asked.fullmatch(sentences[-1]):
            continue
        for template, pattern in openings:
            match = pattern.fullmatch(sentences[0])
            if match:
                return _read_events(family, template, match.groupdict(), sentences[1:-1], events)
    return None


def _read_events(
    family: str,
    opening: Template,
    slots: dict[str, str],
    sentences: list[str],
    events: list[tuple[Template, re.Pattern[str]]],
) -> Reading | None:
    begun = open_problem(opening, slots)
    if begun is None:
        return None
    steps, total = begun
    for sentence in sentences:
        found = next(((t, m) for t, p in events if (m := p.fullmatch(sentence))), None)
        added = steps_of(found[0], found[1].groupdict(), total) if found else None
        if added is None:
            return None
        steps, total = steps + added, added[-1].result
    return Reading(family, steps, total)
