"""Units of measurement and currencies: which words are units, and when two of them are the same. Nothing is converted."""

from __future__ import annotations

import re

#: the spellings of each unit, its name first; plurals in -s are understood
_SPELLINGS = (
    "mm millimeter millimetre; cm centimeter centimetre; dm; m meter metre; km kilometer kilometre; nm nanometer; um micrometer; "
    "in inch inches; ft foot feet; yd yard; mi mile; mg milligram; g gram gm; kg kilogram; lb lbs pound; oz ounce; ton tonne; "
    "ms millisecond; s sec second; min minute; h hr hour; day; week; month; year yr; ml milliliter millilitre; l L liter litre; "
    "gal gallon; degree deg; rad radian; celsius; fahrenheit; K kelvin; mph; kmph; N newton; J joule; kJ kilojoule; W watt; "
    "kW kilowatt; V volt; A amp ampere; ohm; Pa pascal; kPa; atm; Hz hertz; kHz; MHz; mol mole; eV; MeV; coulomb; tesla; erg; "
    "pc parsec; AU; dollar usd USD ¤; cent ¢; euro €; GBP gbp £; yen ¥; rupee ₹; unit"
)
_NAMES = {word: words.split()[0] for words in _SPELLINGS.split(";") for word in words.split()}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
CURRENCY_SIGNS = "¤£€¥₹¢"


def known_unit(words: str, power: str = "") -> str | None:
    """The one name of a unit like "square inches", "cm^2", "m/s" or "km per hour"; None if a word in it is no unit.

    `unit` itself ("10 units") names no unit that could differ from another, so it is None as well.
    """
    tokens = re.findall(r"[a-zA-Z¤£€¥₹¢]+|/|\d+", words)
    if not tokens or len(tokens) > 8:
        return None
    parts: list[str] = []
    coming = 1
    for token in tokens:
        name = _name(token)
        if token in _POWERS:
            if parts and token.endswith("d"):
                parts[-1] += str(_POWERS[token])
            else:
                coming = _POWERS[token]
        elif token in ("/", "per"):
            parts.append("/")
        elif token.isdigit():
            if not parts:
                return None
            parts[-1] += token
        elif name is None:
            return None
        else:
            parts.append(name + (str(coming) if coming > 1 else ""))
            coming = 1
    joined = "".join(parts) + power
    joined = {"mi/h": "mph", "km/h": "kmph"}.get(joined, joined)
    return None if joined.startswith("unit") or not joined.strip("/") else joined


def is_unit_word(word: str) -> bool:
    """Whether one word (of two letters or more) is a spelling of a unit."""
    return len(word) > 1 and (_name(word) is not None or word.lower() in _POWERS)


def _name(word: str) -> str | None:
    for form in (word, word.lower()):
        if form in _NAMES:
            return _NAMES[form]
        if len(form) > 2 and form.endswith("s") and form[:-1] in _NAMES:
            return _NAMES[form[:-1]]
    return None
