"""Rows: layouts, golds, own files of every kind, and bad rows, each of which costs itself only."""

import csv
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_folders
import pytest
from own_data import own, rows, texts

from cft_lab.config import DataError
from cft_lab.data.rows import RowError
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
    assert [example["where"] for example in pool.counts["bad_row_examples"]] == ["own.jsonl:3", "own.jsonl:4"]
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
    assert {example["where"] for example in pool.counts["bad_row_examples"]} == {"own.csv:3", "own.csv:4", "own.csv:5"}


@pytest.mark.parametrize(
    ("torn", "line"),
    [
        ('q3,"never closed,3\n', 4),
        ('q3,"closed "too early",3\n', 4),
        ('q3,"two\nlines, never closed\n', 4),
        ('"q3,s3,3\n', 4),
    ],
)
@pytest.mark.parametrize("rest", ["q{i},s{i},{i}\n", 'q{i},"s{i}",{i}\n'])
def test_a_csv_file_with_a_torn_quote_is_refused_with_its_line(torn: str, line: int, rest: str, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    whole = "question,solution,answer\nq1,s1,1\nq2,s2,2\n", "".join(rest.format(i=i) for i in range(4, 100))
    path.write_text(torn.join(whole))
    with pytest.raises(DataError, match=rf"own\.csv: the row that begins in line {line} is not CSV .*mend that row"):
        load_pool(own(path))
    path.write_text("".join(whole))
    assert load_pool(own(path)).counts["problems"] == 98


def test_csv_values_of_several_lines_keep_their_quotes_and_places(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('question,solution,answer\n\n"q\n1","say ""s"", 5"" wide",1\n"q\n2",,2\nq3,5" pipe,3\n')
    pool = load_pool(own(path))
    assert sorted(texts(pool)) == [("q\n1", 'say "s", 5" wide'), ("q3", '5" pipe')]
    assert pool.counts["bad_row_examples"] == [{"reason": "empty solution", "where": "own.csv:5", "text": ""}]


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.parquet").write_bytes(b"PAR1 and then nonsense")
    with pytest.raises(DataError, match=r"own\.parquet cannot be read: .*[Pp]arquet"):
        load_pool(own(tmp_path / "own.parquet"))


def test_a_column_of_golds_may_be_sparse(tmp_path: Path) -> None:
    sparse = [
        {"question": "q1", "solution": "s"},
        {"question": "q2", "solution": "s", "answer": 2.5},
        {"question": "q3", "solution": "s", "answer": " "},
        *({"question": f"q{value}", "solution": "s", "answer": value} for value in (math.nan, math.inf, -math.inf)),
    ]
    path = hub_folders.write_jsonl(tmp_path / "own.jsonl", sparse)
    path.write_text(path.read_text() + '{"question": "q4", "solution": "s", "answer": 1e999}\n')
    pool = load_pool(own(path))
    assert {problem.question: problem.answer for problem in pool.problems if problem.answer} == {"q2": "2.5"}
    assert (len(pool.problems), pool.counts["with_gold"], pool.counts["unusable"]) == (7, 1, 0)


def test_a_place_names_the_file_of_a_folder_and_its_line_or_row(tmp_path: Path) -> None:
    hub_folders.write_jsonl(tmp_path / "sub" / "a.jsonl", [*rows(2), {"question": "q", "solution": None}])
    hub_folders._parquet(tmp_path / "b.parquet", [{"question": "q", "solution": text} for text in ("s", "", "t")])
    found = load_pool(own(tmp_path)).counts["bad_row_examples"]
    assert [example["where"] for example in found] == ["b.parquet, row 2", "sub/a.jsonl:3"]


def nested(levels: int, brackets: str) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = {"a": value} if brackets == "{}" else [value]
    return value


#: values that no field expects, or only one; the nested ones lie around the depth at which Python gives up
ODD = (
    None, 7, 2.5, math.nan, True, "", " ", [], {}, [None], [[["x"]]], {"a": {"b": 1}}, [{}], [{"role": ["user"], "content": "q"}],
    [{"role": {"a": 1}}], [{"role": "user", "content": ["q"]}, {"role": "assistant", "content": {"a": 1}}], [{"role": None}] * 3,
    "x" * 1_000_000, "Question:\n" * 100_000, "Solution:\n\n" * 100_000, "\\boxed{" * 100_000, "#" * 1_000_000, " \n" * 500_000,
    "Question:\nq\n\nSolution:\n" * 100_000, "\ud800", "\x00",
    *(nested(n, brackets) for n in (200, 450, 900) for brackets in ("{}", "[]")),
)  # fmt: skip
TURNS = [{"role": "system", "content": "c"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "s"}]
GOOD: dict[str, dict[str, Any]] = {
    "columns": {"question": "q", "solution": "s", "answer": "1", "subject": "t", "critique": "Conclusion: right"},
    "messages": {"messages": TURNS, "answer": "1", "subject": "t"},
    "critique": {"input": "Question:\nq\n\nSolution:\ns", "output": "Critique: no", "answer": "1", "subject": "t"},
}


def odd_rows(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The row with every field, and every part of a turn, replaced by every odd value."""
    for field, value in itertools.product(good, ODD):
        yield good | {field: value}
    for place, part, value in itertools.product(range(3), ("role", "content"), ODD if "messages" in good else ()):
        turns = [turn | ({part: value} if number == place else {}) for number, turn in enumerate(good["messages"])]
        yield good | {"messages": turns}


@pytest.mark.parametrize(
    ("layout", "gold", "critiques"),
    [
        ("columns", "column", "released"),
        ("columns", "boxed", "teacher"),
        ("columns", "hashes", "teacher"),
        ("messages", "column", "teacher"),
        ("messages", "boxed", "teacher"),
        ("critique", "column", "released"),
    ],
)
def test_no_value_of_a_row_costs_more_than_the_row(layout: str, gold: str, critiques: str, tmp_path: Path) -> None:
    good = GOOD[layout]
    columns = {name: name for name in good if gold == "column" or name != "answer"}
    made = list(odd_rows(good))
    path = hub_folders.write_jsonl(tmp_path / "own.jsonl", [good, *made])
    data = own(path, layout=layout, gold=gold, critiques=critiques, columns=columns, pool=len(made) + 1)
    counts = load_pool(data).counts
    assert counts["rows"] == len(made) + 1
    assert counts["problems"] + counts["duplicates"] + counts["unusable"] == len(made) + 1
    assert counts["unusable"] > len(made) / 3
    assert not {"not JSON (cut short?)", "not a JSON object"} & set(counts["bad_rows"]), "every row gets as far as the layout"
    json.dumps(counts, ensure_ascii=False).encode()


def test_a_quote_is_short_whatever_it_quotes() -> None:
    assert RowError("r", nested(50_000, "[]")).quote == "[[[[[[[...]]]]]]]"
    assert len(RowError("r", {"a": ["x" * 1000] * 1000}).quote) == len(RowError("r", "x" * 1000).quote) == 80
    assert RowError("r", " \ud800 ").quote == "?"


def test_deep_rows_are_no_hindrance_to_the_list_of_columns(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "own.jsonl", [{"prompt\ud800": nested(900, "{}")}] * 3)
    with pytest.raises(
        DataError, match=r"has the columns prompt\?, prompt\?\.a, prompt\?\.a\.a, but 'question' for question"
    ) as caught:
        load_pool(own(path))
    str(caught.value).encode()
