"""Which results of a store belong to which cell of a table.

A cell is composed from its sweep file, once. A run of it is found by the keys of its scores stages, which say all that can change
a number. Where the store has none under today's keys, a run whose recorded config is the cell's, but which was made by other
versions (of the benchmark, the graders, prompts, stages), stands in, and is told. Results that share a cell's labels and differ in
other settings are refused by naming these. Runs that differ in their seed only are one arm.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cft_lab import pipeline
from cft_lab.config import NOT_IN_KEYS, Config, DataError
from cft_lab.records import Score
from cft_lab.report.commands import Commands
from cft_lab.report.tables import ArmTrace, RunTrace
from cft_lab.results import CellRecord, Results
from cft_lab.store import DONE, MANIFEST, PRUNED, Stage
from cft_lab.sweeps.expand import AskedCell

#: fields that say which cell of a table a result was meant for
_LABELS = ("model.name", "method.name", "data.name", "responses.name", "teacher.name", "inference.name", "temperature")
_OF_A_BASE = ("model.name", "method.name", "inference.name", "temperature")
#: fields that decide neither which arm a run belongs to nor what was measured on one benchmark
_NOT_OF_AN_ARM = NOT_IN_KEYS | {"seed", "benchmarks.names", "benchmarks.name"}
_TOLD = 4  # differing fields, or results, that a line names before it counts


@dataclass(frozen=True)
class Measured:
    """One run's score on one benchmark: the score, the key of its stage, the record that names it, and its version.

    `version` is what its `items` and its `graders` were, as JSON; None where the store does not say.
    """

    score: Score
    key: str
    record: CellRecord
    version: Mapping[str, str | None]
    today: bool  # made by today's versions of all stages


@dataclass(frozen=True)
class Run:
    """One seed of an arm: what was measured, by benchmark. `training` is the key of its training, None for a base model."""

    seed: int
    measured: Mapping[str, Measured]
    training: str | None

    @property
    def scores_keys(self) -> tuple[str, ...]:
        """What makes two runs the same: a greedy base model is measured once, whatever the seed."""
        return tuple(found.key for found in self.measured.values())


@dataclass(frozen=True)
class Arm:
    """A cell and its distinct runs. `reason` says why there is none, if something other than nobody having run it (`state`)."""

    id: str
    cell: AskedCell
    config: Config | None
    commands: Commands
    runs: tuple[Run, ...] = ()
    seeds: tuple[int, ...] = ()  # all that were run, also those that came out as the same run
    state: str = "missing"
    reason: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the arm is called."""
        return self.cell.label

    @property
    def trained(self) -> bool:
        """Whether a training stands behind it, so that another seed gives another model."""
        return self.config is not None and self.config.method.name != "base"

    @property
    def command(self) -> str:
        """What makes the arm's runs, or the cell if there are none."""
        return self.commands.cell(self.cell, self.config, tuple(run.seed for run in self.runs))

    def on(self, benchmark: str) -> tuple[Run, ...]:
        """The runs that were measured on a benchmark."""
        return tuple(run for run in self.runs if benchmark in run.measured)

    def trace(self) -> ArmTrace:
        """Where its numbers come from."""
        traces = [_run_trace(run, record) for run in self.runs for record in _records(run)]
        return ArmTrace(self.id, self.label, self.command, tuple(self.cell.overrides), tuple(traces))


def _records(run: Run) -> list[CellRecord]:
    return list({found.record.key: found.record for found in run.measured.values()}.values())


def _run_trace(run: Run, record: CellRecord) -> RunTrace:
    told = record.manifest
    keys = {name: key for name, key in record.result.keys.items() if name.partition("/")[2] in ("", *run.measured)}
    return RunTrace(
        record.key,
        run.seed,
        keys,  # without benchmarks of the record that the cell does not ask for
        str(told["created"]),
        told.get("commit"),
        told.get("uncommitted_changes"),
        dict(told.get("packages") or {}),
    )


@dataclass
class Matcher:
    """Finds the runs of cells in a store. `failures` is why stages failed in sweeps of the store, by key."""

    results: Results
    commands: Commands
    failures: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _by_scores(self) -> dict[str, tuple[Score, CellRecord]]:
        """Scores key -> score and the first record that names it."""
        found: dict[str, tuple[Score, CellRecord]] = {}
        for record in self.results.records:
            for score in record.result.scores:
                found.setdefault(record.result.keys[f"scores/{score.benchmark}"], (score, record))
        return found

    @cached_property
    def _by_labels(self) -> dict[tuple[Any, ...], list[CellRecord]]:
        found: dict[tuple[Any, ...], list[CellRecord]] = {}
        for record in self.results.records:
            found.setdefault(_labels_of(record.result.cell), []).append(record)
        return found

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds of all results in the store."""
        return sorted({record.seed for record in self.results.records})

    def match(self, cell: AskedCell, config: Config) -> Arm:
        """The arm of a composed cell."""
        plans = dict(self._plans(config))
        described = pipeline.describe(config)
        labelled = self._by_labels.get(_labels_of(described), [])
        refused = _Refused(described, {override.partition("=")[0].lstrip("+~") for override in cell.overrides})
        same = [record for record in labelled if refused.allows(record)]
        arm_id = plans[0].key[:12] if 0 in plans else f"{cell.sweep}/{cell.label}"
        runs, notes = self._runs(config, plans, same)
        seeds = tuple(run.seed for run in runs)
        used = {record.key for run in runs for record in _records(run)}
        notes += refused.lines(used) if runs else []
        distinct = tuple({run.scores_keys: run for run in reversed(runs)}.values())[::-1]
        arm = Arm(arm_id, cell, config, self.commands, distinct, seeds, "measured", None, tuple(notes))
        if runs:
            return arm
        if refused.lines():
            return dataclasses.replace(arm, state="conflict", reason="; ".join(refused.lines()), notes=tuple(notes))
        if notes:
            return dataclasses.replace(arm, state="conflict", reason="; ".join(notes), notes=())
        why = next((reason for plan in plans.values() if (reason := self._failure(plan))), None)
        return dataclasses.replace(arm, state="failed" if why else "missing", reason=why)

    def _plans(self, config: Config) -> Iterator[tuple[int, Stage]]:
        """Seed -> the result stage of the cell with that seed, for every seed in the store; nothing if data files are not here."""
        for seed in dict.fromkeys([config.seed, *self.seeds]):
            try:
                yield seed, pipeline.plan(dataclasses.replace(config, seed=seed)).result
            except DataError:
                return

    def _runs(self, config: Config, plans: Mapping[int, Stage], same: Sequence[CellRecord]) -> tuple[list[Run], list[str]]:
        """The runs of a cell by seed, those of today's keys if there are any, and what is to be said about others."""
        today: list[Run] = []
        for seed in self.seeds:
            stages = _scored(plans[seed]) if seed in plans else {}
            found = {name: self._of_today(stage) for name, stage in stages.items() if stage.key in self._by_scores}
            if found:
                today.append(Run(seed, found, _training(next(iter(found.values())).record)))
        other, notes = self._other(config, same, {found.key for run in today for found in run.measured.values()})
        if today:
            left = [run for run in other if run.seed not in {known.seed for known in today}]
            if left:
                seeds = _listed(run.seed for run in left)
                notes.append(
                    f"seeds {seeds} were made by other versions ({self._versions(left, plans)}) and are left out: run them again"
                )
            return today, notes
        if other and plans:
            notes.append(f"made by other versions than today's: {self._versions(other, plans)}")
        return other, notes

    def _of_today(self, stage: Stage) -> Measured:
        score, record = self._by_scores[stage.key]
        return Measured(score, stage.key, record, _version(stage.upstream["generations"].config, stage.config), today=True)

    def _other(self, config: Config, same: Sequence[CellRecord], known: set[str]) -> tuple[list[Run], list[str]]:
        """Runs with the cell's config under other keys; several for one seed and benchmark are refused."""
        runs, notes = [], []
        for seed in dict.fromkeys(record.seed for record in same):
            found: dict[str, Measured] = {}
            for benchmark in config.benchmarks.names:
                choices = {
                    record.result.keys[f"scores/{score.benchmark}"]: (score, record)
                    for record in same
                    for score in record.result.scores
                    if record.seed == seed and score.benchmark == benchmark
                }
                if choices.keys() & known:
                    continue
                if len(choices) > 1:
                    differing = self._differing([record.result.keys for _, record in choices.values()])
                    named = _listed(record.key for _, record in choices.values())
                    notes.append(
                        f"seed {seed} has {len(choices)} results on {benchmark} ({named}) that differ in their stages {differing}: "
                        "delete those that are not wanted, or run the cell again"
                    )
                elif choices:
                    ((key, (score, record)),) = choices.items()
                    found[benchmark] = Measured(score, key, record, self._recorded_version(record, benchmark), today=False)
            if found:
                runs.append(Run(seed, found, _training(next(iter(found.values())).record)))
        return sorted(runs, key=lambda run: run.seed), list(dict.fromkeys(notes))

    def _recorded_version(self, record: CellRecord, benchmark: str) -> Mapping[str, str | None]:
        """The version of items and graders by the manifests of the store. One that is not there is noted."""
        reader, told = self.results.reader, []
        for stage, what in (("generations", "items"), ("scores", "graders")):
            key = record.result.keys[f"{stage}/{benchmark}"]
            manifest = reader.manifest(stage, key)
            path = reader.folder(stage, key) / MANIFEST
            if manifest is None and not path.exists():
                reader.note(path, f"it is not there: nothing says which {what} these are", "import it again, or run the cell")
            told.append((manifest or {}).get("config") or {})
        return _version(*told)

    def _versions(self, runs: Sequence[Run], plans: Mapping[int, Stage]) -> str:
        """The first stages, upstream first, in which runs are not what they would be today."""
        differing: dict[str, None] = {}
        for run in runs:
            planned = {stage.key for plan in [plans.get(run.seed)] if plan for stage in plan.walk()}
            keys = {name: key for record in _records(run) for name, key in record.result.keys.items()}
            names = [n for n, key in keys.items() if key not in planned and n.partition("/")[2] in ("", *run.measured)]
            differing |= dict.fromkeys(names[:1] + [name for name in names if name.startswith("scores")][:1])
        return f"stages {_listed(differing)}" if differing else "versions that the store does not name"

    @staticmethod
    def _differing(keys: Sequence[Mapping[str, str]]) -> str:
        names = dict.fromkeys(name for named in keys for name in named)
        return _listed(name for name in names if len({named.get(name) for named in keys}) > 1)

    def _failure(self, plan: Stage) -> str | None:
        """Why a cell has no result, if a sweep of this store has tried."""
        if not self.failures:
            return None
        for stage in plan.walk():
            folder = self.results.reader.folder(stage.name, stage.key)
            if stage.key in self.failures and not any((folder / mark).exists() for mark in (DONE, PRUNED)):
                return f"{self.failures[stage.key]} (in {stage.name} {stage.key})"
        return None

    def failed_seeds(self, arm: Arm, seeds: Sequence[int]) -> Iterator[str]:
        """What to say of those of these seeds that the arm has not, unless they would come out as a run that is there."""
        if arm.config is None or not arm.runs:
            return
        lacking: dict[str, list[int]] = {}
        for seed in (seed for seed in seeds if seed not in arm.seeds):
            try:
                plan = pipeline.plan(dataclasses.replace(arm.config, seed=seed)).result
            except DataError:
                return
            if {stage.key for stage in _scored(plan).values()} <= {key for run in arm.runs for key in run.scores_keys}:
                continue
            why = self._failure(plan)
            lacking.setdefault(f"failed: {why}" if why else "not run", []).append(seed)
        for why, those in lacking.items():
            named = f"seeds {', '.join(map(str, those))}" if len(those) > 1 else f"seed {those[0]}"
            yield f"{arm.label} has no {named} ({why}): `{self.commands.cell(arm.cell, arm.config, those)}`"


class _Refused:
    """Results with a cell's labels and other settings, by what they differ in.

    A field that the cell was `asked` with tells cells apart: who asks for train.lr=1e-4 means no result at another rate.
    """

    def __init__(self, described: Mapping[str, Any], asked: Set[str] = frozenset()) -> None:
        self._asked = asked
        self._described = {name: _plain(value) for name, value in described.items() if name not in _NOT_OF_AN_ARM}
        self._found: dict[str, list[str]] = {}

    def allows(self, record: CellRecord) -> bool:
        """Whether a record's config is the cell's; notes it if not. Fields that either did not have yet are not compared."""
        cell = record.result.cell
        differing = [
            name for name, value in self._described.items() if name in cell and _matters(name, cell) and _plain(cell[name]) != value
        ]
        told = [f"{name}={cell[name]} (not {json.loads(self._described[name])})" for name in differing]
        if told and not self._asked & set(differing):
            more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
            self._found.setdefault(", ".join(told[:_TOLD]) + more, []).append(record.key)
        return not told

    def lines(self, used: Collection[str] = ()) -> list[str]:
        """One line for each set of differences, without results that are `used` because the fields do not matter to this cell."""
        left = {told: [key for key in keys if key not in used] for told, keys in self._found.items()}
        return [
            f"refused: results with other settings than this cell: {told} ({_listed(keys)})" for told, keys in left.items() if keys
        ]


def _matters(name: str, cell: Mapping[str, Any]) -> bool:
    """Whether a field can change what a cell measures: a base model is not trained."""
    group, method = name.split(".")[0], cell.get("method.name")
    if group == "mix_data":
        return method == "mix"
    return method != "base" or group not in ("data", "responses", "teacher", "train", "decontamination")


def _labels_of(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell.get(name) for name in (_OF_A_BASE if cell.get("method.name") == "base" else _LABELS))


def _scored(result: Stage) -> dict[str, Stage]:
    """The scores stages of a result by benchmark."""
    return {name: stage for name, stage in result.upstream.items() if stage.name == "scores"}


def _training(record: CellRecord) -> str | None:
    return record.result.keys.get("candidates")


def _version(generated: Mapping[str, Any], scored: Mapping[str, Any]) -> dict[str, str | None]:
    told = {"items": generated.get("items"), "graders": scored.get("graders")}
    return {name: None if value is None else json.dumps(value, sort_keys=True, default=str) for name, value in told.items()}


def version_unlike(versions: Sequence[Mapping[str, str | None]]) -> list[str]:
    """In what these versions differ: items, graders, both or nothing. What is not known differs from nothing."""
    names = dict.fromkeys(name for version in versions for name in version)
    return [name for name in names if len({version.get(name) for version in versions} - {None}) > 1]


def _plain(value: Any) -> str:
    """A config value as it is after a round trip through JSON, where all keys are texts and all sequences lists."""
    return json.dumps(json.loads(json.dumps(value, default=str)), sort_keys=True)


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:_TOLD]) + (f" and {len(shown) - _TOLD} more" if len(shown) > _TOLD else "")
