"""What a command line asks for: the cells of its sweep files times the product of its overrides, each composed and checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cft_lab import preflight
from cft_lab.config import Config, ConfigError
from cft_lab.engines.api.settings import without_secrets
from cft_lab.final_table import label_cells
from cft_lab.hydra_config import SWEEPS, explain, sweep_names
from cft_lab.sweeps.cells import Sweep, TableCell, read_sweep

Compose = Callable[[Sequence[str]], Config]
_LISTED = 3  # cells that a message names before it counts


@dataclass(frozen=True, kw_only=True)
class AskedCell:
    """A cell that was asked for. `label` is its arm in the printed table: seeds of an arm share it.

    `sweep` is the name of the sweep file, empty for a plain grid, `published` the printed row that the cell answers to.
    """

    sweep: str
    row: str
    column: str
    label: str
    overrides: tuple[str, ...]
    published: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"sweeps/{self.sweep}.yaml, {self.label}" if self.sweep else self.label


@dataclass(frozen=True)
class Request:
    """The sweep files of a command line, in its order, and all cells that it asks for. `notes` are said before these are run."""

    sweeps: tuple[Sweep, ...]
    cells: tuple[AskedCell, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the sweep is called."""
        return "+".join(sweep.name for sweep in self.sweeps) or "grid"


def expand(arguments: Sequence[str], folder: Path = SWEEPS) -> Request:
    """Reads a command line as Hydra does: `a=1,2`, `a=choice(1,2)`, `a=range(3)`, `a=glob(*)`; `sweeps=` takes several files too.

    Hydra must be initialised. Raises ConfigError on an unknown or strange sweep file, and Hydra's errors on what it cannot parse.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, ValueType

    axes: dict[str, list[str]] = {}
    names: list[str] = []
    for override in OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(list(arguments)):
        key = override.get_key_element()
        if key == "sweeps" and override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            names += cast(Glob, override.value()).filter(sweep_names(folder))
        elif key == "sweeps":
            swept = override.is_sweep_override()
            names += list(override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
        elif not override.is_sweep_override():
            axes[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line} has no list of values: write {key}=1,2 or {key}=range(1,3)")
    sweeps = tuple(read_sweep(name, folder) for name in dict.fromkeys(names))
    if not sweeps:
        products = list(itertools.product(*axes.values()))
        labels = label_cells(products)
        return Request((), tuple(_plain(overrides, label) for overrides, label in zip(products, labels, strict=True)))
    notes = tuple(note for sweep in sweeps if (note := _note(sweep, axes)) is not None)
    return Request(sweeps, tuple(cell for sweep in sweeps for cell in _with_options(sweep, axes)), notes)


#: groups that choose what fields of published.csv name, though the sweep file may leave a choice to conf/config.yaml
_PUBLISHED_GROUPS = ("model", "method", "data")


def _changes_published(cell: TableCell, option: str) -> bool:
    """Whether an override of the command line makes another cell of the one that answers to a printed row.

    That is one of a field that the file sets otherwise, or that the printed row names; also of a field within such a group.
    """
    if cell.published is None:
        return False
    key, _, value = option.partition("=")
    key = key.lstrip("+~")
    if key in cell.overrides:
        return cell.overrides[key] != value
    group = key.partition(".")[0]
    conditions = {condition.partition("=")[0] for condition in cell.published["condition"].split(";")}
    named = {name for name in _PUBLISHED_GROUPS if cell.published[name]}
    return group in named or key in conditions


def _note(sweep: Sweep, axes: Mapping[str, Sequence[str]]) -> str | None:
    """Which overrides leave cells of a sweep file without their printed row, if any do."""
    changed = [
        option for options in axes.values() for option in options if any(_changes_published(cell, option) for cell in sweep.cells)
    ]
    if not changed:
        return None
    return (
        f"sweeps/{sweep.name}.yaml: {', '.join(changed)} makes other cells than the published ones, which answer to no printed row"
    )


def _plain(overrides: tuple[str, ...], label: str) -> AskedCell:
    return AskedCell(sweep="", row="", column="", label=label, overrides=overrides)


def _with_options(sweep: Sweep, axes: Mapping[str, Sequence[str]]) -> Iterator[AskedCell]:
    """The cells of a sweep file, each under every combination of the command line's overrides, which win."""
    for key in axes:
        if key.lstrip("+~") in sweep.varied:
            raise ConfigError(
                f"{axes[key][0]} on the command line, but {key} is what the cells of sweeps/{sweep.name}.yaml differ in: leave it "
                "out, or write a sweep file of your own"
            )
    own = label_cells([_texts(cell.overrides) for cell in sweep.cells])
    several = {name: values for name, values in axes.items() if len(values) > 1 and name != "seed"}
    for cell, unlabelled in zip(sweep.cells, own, strict=True):
        label = ", ".join(filter(None, (cell.row, cell.column))) or unlabelled
        kept = _texts({name: value for name, value in cell.overrides.items() if name not in axes})
        for options in itertools.product(*axes.values()):
            said = [option for name, option in zip(axes, options, strict=True) if name in several]
            yield _asked(sweep, cell, " ".join([label, *said]), (*kept, *options))


def _asked(sweep: Sweep, cell: TableCell, label: str, overrides: tuple[str, ...]) -> AskedCell:
    other = any(_changes_published(cell, option) for option in overrides)
    published = None if other else cell.published
    return AskedCell(sweep=sweep.name, row=cell.row, column=cell.column, label=label, overrides=overrides, published=published)


def _texts(overrides: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in overrides.items()]


def compose_all(cells: Sequence[AskedCell], compose: Compose) -> list[tuple[AskedCell, Config]]:
    """Every cell with its config, composed and checked. Raises ConfigError with all that is wrong, naming file, cell and field."""
    composed: list[tuple[AskedCell, Config]] = []
    problems = Problems()
    for cell in cells:
        try:
            config = compose(cell.overrides)
            preflight.check(config)
        except ConfigError as error:
            problems.add(cell, *error.problems)
        except Exception as error:
            told = explain(error)
            if told is None:
                raise
            problems.add(cell, told)
        else:
            composed.append((cell, config))
    _check_shared(composed, problems)
    problems.refuse(len(cells))
    return composed


def _check_shared(composed: Sequence[tuple[AskedCell, Config]], problems: Problems) -> None:
    """One store and one cluster for all: they are where the sweep is, and no part of a cell."""
    for cell, config in composed[1:]:
        first = composed[0][1]
        if config.output_root != first.output_root:
            problems.add(cell, f"output_root={config.output_root} differs from {first.output_root}: a sweep has one store")
        if config.cluster != first.cluster:
            problems.add(cell, "cluster differs from that of other cells: a sweep has one")


class Problems:
    """What is wrong with cells, each problem told once with the cells that have it."""

    def __init__(self) -> None:
        self._cells: dict[str, list[str]] = {}

    def add(self, cell: AskedCell, *problems: str) -> None:
        """Notes problems of a cell."""
        name = without_secrets(cell.name)
        for problem in problems:
            known = self._cells.setdefault(problem, [])
            if name not in known:
                known.append(name)

    def lines(self, asked: int) -> list[str]:
        """One line for each problem; a single cell that was asked for needs no name, unless a sweep file asks for it."""
        lines = []
        for problem, names in self._cells.items():
            if asked == 1 and not names[0].startswith("sweeps/"):
                lines.append(problem)
                continue
            more = f" and {len(names) - _LISTED} more cells" if len(names) > _LISTED else ""
            lines.append(f"{'; '.join(names[:_LISTED])}{more}: {problem}")
        return lines

    def refuse(self, asked: int) -> None:
        """Raises ConfigError if there is any problem."""
        if self._cells:
            raise ConfigError(*self.lines(asked))
