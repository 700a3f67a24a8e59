"""Where problems come from: a data source is (questions, the data set's own noisy responses)."""

from __future__ import annotations

import itertools
import random

from cft_lab.config import DataConfig, DataError
from cft_lab.lab.mistakes import noisy_attempt
from cft_lab.lab.world import make_problems
from cft_lab.records import Problem


def load_problems(data: DataConfig) -> list[Problem]:
    """The first `data.pool` problems of the source in its seeded order; `solution` is the data set's own response."""
    if data.source == "lab":
        return _lab_problems(data)
    raise DataError(f"data={data.name}: loading hub data sets is not built yet; use a lab source (data=lab-web)")


def _lab_problems(data: DataConfig) -> list[Problem]:
    lab = data.lab
    if lab is None:
        raise DataError(f"data.lab is missing: data={data.name} has source lab and needs families, steps and noise")
    rows = []
    for problem in itertools.islice(make_problems(data.seed, "train", lab.families, lab.steps), data.pool):
        rng = random.Random(f"{data.seed}/{problem.id}")
        attempt = noisy_attempt(problem, rng, lab.noise, lab.typical)
        rows.append(
            Problem(
                id=problem.id,
                question=problem.question,
                source=data.name,
                answer=str(problem.answer),
                solution=attempt.text,
                subject=problem.family,
            )
        )
    return rows
