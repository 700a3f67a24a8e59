"""Metrics: metrics.jsonl always, W&B on top when `tracking=wandb`.

Two kinds of W&B run: a train run (id = key of its candidates stage: curves) and a cell run (id = its result key: config,
scores, sample generations). The ids are the stage keys, and what was sent is noted in `<store>/tracking/`, so a resumed
run is the same run, a reused stage is not logged twice, and a stage that was made again replaces its run. Offline, each start of a
run is a segment of its own, a folder that holds the run from its first step on; `python -m cft_lab sync` uploads them. A run of a
sweep carries the sweep's name as its group and the places of the cells that stand on it as tags. What wandb collects by itself is
left out: the command line, the address of the git remote, the code and what was changed in it may hold secrets. wandb is imported
only when it is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab.config import TrackingConfig
from cft_lab.json_files import read_json, write_json
from cft_lab.locks import open_lock

METRICS = "metrics.jsonl"
TRACKING = "tracking"  # folder of the store with segments, marks of what was sent, and a lock for each run that is being written
_LONGEST_TAG, _LONGEST_GROUP = 64, 128  # characters that W&B takes


class MetricsFile:
    """Rows of {"step": n, ...} as JSON lines. Opening drops rows past `resume_step`: those steps are run again."""

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        path = folder / METRICS
        #: the rows that stand from an earlier, killed run
        self.kept: list[dict[str, Any]] = [row for row in read_metrics(folder) if row["step"] <= resume_step]
        rewritten = path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in self.kept), encoding="utf-8")
        os.replace(rewritten, path)
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; it reaches the operating system at once."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics file; an empty list if there is none."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # torn by a kill
            break
    return rows


@dataclass(frozen=True)
class Placement:
    """Where a run belongs in W&B."""

    group: str | None = None
    tags: tuple[str, ...] = ()


def placement(root: Path, key: str) -> Placement:
    """The sweep of a stage, the newest if there are several, and the tables, rows and columns of all cells that stand on the stage.

    Sweeps are read from their run folders in the store (cft_lab/sweeps/run_folder.py); one that cannot be read, which other
    commands refuse, does not stop a training. A stage of no sweep has no group and no tags.
    """
    group: str | None = None
    tags: dict[str, None] = {}
    for file in sorted(root.glob("sweeps/*/plan.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            plan = read_json(file)
            cells = _standing_on(key, plan)
            if cells:
                group = str(plan["name"])[:_LONGEST_GROUP]
            for cell in cells:
                places = {"table": cell["sweep"], "row": cell["row"], "column": cell["column"]}
                tags |= {placement_tag(kind, place): None for kind, place in places.items() if place}
    return Placement(group, tuple(tags))


def placement_tag(kind: str, place: str) -> str:
    """The tag of a run for its table, row or column."""
    return f"{kind}:{place}"[:_LONGEST_TAG]


def _standing_on(key: str, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of a frozen plan whose result stands on a stage, or is it."""
    standing = {key}
    for stage in plan["stages"]:  # upstream first
        if standing.intersection(stage["upstream"]):
            standing.add(stage["key"])
    return [cell for cell in plan["cells"] if cell["result"] in standing]


@functools.cache
def _leave_inherited_service(process: int) -> None:
    """Makes wandb start a helper process of this process's own, once. The helper of the process that started this one outlives this
    one: if this one is killed, it still has the run open, and refuses to open it for the process that resumes."""
    os.environ.pop("WANDB_SERVICE", None)


class Tracker:
    """Sends runs to W&B, or nowhere. What was sent whole is noted in the store, so that nothing is sent twice; what was made again
    since, under the same key, takes the place of what was sent."""

    def __init__(self, config: TrackingConfig, root: Path) -> None:
        self._config = config
        self._root = root

    @contextlib.contextmanager
    def train_run(self, key: str, config: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Gives a function that logs one metrics row of a training that is being made."""
        if self._config.kind != "wandb":
            yield lambda row: None
            return
        rows: list[Mapping[str, Any]] = []
        with self._locked(key):
            with self._run(key, "train", config) as run:

                def log(row: Mapping[str, Any]) -> None:
                    rows.append(row)
                    _log_row(run, row)

                yield log
            self._mark(key, "train", _hash(rows))

    def finished_train_run(self, key: str, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """The metrics rows of a finished training: it may have been made without tracking."""
        with self._sending(key, "train", _hash(rows)) as wanted:
            if wanted:
                with self._run(key, "train", config) as run:
                    for row in rows:
                        _log_row(run, row)

    def cell_run(
        self,
        key: str,
        config: Mapping[str, Any],
        scores: Mapping[str, float],
        samples: Mapping[str, list[list[Any]]],
        curve: Sequence[Mapping[str, int]],
        train_key: str | None,
        created: str,
    ) -> None:
        """Scores and sample generations of one cell; `samples` maps a table name to rows of SAMPLE_COLUMNS.

        `curve` has the candidates' validation scores as rows of step, correct and n; `created` is when the result was made.
        """
        with self._sending(key, "cell", created) as wanted:
            if not wanted:
                return
            import wandb

            linked = {**config, "train_run": train_key}
            with self._run(key, "cell", linked) as run:
                for place, row in enumerate(curve):
                    run.log({"selection/step": row["step"], "selection/accuracy": row["correct"] / row["n"]}, step=place)
                tables = {f"samples/{name}": wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows) for name, rows in samples.items()}
                run.log({**scores, **tables}, step=len(curve))

    @contextlib.contextmanager
    def _sending(self, key: str, kind: str, made: str) -> Iterator[bool]:
        """Whether a run is to be sent: then it is sent by one process, and marked when that has not failed.

        `made` is another one after the stage was made again.
        """
        if self._config.kind != "wandb" or self._is_sent(key, made):
            yield False
            return
        with self._locked(key):
            wanted = not self._is_sent(key, made)  # or somebody else sent it while we waited
            yield wanted
            if wanted:
                self._mark(key, kind, made)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        (self._root / TRACKING).mkdir(parents=True, exist_ok=True)
        with open_lock(self._root / TRACKING / key):
            yield

    def _is_sent(self, key: str, made: str) -> bool:
        """Whether a run was sent as it is now. Marks of older versions do not tell what they sent, and count for anything."""
        marker = self._marker(key)
        return marker.exists() and read_json(marker).get("made", made) == made

    def _mark(self, key: str, kind: str, made: str) -> None:
        about = {"run_id": key, "kind": kind, "project": self._config.project, "mode": self._config.mode, "made": made}
        write_json(self._marker(key), about)

    def _marker(self, key: str) -> Path:
        """Says that a run was sent whole; another project, entity or mode is another destination."""
        where = "-".join(filter(None, (self._config.mode, self._config.entity, self._config.project)))
        return self._root / TRACKING / f"{key}-{where}.json"

    def _run(self, key: str, kind: str, config: Mapping[str, Any]) -> Any:
        import wandb

        _leave_inherited_service(os.getpid())
        belongs = placement(self._root, key)
        online = self._config.mode == "online"
        return wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            mode="online" if online else "offline",
            dir=str(self._root / TRACKING),
            id=key,
            name=f"{kind}-{key}",
            job_type=kind,
            group=belongs.group,
            tags=list(belongs.tags),
            config=dict(config),
            resume="allow" if online and not self._marker(key).exists() else None,  # one that was sent whole is replaced
            reinit="finish_previous",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_machine_info=True),
        )


def _log_row(run: Any, row: Mapping[str, Any]) -> None:
    run.log({f"train/{name}": value for name, value in row.items() if name != "step"}, step=int(row["step"]))


def _hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of metrics rows: no two trainings have the same, for their rows hold how fast they were."""
    return hashlib.sha256("\n".join(json.dumps(row, sort_keys=True) for row in rows).encode()).hexdigest()[:16]


SAMPLE_COLUMNS = ("problem", "question", "gold", "text", "outcome")
