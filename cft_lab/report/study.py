"""The sweeps of a report with the arms that a store has for their cells; composed and matched once for tables and claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.hydra_config import SWEEPS, Composer, initialized
from cft_lab.json_files import read_json
from cft_lab.published import PRINTED_BENCHMARKS, PublishedValue, published_values
from cft_lab.report.arms import Arm, Matcher
from cft_lab.report.commands import Commands
from cft_lab.report.measure import Measures
from cft_lab.report.tables import AVG
from cft_lab.results import Results
from cft_lab.sweeps.cells import Sweep
from cft_lab.sweeps.expand import AskedCell, compose_all, expand

PAPER, LAB = "paper", "lab"
Printed = tuple[str, str, str, str]  # model, method, data, condition of a printed row


@dataclass(frozen=True)
class SweepArms:
    """A sweep file with the arm of each of its cells, in its order. `benchmarks` are those of its cells, without AVG."""

    sweep: Sweep
    scale: str
    arms: tuple[Arm, ...]
    benchmarks: tuple[str, ...]

    def at(self, row: str, column: str = "") -> Arm:
        """The arm at a place. Raises ConfigError if there is none."""
        for arm in self.arms:
            if (arm.cell.row, arm.cell.column) == (row, column):
                return arm
        raise ConfigError(f"sweeps/{self.sweep.name}.yaml has no cell at row {row!r}, column {column!r}")


@dataclass
class Study:
    """What a report is made of. `overrides` are added to every cell, as on the command line of run.py."""

    results: Results
    version: str = "v1"
    overrides: Sequence[str] = ()
    folder: Path = SWEEPS
    _swept: dict[str, SweepArms] = field(default_factory=dict)

    @cached_property
    def measures(self) -> Measures:
        """Values and differences, computed once."""
        return Measures(self.results)

    @cached_property
    def commands(self) -> Commands:
        """What makes cells of this study."""
        return Commands(self.results.root, tuple(self.overrides))

    @cached_property
    def matcher(self) -> Matcher:
        """Finds the runs of cells."""
        return Matcher(self.results, self.commands, self._failures())

    def sweeps(self, names: Sequence[str]) -> list[SweepArms]:
        """The sweeps of these names. Raises ConfigError on one that is unknown, on cells that cannot be composed, and on overrides
        that a report does not take.
        """
        self._refuse_overrides()
        if missing := [name for name in dict.fromkeys(names) if name not in self._swept]:
            with initialized():
                asked = expand([*self.overrides, f"sweeps={','.join(missing)}"], self.folder)
                composer = Composer()
                for sweep in asked.sweeps:
                    cells = [cell for cell in asked.cells if cell.sweep == sweep.name]
                    self._swept[sweep.name] = self._matched(sweep, cells, composer)
        return [self._swept[name] for name in names]

    def _refuse_overrides(self) -> None:
        """A report takes every seed of the store that it is given."""
        remedies = {"seed": "a report takes every seed of a store: leave it out", "output_root": "name the store with --store"}
        named = {override.partition("=")[0].lstrip("+~"): override for override in self.overrides}
        if told := [f"{named[name]} is no override of a report: {remedy}" for name, remedy in remedies.items() if name in named]:
            raise ConfigError(*told)

    def _matched(self, sweep: Sweep, cells: Sequence[AskedCell], composer: Composer) -> SweepArms:
        if len(cells) > len(sweep.cells):
            raise ConfigError(f"an override of a report has one value, not several: {' '.join(self.overrides)}")
        if sweep.table and not self.overrides and not self._has_paper_scale:  # nothing to match: saves composing them
            arms = [Arm(f"{sweep.name}/{cell.label}", cell, None, self.commands) for cell in cells]
            return SweepArms(sweep, PAPER, tuple(arms), tuple(_benchmarks(cells)))
        composed = compose_all(cells, composer)
        arms = [self.matcher.match(cell, config) for cell, config in composed]
        benchmarks = dict.fromkeys(name for _, config in composed for name in config.benchmarks.names)
        lab = not sweep.table and all(config.model.scale == LAB for _, config in composed)
        return SweepArms(sweep, LAB if lab else PAPER, tuple(arms), tuple(benchmarks))

    @cached_property
    def _has_paper_scale(self) -> bool:
        """Whether anything of the paper's scale was run, or failed, in this store."""
        return bool(self.matcher.failures) or any(record.result.cell.get("model.scale") != LAB for record in self.results.records)

    def _failures(self) -> Mapping[str, str]:
        """Stage key -> why it failed in the newest sweep of the store that tried."""
        found = {}
        for file in sorted(self.results.root.glob("sweeps/*/failures/*.json")):
            told = self.results.reader.attempt(file, partial(_error_in, file), "retry the sweep")
            if told is not None:
                found[file.stem] = told
        return found

    def printed(self, table: int) -> Mapping[Printed, Mapping[str, float]]:
        """The printed rows of a table: benchmark (as printed) -> accuracy, a fraction."""
        rows: dict[Printed, dict[str, float]] = {}
        for value in published_values(table, self.version):
            rows.setdefault(_printed_row(value), {})[value.benchmark] = round(value.value / 100, 6)
        return rows

    def published(self, swept: SweepArms, cell: AskedCell) -> Mapping[str, float]:
        """The printed values that a cell answers to, by benchmark of the config and AVG; empty if it answers to none."""
        if swept.sweep.table is None or cell.published is None:
            return {}
        told = cell.published
        place = (told.get("model", ""), told.get("method", ""), told.get("data", ""), told.get("condition", ""))
        return beside(self.printed(swept.sweep.table).get(place, {}), swept.benchmarks)

    def published_mean(self, swept: SweepArms, cell: AskedCell, benchmark: str) -> float | None:
        """The printed value on a benchmark; for an AVG that is not printed, the mean of the printed cells if all are there."""
        row = self.published(swept, cell)
        if benchmark != AVG or AVG in row:
            return row.get(benchmark)
        known = [row[name] for name in swept.benchmarks if name in row]
        return round(sum(known) / len(known), 6) if known and len(known) == len(swept.benchmarks) else None


def beside(printed: Mapping[str, float], benchmarks: Sequence[str]) -> dict[str, float]:
    """A printed row by benchmark of the config; with its AVG only if that is over these benchmarks and no others."""
    row = {name: printed[told] for name, told in PRINTED_BENCHMARKS.items() if told in printed}
    if set(row) - {AVG} != set(benchmarks):
        row.pop(AVG, None)
    return row


def _error_in(file: Path) -> str:
    return str(read_json(file)["error"])


def _printed_row(value: PublishedValue) -> Printed:
    return value.model, value.method, value.data, value.condition


def _benchmarks(cells: Sequence[AskedCell]) -> Iterator[str]:
    """The benchmarks that cells name by their choice of the config group, without composing them."""
    import yaml

    choices = dict.fromkeys(item.partition("=")[2] for cell in cells for item in cell.overrides if item.startswith("benchmarks="))
    for choice in choices:
        written = yaml.safe_load((PROJECT_ROOT / "conf" / "benchmarks" / f"{choice}.yaml").read_text(encoding="utf-8"))
        yield from written["names"]
