"""The public API on a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.config import DataError
from cft_lab.evaluation.benchmarks import BENCHMARKS, load_items
from cft_lab.grade_columns import OUTCOMES, GradeColumns, read_columns
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Critique, Generation, Grade, Response
from cft_lab.records import Problem as Question
from cft_lab.results import rows, self_critique
from cft_lab.results.checks import RATES, check_rows, check_texts
from cft_lab.results.grades import CORRECT, ERROR
from cft_lab.results.store_reader import CellRecord, Problem, StoreReader
from cft_lab.stages import GENERATIONS, GRADES
from cft_lab.stages.common import CRITIQUES, CURVE, PROBLEMS, RESPONSES
from cft_lab.store import MANIFEST
from cft_lab.tracking import METRICS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def open_store(path: str | Path = "outputs") -> Results:
    """The results in a store (the `output_root` of runs). Raises FileNotFoundError if the folder does not exist."""
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: name the output_root of your runs")
    return Results(root)


class Results:
    """The results in a store. Everything is read when it is asked for, once; a record that cannot be read is in `problems`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reader = StoreReader(root)
        self._known_questions: dict[str, Mapping[str, Question]] = {}

    @property
    def records(self) -> tuple[CellRecord, ...]:
        """Every readable result, oldest first."""
        return self.reader.records

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be read so far."""
        return self.reader.problems

    @cached_property
    def _by_key(self) -> Mapping[str, CellRecord]:
        return {record.key: record for record in self.records}

    def _record(self, result: str) -> CellRecord:
        """The result of a key, or of the beginning of one."""
        found = [record for key, record in self._by_key.items() if key.startswith(result)]
        if len(found) != 1:
            raise KeyError(f"{len(found)} results of {self.root} begin with {result!r}: see cells().index")
        return found[0]

    def cells(self) -> pd.DataFrame:
        """One row for each finished cell, index `result` (its key).

        Columns: label (what it differs in from the others), model, method, data, responses, teacher, inference, temperature, seed,
        scale, examples, supervised_tokens, accuracy (AVG of its benchmarks), benchmarks, created, commit.
        """
        import pandas as pd

        labels = rows.labels([record.result.cell for record in self.records])
        found = [rows.cell_row(record, label) for record, label in zip(self.records, labels, strict=True)]
        return pd.DataFrame(found, columns=rows.CELL_COLUMNS).set_index("result")

    def scores(self) -> pd.DataFrame:
        """One row for each cell and benchmark.

        Columns: result, benchmark, scores (key of the scores stage), n, samples, accuracy, low, high (95 %, over items),
        paper_accuracy, majority, passed, unparsed, truncated, errors.
        """
        import pandas as pd

        found = [rows.score_row(record, score) for record in self.records for score in record.result.scores]
        return pd.DataFrame(found, columns=rows.SCORE_COLUMNS)

    def items(self, results: Sequence[str] | None = None, benchmarks: Sequence[str] | None = None) -> pd.DataFrame:
        """One row for each draw of an item, of all results and benchmarks unless some are named.

        Columns: result, benchmark, item, sample, outcome, paper_outcome, correct (1.0, 0.0, or NaN for an error), paper_correct;
        the texts and names among them are categoricals.
        """
        import numpy as np
        import pandas as pd

        found: list[tuple[str, str, GradeColumns]] = []
        for record in self.records if results is None else [self._record(result) for result in results]:
            for score in record.result.scores:
                if benchmarks is None or score.benchmark in benchmarks:
                    columns = self._columns(record.result.keys[f"scores/{score.benchmark}"])
                    if columns is not None:
                        found.append((record.key, score.benchmark, columns))

        def repeated(names: Sequence[str]) -> pd.Categorical:
            places = {name: place for place, name in enumerate(dict.fromkeys(names))}
            codes = np.repeat([places[name] for name in names], [len(columns.items) for _, _, columns in found])
            return pd.Categorical.from_codes(codes.astype(np.int32), list(places))

        def joined(name: str, kind: type) -> np.ndarray:
            parts = [getattr(columns, name) for _, _, columns in found]
            return np.concatenate(parts) if parts else np.array([], kind)

        outcome, paper = joined("outcome", np.int8), joined("paper", np.int8)
        names = [outcome.value for outcome in OUTCOMES]
        return pd.DataFrame(
            {
                "result": repeated([key for key, _, _ in found]),
                "benchmark": repeated([benchmark for _, benchmark, _ in found]),
                "item": pd.Categorical([item for _, _, columns in found for item in columns.items]),
                "sample": joined("sample", np.int32),
                "outcome": pd.Categorical.from_codes(outcome, names),
                "paper_outcome": pd.Categorical.from_codes(paper, names),
                "correct": np.where(outcome == ERROR, np.nan, (outcome == CORRECT).astype(float)),
                "paper_correct": np.where((paper == ERROR) | (paper < 0), np.nan, (paper == CORRECT).astype(float)),
            }
        )

    def _columns(self, key: str) -> GradeColumns | None:
        folder = self.reader.folder("scores", key)
        return self.reader.attempt(folder, partial(read_columns, folder))

    def costs(self) -> pd.DataFrame:
        """One row for each finished stage, index `key`.

        Columns: stage, label, created, seconds (wall, of all its starts; docs/store.md), device, gpus (of its last start),
        gpu_hours (0 on a CPU, NaN if the stage does not record its device), usd (NaN if no API, or its price is unknown), tokens
        (generated), prompt_tokens, trained_tokens (of a pretraining), supervised_tokens (of a training: its targets), results (how
        many results stand on it).
        """
        import pandas as pd

        standing = Counter(key for record in self.records for key in {*record.result.keys.values(), record.key})
        found = []
        for folder in sorted(path.parent for path in self.root.glob(f"*/*/{MANIFEST}")):
            manifest = self.reader.manifest(folder.parent.name, folder.name)
            row = manifest and self.reader.attempt(folder, partial(rows.cost_row, folder.name, manifest, standing[folder.name]))
            found += [row] if row else []
        numbers = dict.fromkeys(
            ("gpus", "gpu_hours", "usd", "tokens", "prompt_tokens", "trained_tokens", "supervised_tokens"), float
        )
        return pd.DataFrame(found, columns=rows.COST_COLUMNS).astype(numbers).set_index("key")

    def texts(self, result: str, benchmark: str, items: Sequence[str] | None = None) -> pd.DataFrame:
        """The generations of a cell on a benchmark, one row for each draw, with their grades.

        Columns: item, sample, question, gold, text, finish, turns, extracted, outcome, paper_outcome, subject, level. Empty, with a
        line in `problems`, where the store has no generations (they were not exported) or the benchmark is private.
        """
        import pandas as pd

        record = self._record(result)
        empty = pd.DataFrame([], columns=rows.TEXT_COLUMNS)
        generated = self.reader.folder("generations", record.result.keys[f"generations/{benchmark}"]) / GENERATIONS
        graded = self.reader.folder("scores", record.result.keys[f"scores/{benchmark}"]) / GRADES
        if BENCHMARKS[benchmark].private:
            self.reader.note(generated, f"the texts of {benchmark} are not to be shown", "use items() for its outcomes")
            return empty
        texts = self.reader.attempt(generated, partial(read_records, generated, Generation), "import it with its generations")
        grades = self.reader.attempt(graded, partial(read_records, graded, Grade))
        if texts is None or grades is None:
            return empty
        questions = self._questions(benchmark)
        wanted = None if items is None else set(items)

        def told() -> list[dict[str, Any]]:
            by_draw = {(grade.problem_id, grade.sample): grade for grade in grades}
            kept = [row for row in texts if wanted is None or row.problem_id in wanted]
            for row in kept:
                check_texts(row)
            return [rows.text_row(row, by_draw.get((row.problem_id, row.sample)), questions.get(row.problem_id)) for row in kept]

        return pd.DataFrame(self.reader.attempt(generated, told) or [], columns=rows.TEXT_COLUMNS)

    def self_critiques(self, result: str, benchmark: str) -> pd.DataFrame:
        """How a cell under two-stage inference judged its own solutions, one row for each that it judged.

        Columns: item, sample, round (from 0), solution, solution_outcome (by the strict grader), critique, verdict (True for
        right, None where none could be read). Empty under other protocols, and where texts or questions are not in the store.
        """
        import pandas as pd

        key = self._record(result).result.keys[f"generations/{benchmark}"]
        texts = [] if BENCHMARKS[benchmark].private else self._rows_of("generations", key, GENERATIONS, Generation)
        told = self_critique.rounds(benchmark, texts, self._questions(benchmark))
        return pd.DataFrame(told, columns=self_critique.COLUMNS)

    def questions(self, benchmark: str) -> pd.DataFrame:
        """The items of a benchmark, index `item`: question, gold, subject, level (None where the benchmark does not say).

        Empty where its rows are not on this machine, or are private, with a line in `problems`.
        """
        import pandas as pd

        if BENCHMARKS[benchmark].private:
            self.reader.note(self.root, f"the questions of {benchmark} are not to be shown", "use items() for its outcomes")
        found = [(item.id, item.question, item.answer, item.subject, item.level) for item in self._questions(benchmark).values()]
        return pd.DataFrame(found, columns=["item", "question", "gold", "subject", "level"]).set_index("item")

    def _questions(self, benchmark: str) -> Mapping[str, Question]:
        if benchmark not in self._known_questions:
            self._known_questions[benchmark] = self._read_questions(benchmark)
        return self._known_questions[benchmark]

    def _read_questions(self, benchmark: str) -> Mapping[str, Question]:
        if BENCHMARKS[benchmark].private:
            return {}
        paths: dict[str, str] = {}
        for record in self.records:  # where rows lay when the cells were run
            paths |= record.result.cell.get("benchmarks.paths") or {}
        if (lacking := BENCHMARKS[benchmark].missing(paths)) is not None:
            self.reader.note(self.root, f"the questions of {benchmark} are not here: {lacking}", "`python -m cft_lab prefetch`")
            return {}
        try:
            return {item.id: item for item in load_items(benchmark, paths=paths)}
        except DataError as error:
            self.reader.note(self.root, f"the questions of {benchmark} cannot be read: {error}", "`python -m cft_lab prefetch`")
            return {}

    def selection(self, result: str) -> pd.DataFrame:
        """Validation scores of a cell's candidates: step, correct, n, accuracy, selected. Empty for a base model."""
        import pandas as pd

        frame = pd.DataFrame(
            self._upstream_rows(result, "selected", CURVE, ("step", "correct", "n")), columns=["step", "correct", "n"]
        )
        chosen = self.reader.manifest("selected", self._record(result).result.keys.get("selected", "-"))
        frame["accuracy"] = frame["correct"] / frame["n"]
        frame["selected"] = frame["step"] == (chosen["counts"].get("step") if chosen else None)
        return frame

    def training(self, result: str) -> pd.DataFrame:
        """The metrics of a cell's training, one row for each optimizer step: step, loss, lr, grad_norm, target_tokens, tokens.

        Further columns are those that the training logged. Empty for a base model.
        """
        import pandas as pd

        steps = self._upstream_rows(result, "candidates", METRICS, ("step", "loss"))
        return pd.DataFrame(steps) if steps else pd.DataFrame([], columns=["step", "loss"])

    def _upstream_rows(self, result: str, stage: str, file: str, numbers: tuple[str, ...]) -> list[dict[str, Any]]:
        """The rows of a JSON or JSON lines file of a stage that a result stands on; none if it has no such stage.

        Rows of a JSON lines file that lack one of the `numbers` are about something else.
        """
        key = self._record(result).result.keys.get(stage)
        if key is None:
            return []
        path = self.reader.folder(stage, key) / file

        def read() -> list[dict[str, Any]]:
            if not file.endswith(".jsonl"):
                return check_rows(read_json(path), numbers)
            return check_rows([row for row in rows.json_lines(path) if all(name in row for name in numbers)], numbers)

        return self.reader.attempt(path, read) or []

    def critiques(self) -> pd.DataFrame:
        """How good critiques are, one row for each critiques stage, index `key`.

        Columns: teacher, problems (key of the stage with the questions), critiques, right, wrong, unparsed, and agreement,
        false_right, false_wrong (docs/teachers.md; each with _low, _high, _n), NaN where no response could be graded.
        """
        import pandas as pd

        found = []
        for folder in sorted(path.parent for path in self.root.glob(f"critiques/*/{MANIFEST}")):
            manifest = self.reader.manifest("critiques", folder.name)
            row = manifest and self.reader.attempt(folder, partial(rows.critique_row, folder.name, manifest))
            found += [row] if row else []
        numbers = dict.fromkeys([name for name in rows.CRITIQUE_COLUMNS if name.startswith(RATES)], float)
        return pd.DataFrame(found, columns=rows.CRITIQUE_COLUMNS).astype(numbers).set_index("key")

    def critique_texts(self, key: str) -> pd.DataFrame:
        """The critiques of a stage: item, question, gold, response, response_outcome, critique, verdict.

        The verdict is True for right, None where none could be read. Empty where the store has no more than the record of the
        stage.
        """
        import pandas as pd

        manifest = self.reader.manifest("critiques", key)
        if manifest is None:
            raise KeyError(f"{self.root} has no critiques stage {key!r}: see critiques().index")
        critiques = self._rows_of("critiques", key, CRITIQUES, Critique)
        upstream = manifest["upstream"]
        questions = {row.id: row for row in self._rows_of("problems", upstream.get("problems", "-"), PROBLEMS, Question)}
        stage = "responses" if self.reader.folder("responses", upstream.get("responses", "-")).exists() else "answers"
        responses = {row.problem_id: row for row in self._rows_of(stage, upstream.get("responses", "-"), RESPONSES, Response)}
        graded = self.reader.folder(stage, upstream.get("responses", "-")) / GRADES
        kept = self._rows_of(stage, upstream.get("responses", "-"), GRADES, Grade) if graded.exists() else []
        grades = {row.problem_id: row for row in kept}
        told = [
            {
                "item": row.problem_id,
                "question": questions[row.problem_id].question if row.problem_id in questions else None,
                "gold": questions[row.problem_id].answer if row.problem_id in questions else None,
                "response": responses[row.problem_id].text if row.problem_id in responses else None,
                "response_outcome": grades[row.problem_id].outcome.value if row.problem_id in grades else None,
                "critique": row.text,
                "verdict": row.verdict,
            }
            for row in critiques
        ]
        return pd.DataFrame(told, columns=["item", "question", "gold", "response", "response_outcome", "critique", "verdict"])

    def _rows_of(self, stage: str, key: str, file: str, kind: type[Any]) -> list[Any]:
        path = self.reader.folder(stage, key) / file
        return self.reader.attempt(path, partial(read_records, path, kind), "make the stage again: only its record is here") or []
