"""Rows: layouts, golds, own files of every kind, and bad rows, each of which costs itself only."""

import csv
import json
from pathlib import Path
from typing import Any

import hub_folders
import pytest
from own_data import own, rows, texts

from cft_lab.config import DataError
from cft_lab.data.sources import load_pool

pytestmark = pytest.mark.usefixtures("own_caches")


def test_bad_lines_of_a_jsonl_file_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    good = [json.dumps(row, ensure_ascii=False).encode() for row in rows(4)]
    deep = b'{"question": ' + b"[" * 100_000 + b"}"
    lines = [
        b"\xef\xbb\xbf" + good[0],
        b"",
        good[1],
        b'{"question": "cut sh',
        b'{"question": "caf\xe9", "solution": "s"}',
        b"[1, 2]",
        deep,
    ]
    path.write_bytes(b"\n".join([*lines, *good[2:]]) + b'\n{"question": "the last line is cut')
    pool = load_pool(own(path))
    assert {problem.question for problem in pool.problems} == {row["question"] for row in rows(4)}
    assert pool.counts["bad_rows"] == {"not JSON (cut short?)": 3, "invalid UTF-8": 1, "not a JSON object": 1}
    assert pool.counts["unusable"] == 5
    examples = {example["where"]: example["text"] for example in pool.counts["bad_row_examples"]}
    assert set(examples) == {"own.jsonl:4", "own.jsonl:5", "own.jsonl:6", "own.jsonl:7", "own.jsonl:10"}
    assert examples["own.jsonl:4"] == '{"question": "cut sh'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "  ", "solution": "s"}, "empty question"),
        ({"question": None, "solution": "s"}, "empty question"),
        ({"solution": "s"}, "empty question"),
        ({"question": "q", "solution": "\n"}, "empty solution"),
        ({"question": 7, "solution": "s"}, "question is not text"),
        ({"question": "q", "solution": ["s"]}, "solution is not text"),
        ({"question": "q", "solution": "s", "answer": {"a": 1}}, "answer is not text"),
        ({"question": "q", "solution": "s", "answer": True}, "answer is not text"),
        ({"question": "half a pair \ud800", "solution": "s"}, "question is not valid Unicode"),
    ],
)
def test_a_bad_row_is_counted_under_its_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "own.jsonl", [*rows(2), row, row])))
    assert len(pool.problems) == 2
    assert pool.counts["bad_rows"] == {reason: 2}
    assert [example["where"] for example in pool.counts["bad_row_examples"]] == ["row 3", "row 4"]
    json.dumps(pool.counts, ensure_ascii=False).encode()  # a manifest must be able to hold it


def test_a_reason_is_quoted_three_times_at_most(tmp_path: Path) -> None:
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "own.jsonl", [{"question": "", "solution": "s"}] * 9 + rows(1))))
    assert pool.counts["bad_rows"] == {"empty question": 9}
    assert len(pool.counts["bad_row_examples"]) == 3


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("system", "be kind"), ("user", "q"), ("assistant", "s")], ("q", "s")),
        ([("user", "q"), ("assistant", "s"), ("user", "more"), ("assistant", "t")], "several turns"),
        ([("assistant", "s")], "empty question"),
        ([("user", "q")], "empty solution"),
        ([("user", "q"), ("tool", "s")], "a turn of unknown role"),
    ],
)
def test_conversations(turns: list[tuple[str, str]], expected: Any, tmp_path: Path) -> None:
    made = {"messages": [{"role": role, "content": content} for role, content in turns]}
    good = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "S"}]}
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "a.jsonl", [made, good]), layout="messages", columns={}))
    if isinstance(expected, str):
        assert pool.counts["bad_rows"] == {expected: 1}
    else:
        assert expected in texts(pool)


def test_a_question_may_contain_the_word_that_separates_it(tmp_path: Path) -> None:
    asked = "Solution: 5 g of salt in water. Question: what is wrong in\nSolution:\nthis?"
    made = {"instruction": "i", "input": f"Question:\n{asked}\n\nSolution:\nfirst\n\nSolution:\nsecond", "output": "Critique: No."}
    bad = {"instruction": "i", "input": "Question:\nno solution here", "output": "Critique: No."}
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", [made, bad])
    pool = load_pool(own(path, layout="critique", critiques="released", columns={}))
    assert texts(pool) == [(asked, "first\n\nSolution:\nsecond")]
    assert pool.critiques[0].text == "No."
    assert pool.counts["verdicts"] == {"right": 0, "wrong": 0, "unparsed": 1}
    assert pool.counts["bad_rows"] == {"input is not a question and a solution": 1}


@pytest.mark.parametrize(
    ("solution", "gold"), [("so\n#### 1,234,567", "1234567"), ("#### 3, 4", "3, 4"), ("none", None), ("####", None)]
)
def test_gold_after_hashes(solution: str, gold: str | None, tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "solution": solution}])
    pool = load_pool(own(path, columns={"question": "question", "solution": "solution"}, gold="hashes"))
    assert pool.problems[0].answer == gold


def test_own_files_of_every_kind_give_the_same_problems(tmp_path: Path) -> None:
    made = [row | {"answer": f"0{row['answer']}"} for row in rows(12)]
    made[0]["solution"] = 'two lines,\nand "quotes" \\frac{1}{2}'
    hub_folders.write_jsonl(tmp_path / "jsonl" / "a.jsonl", made)
    hub_folders._parquet(tmp_path / "parquet" / "a.parquet", made)
    (tmp_path / "csv").mkdir()
    with (tmp_path / "csv" / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]))
        writer.writeheader()
        writer.writerows(made)
    hub_folders.write_jsonl(tmp_path / "mixed" / "a.jsonl", made[:6])
    hub_folders._parquet(tmp_path / "mixed" / "b.parquet", made[6:])
    (tmp_path / "mixed" / "notes.txt").write_text("not data")
    hub_folders.write_jsonl(tmp_path / "mixed" / ".hidden" / "c.jsonl", rows(3, start=50))
    pools = [load_pool(own(tmp_path / kind)).problems for kind in ("jsonl", "parquet", "csv", "mixed")]
    assert len(pools[0]) == 12
    assert pools[0][0].answer is not None
    assert pools[0][0].answer.startswith("0")
    assert all(pool == pools[0] for pool in pools)


def test_bad_lines_of_a_csv_file_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(b"question,solution,answer\nq1,s1,1\ncaf\xe9,s,2\nq3,s3\nq4,s4,4,5\n" + b"q5," + b"x" * 200_000 + b",5\n")
    pool = load_pool(own(path))
    assert {problem.question for problem in pool.problems} == {"q1", "q5"}
    assert pool.counts["bad_rows"] == {"not as many values as columns": 2, "question is not valid Unicode": 1}


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.parquet").write_bytes(b"PAR1 and then nonsense")
    with pytest.raises(DataError, match=r"own\.parquet cannot be read: .*[Pp]arquet"):
        load_pool(own(tmp_path / "own.parquet"))


def test_a_column_of_golds_may_be_sparse(tmp_path: Path) -> None:
    sparse = [
        {"question": "q1", "solution": "s"},
        {"question": "q2", "solution": "s", "answer": 2.5},
        {"question": "q3", "solution": "s", "answer": " "},
    ]
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "own.jsonl", sparse)))
    assert {problem.question: problem.answer for problem in pool.problems} == {"q1": None, "q2": "2.5", "q3": None}
    assert pool.counts["with_gold"] == 1
