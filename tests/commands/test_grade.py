import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from cft_lab.__main__ import main
from cft_lab.commands.grade import RowError, submission
from cft_lab.config import PROJECT_ROOT

Rows = Callable[[str], Iterator[dict[str, object]]]

LINES = [
    b'{"gold": "72", "response": "The answer is 72.", "expected": true, "id": 7}',
    b'{"gold": "3.14", "pred": "3.11", "expected": false}',
    b'{"gold": "B", "pred": "5 cm", "options": ["3 cm", "5 cm"]}',
    b'{"gold": "5", "response": "well, let me", "finish": "length"}',
    b"not json",
    b'["a list"]',
    b'{"pred": "1"}',
    b'{"gold": "1"}',
    b'{"gold": "1", "response": 1}',
    b'{"gold": "1", "pred": "1", "expected": "perhaps"}',
    b'{"gold": "1", "pred": "\xff"}',
    b"",
    b'{"gold": 25, "pred": "025", "expected": true}',
]
OUTCOMES = ["correct", "wrong", "correct", "truncated", *["error"] * 7, "correct"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(LINES))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cft_lab", "grade", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)


def test_rows_come_out_in_order_and_a_bad_row_costs_itself(file: Path) -> None:
    done = run(file)
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["outcome"] for row in rows] == OUTCOMES
    assert rows[0] == {
        "gold": "72",
        "response": "The answer is 72.",
        "expected": True,
        "id": 7,
        "extracted": "72",
        "rule": "answer",
        "outcome": "correct",
        "strict": "correct",
        "paper": "correct",
    }
    reasons = [row["reason"] for row in rows if row["outcome"] == "error"]
    expected = [
        "line 5: not valid JSON",
        "line 6: must be a JSON object",
        "gold is missing",
        "neither response nor pred",
        "response must be text",
        "expected 'perhaps' must be true or false",
        "line 11: not valid UTF-8",
    ]
    assert all(words in reason for words, reason in zip(expected, reasons, strict=True)), reasons
    assert "correct 3  wrong 1  unparsed 0  truncated 1  error 7" in done.stderr
    assert "accuracy 60.00% [23.07%, 88.24%] of 5 rows" in done.stderr
    assert 'agreement with "expected": 3 of 3 (100.00%)' in done.stderr
    assert "strict and paper differ on 1 rows" in done.stderr


def test_the_paper_grader_a_file_and_csv(file: Path, tmp_path: Path) -> None:
    done = run(file, "--grader", "paper", "--csv", "--output", tmp_path / "out.csv")
    assert (done.returncode, done.stdout) == (0, "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["outcome"] for row in rows] == ["correct", "correct", *OUTCOMES[2:]]
    assert json.loads(rows[2]["options"]) == ["3 cm", "5 cm"]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl is not a file"),
        (["{file}", "--benchmark", "aime25"], "benchmark 'aime25' is not known; choose one of"),
        (["{file}", "--jobs", "0"], "--jobs 0 must be 1 or more"),
        (["{file}", "--output", "/nowhere/out.jsonl"], "--output /nowhere/out.jsonl cannot be written"),
    ],
)
def test_bad_arguments_start_nothing(file: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", *(argument.format(file=file) for argument in arguments)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_a_benchmark_decides_which_rules_fire(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"gold": "72", "response": "48 + 24 = 72 clips altogether."}\n')
    outcomes = [json.loads(run(path, "--benchmark", name).stdout)["outcome"] for name in ("gsm8k", "math")]
    assert outcomes == ["correct", "unparsed"]


def test_a_file_of_nothing_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    done = run(path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "accuracy: nothing was measured" in done.stderr


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"gold": "", "pred": "1"}, "gold is empty"),
        ({"gold": float("nan"), "pred": "1"}, "gold must be text, a finite number"),
        ({"gold": {}, "pred": "1"}, "gold must be text"),
        ({"gold": "1", "pred": []}, "pred must be text"),
        ({"gold": "1", "pred": "1", "finish": "done"}, "finish 'done' must be one of stop, length, error"),
        ({"gold": "A", "pred": "1", "options": "A, B"}, "options must be a list of 1 to 10 texts"),
        ({"gold": "1", "pred": "1", "tolerance": "some"}, "tolerance 'some' must be a number"),
        ({"gold": "1", "pred": "1", "tolerance": -1}, "tolerance '-1' must be finite and not negative"),
        ({"gold": "1", "pred": "1", "tolerance": "1/0"}, "tolerance '1/0' must be a number"),
        ({"gold": "1", "pred": "1", "tolerance": "1e9999999999"}, "tolerance '1e9999999999' must be finite"),
        ({"gold": "1", "pred": "1", "tolerance": float("nan")}, "tolerance 'nan' must be finite"),
    ],
)
def test_a_bad_field_is_named(row: dict[str, object], message: str) -> None:
    with pytest.raises(RowError, match=message):
        submission(row, "1")


def test_a_tolerance_is_the_decimal_as_written() -> None:
    made = [submission({"gold": "1", "pred": "1", "tolerance": value}, "1").tolerance for value in (None, 0.1, "1e-3", 2)]
    assert made == [0, Fraction(1, 10), Fraction(1, 1000), 2]


def test_golds_of_other_types_are_their_text() -> None:
    golds: list[object] = [27.0, 3, True, ["$1$", "$2$"], [1, 2.5]]
    assert [submission({"gold": gold, "pred": "1"}, "1").gold for gold in golds] == ["27.0", "3", "True", "$1$, $2$", "[1, 2.5]"]


def test_agreement_with_the_labelled_sets(shared_rows: Rows) -> None:
    """The bar of the project: 93 % of the human labels as they are, errors and misses all counted."""
    from cft_lab.evaluation.grading import grade_many
    from cft_lab.evaluation.profiles import ANY
    from cft_lab.records import Outcome

    names = (
        "dart_math",
        "hendrycks_math",
        "lighteval_extractive",
        "lighteval_gpqa_mc",
        "mario_eval",
        "nemo_skills",
        "rl_reward",
        "skythought",
    )
    rows = [row for name in names for row in shared_rows(f"grading/{name}_tests.jsonl") if row["gold"]]
    grades = grade_many([submission(row, "row") for row in rows], ANY)
    agreed = sum((grade.outcome is Outcome.CORRECT) == row["expected"] for grade, row in zip(grades, rows, strict=True))
    assert agreed / len(rows) >= 0.93
