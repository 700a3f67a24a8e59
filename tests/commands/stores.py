"""Small stores that look like real ones: stages made by the real store, with a few bytes where weights would be."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab.json_files import write_json, write_records
from cft_lab.records import Generation, Grade, Outcome, Result, Sampling, Score, to_row
from cft_lab.store import Stage, Store, Work

CHECKPOINT = 1000  # bytes of each
DAY = 24 * 3600


@dataclass(frozen=True)
class Made:
    """A cell's stages."""

    base: Stage
    problems: Stage
    critiques: Stage
    examples: Stage
    candidates: Stage
    selected: Stage
    generations: Stage
    scores: Stage
    result: Stage


def plan_cell(
    seed: int = 0, benchmark: str = "lab-basic", teacher: str = "oracle", outcomes: Sequence[str] = ("correct", "wrong")
) -> Made:
    """The stages of a cell; cells that differ in their seed share everything before the training."""
    base = Stage("base_model", "base", {"hidden_size": 8}, _base)
    problems = Stage("problems", "questions", {"pool": 2}, _file("problems.jsonl"))
    critiques = Stage("critiques", teacher, {"teacher.kind": teacher}, _file("critiques.jsonl"), {"problems": problems})
    examples = Stage("examples", "examples", {}, _file("examples.jsonl"), {"problems": problems, "critiques": critiques})
    candidates = Stage("candidates", f"cft, seed {seed}", {"seed": seed}, _train, {"examples": examples, "base": base})
    selected = Stage("selected", "best", {}, _select, {"candidates": candidates})

    def generate(work: Work) -> Mapping[str, Any]:
        rows = [Generation(str(i), (), f"text {i}", "stop") for i in range(len(outcomes))]
        return {"generations": write_records(work.folder / "generations.jsonl", rows)}

    def grade(work: Work) -> Mapping[str, Any]:
        rows = [Grade(str(i), Outcome(outcome), extracted=f"answer {i}", reason=None) for i, outcome in enumerate(outcomes)]
        write_records(work.folder / "grades.jsonl", rows)
        write_json(work.folder / "score.json", to_row(_score(benchmark, outcomes)))
        return {}

    generations = Stage("generations", benchmark, {"benchmark": benchmark}, generate, {"model": selected})
    scores = Stage("scores", benchmark, {}, grade, {"generations": generations})

    def record(work: Work) -> Mapping[str, Any]:
        named = (base, problems, critiques, examples, candidates, selected)
        keys = {stage.name: stage.key for stage in named} | {f"{s.name}/{benchmark}": s.key for s in (generations, scores)}
        write_json(work.folder / "result.json", to_row(Result({"seed": seed}, keys, (_score(benchmark, outcomes),), 10, 2)))
        return {}

    result = Stage("result", f"cft, seed {seed}", {}, record, {benchmark: scores, "candidates": candidates})
    return Made(base, problems, critiques, examples, candidates, selected, generations, scores, result)


def _score(benchmark: str, outcomes: Sequence[str]) -> Score:
    correct, n = outcomes.count("correct"), len(outcomes)
    return Score(benchmark, "direct", Sampling(12), n, correct, 0, 0, 0, correct / n, (0.0, 1.0), paper_accuracy=correct / n)


def _file(name: str) -> Any:
    def make(work: Work) -> Mapping[str, Any]:
        (work.folder / name).write_text("{}\n")
        return {"rows": 1}

    return make


def _base(work: Work) -> Mapping[str, Any]:
    (work.folder / "model").mkdir()
    (work.folder / "model" / "model.safetensors").write_bytes(bytes(CHECKPOINT))
    (work.folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    return {"device": "cpu"}


def _train(work: Work) -> Mapping[str, Any]:
    for step in (1, 2, 3):
        (work.folder / f"step-{step:06d}").mkdir()
        (work.folder / f"step-{step:06d}" / "model.safetensors").write_bytes(bytes([step]) * CHECKPOINT)
    (work.folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 1, "candidate": 1}\n')
    write_json(work.folder / "first_example.json", {"prompt": "Q", "supervised": "A"})
    write_json(work.folder / "curve.json", [{"step": step, "correct": step, "n": 4} for step in (1, 2, 3)])
    return {"device": "cpu", "steps": 3}


def _select(work: Work) -> Mapping[str, Any]:
    (work.folder / "model").mkdir()
    os.link(work.inputs["candidates"] / "step-000002" / "model.safetensors", work.folder / "model" / "model.safetensors")
    write_json(work.folder / "curve.json", [{"step": step, "correct": step, "n": 4} for step in (1, 2, 3)])
    return {"step": 2}


def quiet_store(root: Path) -> tuple[Store, list[str]]:
    lines: list[str] = []
    return Store(root, lines.append), lines


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


def age(folder: Path, seconds: float = 2 * DAY) -> None:
    """Makes a folder, and all in it, look as if it had not been touched for so long."""
    then = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then), follow_symlinks=False)


def interrupted(root: Path, stage: Stage, config: Mapping[str, Any] | None = None) -> Path:
    """The folder of a stage whose maker was killed."""
    partial = root / stage.name / f"{stage.key}.partial"
    partial.mkdir(parents=True)
    (partial / "owner.json").write_text(json.dumps({"pid": 1, "host": "gone", "since": "", "config": dict(config or stage.config)}))
    (partial / "journal.jsonl").write_text("{}\n")
    return partial
