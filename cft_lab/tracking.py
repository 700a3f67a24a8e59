"""Metrics: metrics.jsonl always, W&B on top when `tracking=wandb`.

Two kinds of W&B run: a train run (id = key of its candidates stage: curves) and a cell run (id = its result key: config,
scores, sample generations). The ids are the stage keys, and what was sent is noted in `<store>/tracking/`, so a resumed
run is the same run and a reused stage is not logged twice. wandb is imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cft_lab.config import TrackingConfig
from cft_lab.json_files import write_json

METRICS = "metrics.jsonl"


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


class Tracker:
    """Sends runs to W&B, or nowhere. What was sent whole is noted in the store, so that nothing is sent twice."""

    def __init__(self, config: TrackingConfig, root: Path) -> None:
        self._config = config
        self._root = root

    @contextlib.contextmanager
    def train_run(self, key: str, config: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Gives a function that logs one metrics row, live or replayed; it does nothing if the run was sent before."""
        if not self._wanted(key):
            yield lambda row: None
            return
        with self._run(key, "train", config) as run:
            yield lambda row: run.log(
                {f"train/{name}": value for name, value in row.items() if name != "step"}, step=int(row["step"])
            )
        self._mark(key, "train")

    def cell_run(
        self,
        key: str,
        config: Mapping[str, Any],
        scores: Mapping[str, float],
        samples: Mapping[str, list[list[Any]]],
        curve: Sequence[Mapping[str, int]],
        train_key: str | None,
    ) -> None:
        """Scores and sample generations of one cell; `samples` maps a table name to rows of SAMPLE_COLUMNS.

        `curve` has the candidates' validation scores as rows of step, correct and n.
        """
        if not self._wanted(key):
            return
        import wandb

        linked = {**config, "train_run": train_key}
        with self._run(key, "cell", linked) as run:
            for place, row in enumerate(curve):
                run.log({"selection/step": row["step"], "selection/accuracy": row["correct"] / row["n"]}, step=place)
            tables = {f"samples/{name}": wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows) for name, rows in samples.items()}
            run.log({**scores, **tables}, step=len(curve))
        self._mark(key, "cell")

    def _wanted(self, key: str) -> bool:
        return self._config.kind == "wandb" and not self._marker(key).exists()

    def _marker(self, key: str) -> Path:
        """Says that a run was sent whole; another project, entity or mode is another destination."""
        where = "-".join(filter(None, (self._config.mode, self._config.entity, self._config.project)))
        return self._root / "tracking" / f"{key}-{where}.json"

    def _mark(self, key: str, kind: str) -> None:
        path = self._marker(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"run_id": key, "kind": kind, "project": self._config.project, "mode": self._config.mode})

    def _run(self, key: str, kind: str, config: Mapping[str, Any]) -> Any:
        import wandb

        folder = self._root / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            mode="online" if self._config.mode == "online" else "offline",
            dir=str(folder),
            id=key,
            name=f"{kind}-{key}",
            job_type=kind,
            config=dict(config),
            resume="allow" if self._config.mode == "online" else None,
            reinit="finish_previous",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )


SAMPLE_COLUMNS = ("problem", "question", "gold", "text", "outcome")
