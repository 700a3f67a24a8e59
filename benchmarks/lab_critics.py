"""What critique fine-tuning taught a lab model: how well it judges solutions, those of its data's kind and its own.

python benchmarks/lab_critics.py [STORE]      (after `make lab-tables`, whose store it reads; some minutes on two cores)

The base model's own solutions are judged too if it was run as lab table 8's two-stage cells: `python run.py method=base
inference=two-stage temperature=0.1 benchmarks=lab-table8 output_root=outputs-lab-study`.

Fresh solutions are of validation problems, which no training has seen, with the noise of lab-web; the truth is known. Own ones are
the first rounds of two-stage inference at temperature 0.1 on lab-basic and lab-applied, graded as results are. Greedy critiques.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cft_lab.config import PROJECT_ROOT, Config
from cft_lab.engines.base import Engine, Prompt
from cft_lab.engines.local import TransformersEngine
from cft_lab.evaluation.statistics import wilson
from cft_lab.hydra_config import compose
from cft_lab.lab.mistakes import Attempt, noisy_attempt
from cft_lab.lab.oracle import Oracle
from cft_lab.lab.world import LabProblem, make_problems
from cft_lab.prompts import FORMATS, eval_critique
from cft_lab.records import Sampling
from cft_lab.results import Results, open_store
from cft_lab.stages.common import MODEL
from cft_lab.verdicts import parse_verdict

FRESH = 600
CELL = ("model=lab-qwen2", "data=lab-web")


@dataclass(frozen=True)
class Judged:
    """One critique: what it said of a solution, and whether that is right; `same` if it is the oracle's, word for word."""

    right: bool
    verdict: bool | None
    same: bool | None = None


def main(store: str = str(PROJECT_ROOT / "outputs-lab-study")) -> int:
    """Prints a line for the base model and for each seed of cft on lab-web."""
    results = open_store(store)
    config = compose(*CELL)
    cells = results.cells().query("model == 'lab-qwen2' and data == 'lab-web' and teacher == 'oracle' and responses == 'reference'")
    rates = {record.key: record.result.cell["train.lr"] for record in results.records}
    cells = cells[(cells.method == "base") | (cells.index.map(rates) == config.train.lr)]
    direct = cells.query("inference == 'direct' and temperature == 0.0")
    chosen = direct[direct.method.isin(["base", "cft"]) & direct.benchmarks.map(lambda names: "lab-long" in names)]
    print("model", "solutions", "n", *("agreement", "right called right", "wrong called wrong", "as the oracle writes"), sep=" | ")
    for key, cell in chosen.sort_values(["method", "seed"]).iterrows():
        keys = next(record.result.keys for record in results.records if record.key == key)
        stage = "base_model" if cell.method == "base" else "selected"
        name = "base" if cell.method == "base" else f"cft, seed {cell.seed}"
        show(name, "fresh", fresh(results.root / stage / keys[stage] / MODEL, config))
        own = cells[(cells.inference == "two-stage") & (cells.temperature == 0.1) & (cells.method == cell.method)]
        for other in own[own.seed == cell.seed].index:
            show(name, "own", of_its_own(results, str(other)))
    return 0


def fresh(folder: Path, config: Config) -> list[Judged]:
    """A model's critiques of solutions like those of lab-web."""
    rng = random.Random(1)
    lab = config.data.lab
    problems = itertools.islice(make_problems(1, "validation", lab.families, lab.steps), FRESH)
    solved = [(problem, noisy_attempt(problem, rng, lab.noise, lab.typical)) for problem in problems]
    style, ends, threads = FORMATS[config.model.prompt_format].style, config.model.end_of_turn, config.engine.cpu_threads
    with TransformersEngine(folder, style=style, end_of_turn=ends, precision="fp32", batch_size=64, cpu_threads=threads) as engine:
        return list(judge(engine, config, solved))


def judge(engine: Engine, config: Config, solved: Sequence[tuple[LabProblem, Attempt]]) -> list[Judged]:
    """What a model says of each solution."""
    fmt = FORMATS[config.model.prompt_format]
    prompts = [Prompt(str(i), eval_critique(fmt, problem.question, attempt.text)) for i, (problem, attempt) in enumerate(solved)]
    said = dict(engine.generate(prompts, Sampling(config.train.selection.max_new_tokens)))
    oracle = Oracle()
    return [
        Judged(
            attempt.answer == problem.answer and attempt.mistake is None,
            parse_verdict(said[i].text),
            said[i].text.strip() == oracle.critique(problem.question, attempt.text).strip(),
        )
        for i, (problem, attempt) in enumerate(solved)
    ]


def of_its_own(results: Results, key: str) -> list[Judged]:
    """The first critiques of a two-stage result."""
    names = results.cells().loc[key, "benchmarks"]
    rows = pd.concat([results.self_critiques(key, name) for name in names])
    return [Judged(row.solution_outcome == "correct", row.verdict) for row in rows[rows["round"] == 0].itertuples()]


def show(name: str, solutions: str, found: Sequence[Judged]) -> None:
    """A line with shares in % and their intervals."""
    same = [one.same for one in found if one.same is not None]
    shares = [
        [one.verdict is one.right for one in found],
        [one.verdict is True for one in found if one.right],
        [one.verdict is False for one in found if not one.right],
        same,
    ]
    print(name, solutions, len(found), *map(share, shares), sep=" | ", flush=True)


def share(hits: Sequence[bool]) -> str:
    """A share in % with its 95 % interval."""
    interval = wilson(sum(hits), len(hits))
    if interval is None:
        return "-"
    return f"{100 * sum(hits) / len(hits):.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
