"""The scores stage on generations written by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cells import DEBUG

from cft_lab import stages
from cft_lab.evaluation.benchmarks import load_items
from cft_lab.evaluation.statistics import wilson
from cft_lab.hydra_config import compose
from cft_lab.json_files import read_json, write_records
from cft_lab.records import Generation, Score, from_row
from cft_lab.stages import GENERATIONS, SCORE
from cft_lab.store import Stage, Store, Work


@pytest.mark.parametrize("correct", [0, 1])
def test_a_benchmark_of_which_one_item_was_measured_is_scored(tmp_path: Path, correct: int) -> None:
    """An API refused the other: the generations are paid, and their score is not lost."""
    config = compose(*DEBUG, "benchmarks.items=2", f"output_root={tmp_path}")
    first, second = load_items("lab-basic", 2)

    def written(work: Work) -> Mapping[str, Any]:
        answer = str(first.answer) if correct else "no number"
        rows = [Generation(first.id, (), f"\\boxed{{{answer}}}", "stop"), Generation(second.id, (), "no", "refused")]
        return {"generations": write_records(work.folder / GENERATIONS, rows)}

    scored = stages.scores(config, "lab-basic", Stage("generations", "by hand", {}, written))
    score = from_row(Score, read_json(Store(tmp_path, lambda line: None).ensure(scored) / SCORE))
    assert (score.n, score.correct, score.errors, score.accuracy) == (2, correct, 1, float(correct))
    assert score.interval == wilson(correct, 1)
