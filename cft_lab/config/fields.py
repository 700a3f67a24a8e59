"""What a config field may hold, and the tools that read fields: bounds, key parts, checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import field
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be run. `problems` has one line for each thing that is wrong."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(ValueError):
    """The data cannot give what the config asks for, which shows only once they are made; the text names the remedy."""


def setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with its one-line doc and what it allows; bounds are inclusive and None is always allowed where it is a default."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every leaf field of a config as (dotted name, value, dataclass field), nested dataclasses opened."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{name}.")
        else:
            yield name, value, item


def check_fields(config: Any) -> list[str]:
    """One line for every field that is out of range; an empty list if all is well."""
    problems = []
    for name, value, item in fields_of(config):
        allowed = item.metadata
        values = list(value.values()) if isinstance(value, dict) else [value]
        if allowed.get("choices") and value not in allowed["choices"]:
            problems.append(f"{name}={value!r} is not allowed: choose one of {', '.join(allowed['choices'])}")
        low, high = allowed.get("low"), allowed.get("high")
        for number in values:
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                continue
            if (low is not None and not number >= low) or (high is not None and not number <= high):
                bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
                problems.append(f"{name}={value!r} is out of range: {item.metadata['doc']}, {bounds}")
                break
    return problems
