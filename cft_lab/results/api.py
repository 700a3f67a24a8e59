"""The public API on a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.results.store_reader import CellRecord, Problem

if TYPE_CHECKING:
    import pandas as pd


def open_store(path: str | Path = "outputs") -> Results:
    """The results in a store (the `output_root` of runs). Raises FileNotFoundError if the folder does not exist."""
    raise NotImplementedError


class Results:
    """The results in a store. Everything is read when it is asked for, once; a record that cannot be read is in `problems`."""

    root: Path

    @property
    def records(self) -> tuple[CellRecord, ...]:
        """Every readable result, oldest first."""
        raise NotImplementedError

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be read so far."""
        raise NotImplementedError

    def cells(self) -> pd.DataFrame:
        """One row for each finished cell, index `result` (its key).

        Columns: label (what it differs in from the others), model, method, data, responses, teacher, inference, temperature, seed,
        scale, examples, supervised_tokens, accuracy (AVG of its benchmarks), benchmarks, created, commit.
        """
        raise NotImplementedError

    def scores(self) -> pd.DataFrame:
        """One row for each cell and benchmark.

        Columns: result, benchmark, scores (key of the scores stage), n, samples, accuracy, low, high (95 %, over items),
        paper_accuracy, majority, passed, unparsed, truncated, errors.
        """
        raise NotImplementedError

    def items(self, results: Sequence[str] | None = None, benchmarks: Sequence[str] | None = None) -> pd.DataFrame:
        """One row for each draw of an item, of all results and benchmarks unless some are named.

        Columns: result, benchmark, item, sample, outcome, paper_outcome, correct (1.0, 0.0, or NaN for an error), paper_correct;
        the texts and names among them are categoricals.
        """
        raise NotImplementedError

    def costs(self) -> pd.DataFrame:
        """One row for each finished stage, index `key`.

        Columns: stage, label, created, seconds (wall), device, gpus, gpu_hours (0 on a CPU), usd (None if no API), tokens
        (generated), prompt_tokens, supervised_tokens, results (how many results stand on it).
        """
        raise NotImplementedError

    def texts(self, result: str, benchmark: str, items: Sequence[str] | None = None) -> pd.DataFrame:
        """The generations of a cell on a benchmark, one row for each draw, with their grades.

        Columns: item, sample, question, gold, text, finish, turns, extracted, outcome, paper_outcome, subject, level. Empty, with a
        line in `problems`, where the store has no generations (they were not exported) or the benchmark is private.
        """
        raise NotImplementedError

    def questions(self, benchmark: str) -> pd.DataFrame:
        """The items of a benchmark, index `item`: question, gold, subject, level (None where the benchmark does not say)."""
        raise NotImplementedError

    def selection(self, result: str) -> pd.DataFrame:
        """Validation scores of a cell's candidates: step, correct, n, accuracy, selected. Empty for a base model."""
        raise NotImplementedError

    def training(self, result: str) -> pd.DataFrame:
        """The metrics of a cell's training, one row for each optimizer step: step, loss, lr, grad_norm, ... Empty for a base
        model.
        """
        raise NotImplementedError

    def critiques(self) -> pd.DataFrame:
        """How good critiques are, one row for each critiques stage, index `key`.

        Columns: teacher, data, critiques, right, wrong, unparsed, and agreement, false_right, false_wrong (each with _low, _high,
        _n).
        """
        raise NotImplementedError

    def critique_texts(self, key: str) -> pd.DataFrame:
        """The critiques of a stage: item, question, response, critique, verdict, gold, response_outcome. Empty without its
        files.
        """
        raise NotImplementedError
