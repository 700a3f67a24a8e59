"""Sweep files: the cells of a table, as overrides of the command line.

    caption: what a reader of the table is told
    benchmarks: math6                 # the group's choice for every cell
    table: 2                          # the published table whose rows the cells answer to, if any
    common: {model: qwen2.5-math-7b}  # overrides of every cell
    grids:                            # each is a product of its lists; `zip` holds lists that go together
      - {method: [sft, cft], data: [metamath, numina]}
      - {zip: {inference: [direct, two-stage], temperature: [0.0, 0.6]}}
    cells:                            # further cells, one by one
      - {method: base}
    exclude:                          # cells that a grid has and the table has not
      - {method: sft, data: numina}
    labels:                           # each line is said of every cell that has all its overrides
      - {where: {method: sft}, column: SFT, published: {method: sft}}
    deltas:                           # differences to report: for each value of `by`, one cell minus the best of others
      - {label: CFT - best SFT, by: [model], first: {method: cft}, rivals: {method: [sft, sft-verified]}}

All values are texts, as on the command line; what the command line adds, it adds to every cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.hydra_config import SWEEPS, sweep_names

Overrides = Mapping[str, str]

_FIELDS = ("caption", "benchmarks", "table", "common", "grids", "cells", "exclude", "labels", "deltas")
_DELTA_FIELDS = ("label", "by", "first", "rivals")
_LABEL_FIELDS = ("where", "row", "column", "published")
#: fields of published.csv; a condition is given as a mapping, and printed as name=value;name=value
_PUBLISHED_FIELDS = ("model", "method", "data", "condition")
_CONDITION = "published.condition."


@dataclass(frozen=True)
class TableCell:
    """One cell of a table: its overrides, where it stands, and the printed row that it answers to (fields of published.csv)."""

    overrides: Overrides
    row: str = ""
    column: str = ""
    published: Overrides | None = None


@dataclass(frozen=True)
class DeltaRow:
    """A difference that a report shows: a cell minus the best of others, by their places in `Sweep.cells`."""

    label: str
    first: int
    rivals: tuple[int, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep file. `table` is the number of the published table."""

    name: str
    file: Path
    caption: str
    table: int | None
    cells: tuple[TableCell, ...]
    deltas: tuple[DeltaRow, ...] = ()

    @property
    def varied(self) -> set[str]:
        """The overrides in which cells differ: they are the table's own, and no command line's."""
        every = {name for cell in self.cells for name in cell.overrides}
        return {name for name in every if len({cell.overrides.get(name) for cell in self.cells}) > 1}


def read_sweep(name: str, folder: Path = SWEEPS) -> Sweep:
    """Reads sweeps/<name>.yaml. Raises ConfigError naming the file, the place and the remedy."""
    names = sweep_names(folder)
    if name not in names:
        raise ConfigError(f"sweeps={name} is not a sweep file: choose from {', '.join(names)}, or write {folder / f'{name}.yaml'}")
    file = folder / f"{name}.yaml"
    try:
        written = _load(file)
        _allow(written, _FIELDS, "the file")
        table = written.get("table")
        if table is not None and not str(table).isdigit():
            raise _StrangeError(f"table: {table!r} is no number: name the published table, such as 2")
        caption, cells = _text(written.get("caption", ""), "caption"), _cells(written)
        return Sweep(name, file, caption, int(table) if table else None, cells, tuple(_deltas(written, cells)))
    except _StrangeError as error:
        raise ConfigError(f"{_shown(file)}, {error}") from None


class _StrangeError(ValueError):
    """What is wrong in a sweep file, and where; the file is added to it."""


def _load(file: Path) -> dict[str, Any]:
    import yaml

    class Texts(yaml.BaseLoader):
        """Every value as the text that stands there; a key that is given twice is refused."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise _StrangeError(f"line {node.start_mark.line + 1}: {key!r} is given twice: keep one")
            return super().construct_mapping(node, deep)

    try:
        written = yaml.load(file.read_text(encoding="utf-8"), Texts)  # noqa: S506  (BaseLoader makes texts, lists and mappings only)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _StrangeError(f"is not YAML: {error}") from None
    return _mapping(written, "the file")


def _cells(written: Mapping[str, Any]) -> tuple[TableCell, ...]:
    common = _overrides(written.get("common", {}), "common")
    if "benchmarks" in written:
        common = {"benchmarks": _text(written["benchmarks"], "benchmarks"), **common}
    made: list[dict[str, str]] = []
    origin: list[str] = []
    for place, grid in _numbered(written, "grids"):
        for overrides in _grid(_mapping(grid, place), place):
            made.append(overrides)
            origin.append(place)
    for place, cell in _numbered(written, "cells"):
        made.append(_overrides(cell, place))
        origin.append(place)
    whole = [_joined(common, overrides, place) for overrides, place in zip(made, origin, strict=True)]
    kept = _without(whole, written)
    if not kept:
        raise _StrangeError("it has no cells: add some under grids or cells")
    for first, second in itertools.combinations(range(len(whole)), 2):
        if whole[first] == whole[second]:
            raise _StrangeError(
                f"{origin[second]}: the cell {_told(whole[second])} is in {origin[first]} already: exclude it, or write it once"
            )
    return _labelled(kept, written)


def _grid(grid: Mapping[str, Any], place: str) -> Iterator[dict[str, str]]:
    """The product of a grid's lists; those under `zip` count as one."""
    if not grid:
        raise _StrangeError(f"{place} is empty: name overrides and their values, or remove it")
    axes: list[list[dict[str, str]]] = []
    for name, values in grid.items():
        if name == "zip":
            axes.append(_zipped(_mapping(values, f"{place}.zip"), f"{place}.zip"))
        else:
            axes.append([{name: value} for value in _list(values, f"{place}.{name}")])
    for parts in itertools.product(*axes):
        joined: dict[str, str] = {}
        for part in parts:
            joined = _joined(joined, part, place)
        yield joined


def _zipped(lists: Mapping[str, Any], place: str) -> list[dict[str, str]]:
    columns = {name: _list(values, f"{place}.{name}") for name, values in lists.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if not columns:
        raise _StrangeError(f"{place} is empty: name overrides whose values go together, or remove it")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise _StrangeError(f"{place}: its lists must be equally long, but {told}: add or remove values")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _without(cells: list[dict[str, str]], written: Mapping[str, Any]) -> list[dict[str, str]]:
    """The cells that no line of `exclude` fits."""
    excluded: set[int] = set()
    for place, line in _numbered(written, "exclude"):
        fits = {index for index, cell in enumerate(cells) if _fits(cell, _conditions(line, place))}
        if not fits:
            raise _StrangeError(f"{place}: {dict(line)} excludes nothing: correct or remove it")
        excluded |= fits
    return [cell for index, cell in enumerate(cells) if index not in excluded]


def _labelled(cells: Sequence[Overrides], written: Mapping[str, Any]) -> tuple[TableCell, ...]:
    """The cells with what the lines of `labels` say of them."""
    said: list[dict[str, str]] = [{} for _ in cells]
    for place, line in _numbered(written, "labels"):
        _allow(_mapping(line, place), _LABEL_FIELDS, place)
        where = _conditions(line.get("where", {}), f"{place}.where")
        fits = [index for index, cell in enumerate(cells) if _fits(cell, where)]
        if not fits:
            raise _StrangeError(f"{place}: where={where} fits no cell: correct or remove it")
        for index in fits:
            said[index] = _joined(said[index], _label(line, place), f"{place}, cell {_told(cells[index])}")
    labelled = [_with_labels(overrides, labels) for overrides, labels in zip(cells, said, strict=True)]
    _refuse_shared_places(labelled)
    return tuple(labelled)


def _label(line: Mapping[str, Any], place: str) -> dict[str, str]:
    """What a line of `labels` says, by dotted names: row, column, published.model, published.condition.temperature."""
    said = {name: _text(line[name], f"{place}.{name}") for name in ("row", "column") if name in line}
    published = dict(_mapping(line.get("published", {}), f"{place}.published"))
    _allow(published, _PUBLISHED_FIELDS, f"{place}.published")
    condition = _overrides(published.pop("condition", {}), f"{place}.published.condition")
    said |= {f"published.{name}": _text(value, f"{place}.published.{name}") for name, value in published.items()}
    return said | {f"{_CONDITION}{name}": value for name, value in condition.items()}


def _with_labels(overrides: Overrides, said: Mapping[str, str]) -> TableCell:
    condition = ";".join(f"{name.removeprefix(_CONDITION)}={said[name]}" for name in said if name.startswith(_CONDITION))
    fields = {name: said.get(f"published.{name}", "") for name in _PUBLISHED_FIELDS} | {"condition": condition}
    published = fields if any(fields.values()) else None
    return TableCell(overrides, said.get("row", ""), said.get("column", ""), published)


def _refuse_shared_places(cells: Sequence[TableCell]) -> None:
    taken: dict[tuple[str, str], TableCell] = {}
    for cell in cells:
        other = taken.setdefault((cell.row, cell.column), cell)
        if other is not cell and (cell.row or cell.column):
            raise _StrangeError(
                f"labels: the cells {_told(other.overrides)} and {_told(cell.overrides)} stand at the same place, "
                f"row {cell.row!r}, column {cell.column!r}: label what they differ in"
            )


def _deltas(written: Mapping[str, Any], cells: Sequence[TableCell]) -> Iterator[DeltaRow]:
    """The lines of `deltas`, each once for every group of cells that agree in its `by`."""
    for place, line in _numbered(written, "deltas"):
        _allow(_mapping(line, place), _DELTA_FIELDS, place)
        label = _text(line.get("label", ""), f"{place}.label")
        by = _list(line["by"], f"{place}.by") if "by" in line else []
        chosen = {part: _conditions(line.get(part, {}), f"{place}.{part}") for part in ("first", "rivals")}
        groups: dict[tuple[str | None, ...], dict[str, list[int]]] = {}
        for index, cell in enumerate(cells):
            found = groups.setdefault(tuple(cell.overrides.get(name) for name in by), {"first": [], "rivals": []})
            for part, where in chosen.items():
                found[part] += [index] if _fits(cell.overrides, where) else []
        whole = [found for found in groups.values() if found["first"] and found["rivals"]]
        if not whole:
            raise _StrangeError(f"{place}: no group of cells has both first and rivals: correct or remove it")
        for found in whole:
            if len(found["first"]) > 1 or set(found["first"]) & set(found["rivals"]):
                raise _StrangeError(
                    f"{place}: first must be one cell, and none of its rivals: add what tells them apart, or to `by`"
                )
            yield DeltaRow(label, found["first"][0], tuple(found["rivals"]))


def _fits(cell: Overrides, where: Mapping[str, Sequence[str]]) -> bool:
    return all(cell.get(name) in values for name, values in where.items())


def _conditions(written: Any, place: str) -> dict[str, list[str]]:
    """Override -> the values that fit: one, or a list of them."""
    named = _mapping(written, place)
    if not named:
        raise _StrangeError(f"{place} is empty: name at least one override")
    return {n: _list(v, f"{place}.{n}") if isinstance(v, list) else [_text(v, f"{place}.{n}")] for n, v in named.items()}


def _overrides(written: Any, place: str) -> dict[str, str]:
    return {name: _text(value, f"{place}.{name}") for name, value in _mapping(written, place).items()}


def _joined(first: Overrides, second: Overrides, place: str) -> dict[str, str]:
    for name in second:
        if name in first:
            raise _StrangeError(f"{place}: {name} is set already ({first[name]!r}): keep one of them")
    return {**first, **second}


def _numbered(written: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    entries = written.get(name, [])
    if not isinstance(entries, list):
        raise _StrangeError(f"{name}: {entries!r} is no list: start each entry with a dash")
    for index, entry in enumerate(entries):
        yield f"{name}[{index}]", entry


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _StrangeError(f"{place}: {value!r} is no mapping: write name: value")
    return value


def _list(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not value:
        raise _StrangeError(f"{place}: {value!r} is no list of values: write [{value or 'a, b'}]")
    return [_text(item, place) for item in value]


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _StrangeError(f"{place}: {value!r} is not one value: a list or mapping is written as a text, such as '[a,b]'")
    return value


def _allow(written: Mapping[str, Any], allowed: Sequence[str], place: str) -> None:
    for name in written:
        if name not in allowed:
            raise _StrangeError(f"{place}: {name!r} is unknown: choose from {', '.join(allowed)}")


def _told(overrides: Overrides) -> str:
    return " ".join(f"{name}={value}" for name, value in overrides.items())


def _shown(file: Path) -> Path:
    return file.relative_to(PROJECT_ROOT) if file.is_relative_to(PROJECT_ROOT) else file
