"""Reads a page as a reader would: its numbers with the links beneath them, and what stands at each anchor."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "img", "hr", "input"}


@dataclass
class Number:
    """A measured number of the page: what it is, its text, the anchor that it leads to, and the benchmarks that an AVG is over."""

    stat: str
    benchmark: str
    href: str
    text: str = ""
    over: tuple[str, ...] = ()


@dataclass
class Anchor:
    """What stands within an element that has an id."""

    scores: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    roles: list[tuple[str, list[str]]] = field(default_factory=list)  # first or rival, and the arms' anchors


class PageReader(HTMLParser):
    """Reads a whole page: `numbers`, `anchors` by id, all `ids` and all `links` within the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[Number] = []
        self.anchors: dict[str, Anchor] = defaultdict(Anchor)
        self.ids: list[str] = []
        self.links: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._number: Number | None = None
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append((tag, given.get("id")))
        if "id" in given:
            self.ids.append(given["id"])
        around = [self.anchors[name] for _, name in self._open if name]
        for anchor in around:
            anchor.scores += [given["data-scores"]] if "data-scores" in given else []
            anchor.results += [given["data-result"]] if "data-result" in given else []
            if "data-role" in given:
                anchor.roles.append((given["data-role"], []))
        href = given.get("href", "")
        if tag == "a" and href.startswith("#"):
            self.links.append(href[1:])
            for anchor in around:
                if anchor.roles and href.startswith("#p-"):
                    anchor.roles[-1][1].append(href[1:])
        if "data-stat" in given:
            self._number = Number(given["data-stat"], given.get("data-benchmark", ""), href.removeprefix("#"))
            self._number.over = tuple(given.get("data-over", "").split())
            self.numbers.append(self._number)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        name, _ = self._open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        if tag == "a":
            self._number = None

    def handle_data(self, data: str) -> None:
        if self._number is not None:
            self._number.text += data
