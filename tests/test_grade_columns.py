"""Grades as columns say what the lines say, and a store without them, or with damaged ones, is read all the same."""

from pathlib import Path

import numpy as np
import pytest

from cft_lab.grade_columns import OUTCOMES, columns_of, read_columns, write_columns
from cft_lab.json_files import write_records
from cft_lab.records import Grade, Outcome
from cft_lab.results.grades import scores_of

GRADES = [
    Grade("a", Outcome.CORRECT, extracted="1", paper=Outcome.CORRECT),
    Grade("b", Outcome.TRUNCATED, paper=None),
    Grade("c", Outcome.ERROR, reason="lost", paper=Outcome.ERROR),
    Grade("a", Outcome.WRONG, paper=Outcome.CORRECT, sample=1),
    Grade("b", Outcome.UNPARSED, paper=Outcome.UNPARSED, sample=1),
    Grade("c", Outcome.CORRECT, paper=Outcome.CORRECT, sample=1),
]


def test_columns_survive_the_file(tmp_path: Path) -> None:
    write_columns(tmp_path, columns_of(GRADES))
    found = read_columns(tmp_path)
    assert found.items == ("a", "b", "c", "a", "b", "c")
    assert found.sample.tolist() == [0, 0, 0, 1, 1, 1]
    assert [OUTCOMES[code] for code in found.outcome] == [grade.outcome for grade in GRADES]
    assert [None if code < 0 else OUTCOMES[code] for code in found.paper] == [grade.paper for grade in GRADES]


def test_no_text_is_in_the_file(tmp_path: Path) -> None:
    write_columns(tmp_path, columns_of([Grade("a", Outcome.WRONG, extracted="the secret answer", reason="another secret")]))
    assert b"secret" not in (tmp_path / "grades.parquet").read_bytes()


def test_an_empty_benchmark_has_empty_columns(tmp_path: Path) -> None:
    write_columns(tmp_path, columns_of([]))
    assert read_columns(tmp_path).items == ()


@pytest.mark.parametrize("content", [None, b"PAR1 no", b""])
def test_lines_are_read_where_columns_cannot_be(tmp_path: Path, content: bytes | None) -> None:
    write_records(tmp_path / "grades.jsonl", GRADES)
    if content is not None:
        (tmp_path / "grades.parquet").write_bytes(content)
    assert np.array_equal(read_columns(tmp_path).outcome, columns_of(GRADES).outcome)


def test_damaged_columns_without_lines_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "grades.parquet").write_bytes(b"not a table")
    with pytest.raises((OSError, ValueError)):
        read_columns(tmp_path)
    with pytest.raises(OSError, match="grades.jsonl"):
        read_columns(tmp_path / "nowhere")


def test_an_item_counts_with_the_mean_of_its_draws_and_not_at_all_with_an_error() -> None:
    found = scores_of(columns_of(GRADES))
    assert found.items == ("a", "b", "c")
    assert found.values[:2].tolist() == [0.5, 0.0]
    assert np.isnan(found.values[2])
    assert (found.draws, found.correct, found.errors) == (6, 2, 1)


def test_two_grades_of_one_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="two grades of the same draw"):
        scores_of(columns_of([Grade("a", Outcome.WRONG), Grade("a", Outcome.CORRECT)]))
