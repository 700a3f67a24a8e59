"""Units of measurement and currencies in answers: which words are units, and when two of them are the same. Nothing is converted."""

from __future__ import annotations

import re

#: every spelling -> one name; plurals in -s are understood
_SPELLINGS = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm", "m": "m meter metre", "km": "km kilometer kilometre",
    "nm": "nm nanometer", "um": "um micrometer micron", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "mg": "mg milligram", "g": "g gram gm", "kg": "kg kilogram", "lb": "lb lbs pound", "oz": "oz ounce", "ton": "ton tonne",
    "ms": "ms millisecond", "s": "s sec second", "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "month": "month",
    "year": "yr year", "ml": "ml milliliter millilitre", "l": "l L liter litre", "gal": "gal gallon", "degree": "deg degree",
    "rad": "rad radian", "celsius": "celsius", "fahrenheit": "fahrenheit", "K": "K kelvin", "mph": "mph", "kmph": "kmph",
    "N": "N newton", "J": "J joule", "kJ": "kJ kilojoule", "W": "W watt", "kW": "kW kilowatt", "V": "V volt", "A": "A amp ampere",
    "ohm": "ohm", "Pa": "Pa pascal", "kPa": "kPa", "atm": "atm", "Hz": "Hz hertz", "kHz": "kHz", "MHz": "MHz", "mol": "mol mole",
    "eV": "eV", "MeV": "MeV", "C": "coulomb", "T": "tesla", "erg": "erg", "pc": "pc parsec", "AU": "AU",
    "dollar": "dollar dollars usd USD ¤", "cent": "cent ¢", "euro": "euro €", "gbp": "£ gbp GBP", "yen": "yen ¥", "rupee": "rupee ₹",
    "unit": "unit units",
}  # fmt: skip
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
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
