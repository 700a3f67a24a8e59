"""Sources: every data set of conf/data from a folder in its true layout, own files, bad rows, the seeded draw, what is missing."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_folders
import hub_server
import pytest

from cft_lab.config import PROJECT_ROOT, DataConfig, DataError
from cft_lab.data.draw import Draw
from cft_lab.data.rows import SourceRow
from cft_lab.data.sources import Pool, load_pool, missing_source, source_identity
from cft_lab.hydra_config import compose
from cft_lab.records import to_row

SharedRows = Callable[[str], Iterator[dict[str, object]]]
COLUMNS = {"question": "question", "solution": "solution", "answer": "answer"}


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read from, or written to, the caches of whoever runs the tests."""
    import datasets

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    return cache


def own(path: Path, **fields: Any) -> DataConfig:
    """A local source of rows with question, solution and answer."""
    return DataConfig(**({"name": "own", "source": "local", "path": str(path), "columns": COLUMNS, "pool": 100} | fields))


def rows(many: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": hub_folders.question(i), "solution": hub_folders.solution(i), "answer": 3 * i + 1}
        for i in range(start, start + many)
    ]


def texts(pool: Pool) -> list[tuple[str, str | None]]:
    return [(problem.question, problem.solution) for problem in pool.problems]


def conf(name: str, *overrides: str) -> DataConfig:
    return compose(f"data={name}", *overrides).data


def test_every_hub_source_of_conf_has_a_folder_here() -> None:
    names = {path.stem for path in (PROJECT_ROOT / "conf" / "data").glob("*.yaml")}
    assert {name for name in names if conf(name).source == "hub"} == set(hub_folders.FOLDERS)


@pytest.mark.parametrize("name", hub_folders.FOLDERS)
def test_a_data_set_in_its_true_layout_gives_its_problems(name: str, tmp_path: Path) -> None:
    data = conf(name, f"data.hub_id={hub_folders.FOLDERS[name](tmp_path)}")
    assert data.name == name
    assert list(missing_source(data)) == []
    pool = load_pool(data)
    assert pool.counts["rows"] == len(pool.problems) == hub_folders.EXPECTED[name]
    assert pool.counts["short_of"] == data.pool
    assert pool.counts["content_sha256"] == source_identity(data)["content_sha256"]
    numbers = range(10, 10 + hub_folders.EXPECTED[name])
    assert {problem.question for problem in pool.problems} == {hub_folders.question(i) for i in numbers}
    assert all(problem.solution and problem.source == name for problem in pool.problems)
    golds: dict[str, set[str | None]] = {"gsm8k": {f"{3 * i + 1}000" for i in numbers}}
    golds |= {boxed: {str(3 * i + 1) for i in numbers} for boxed in ("math", "numina", "acemath", "openmath2")}
    assert {problem.answer for problem in pool.problems} == golds.get(name, {None})
    critiques = len(pool.problems) if name.startswith("webinstruct-cft") else 0
    assert len(pool.critiques) == critiques


def test_released_critiques_stand_beside_their_problems_with_their_verdicts(tmp_path: Path) -> None:
    pool = load_pool(conf("webinstruct-cft-4k", f"data.hub_id={hub_folders.webinstruct_cft(tmp_path)}"))
    assert [critique.problem_id for critique in pool.critiques] == [problem.id for problem in pool.problems]
    assert pool.counts["verdicts"] == {"right": 7, "wrong": 7, "unparsed": 0}
    first, problem = pool.critiques[0], pool.problems[0]
    assert first.teacher == "released"
    assert first.text.startswith("The student adds")
    assert first.text.endswith("[END]")
    assert first.verdict is ("Conclusion: right" in first.text)
    assert str(problem.solution).startswith("She has")


def test_the_120_real_critique_rows_parse_with_none_lost(shared_rows: SharedRows, tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "real.jsonl", list(shared_rows("train/cft_alpaca_sample.jsonl")))
    pool = load_pool(own(path, layout="critique", critiques="released", columns={}, pool=120))
    assert len(pool.problems) == len(pool.critiques) == len({problem.id for problem in pool.problems}) == 120
    assert pool.counts["unusable"] == pool.counts["duplicates"] == 0
    assert pool.counts["verdicts"] == {"right": 106, "wrong": 14, "unparsed": 0}
    assert not any(critique.text.startswith("Critique") for critique in pool.critiques)
    assert not any("Solution:\n" in problem.question for problem in pool.problems)


def test_real_critiques_in_nested_columns_keep_their_golds(shared_rows: SharedRows, tmp_path: Path) -> None:
    real = list(shared_rows("train/teacher_critiques_sample.jsonl"))
    columns = {"question": "question", "solution": "student_solution.solution", "critique": "critique", "answer": "gt_answer"}
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "real.jsonl", real), critiques="released", columns=columns))
    assert pool.counts["rows"] == 120
    assert pool.counts["with_gold"] == len(pool.problems) == 100  # the pool that was asked for
    by_text = {str(row["critique"]).strip(): row for row in real}
    for critique in pool.critiques:
        concluded = by_text[critique.text]["critique_extracted_conclusion"]
        assert critique.verdict in (concluded, None)


@pytest.mark.parametrize(
    ("name", "columns", "gold", "without"),
    [
        ("gsm8k_train", {"question": "question", "solution": "answer"}, "hashes", 0),
        ("math_train", {"question": "problem", "solution": "solution", "subject": "type"}, "boxed", 2),  # two write \\boxed 2
    ],
)
def test_real_training_rows_give_their_golds(
    name: str, columns: dict[str, str], gold: str, without: int, shared_rows: SharedRows, tmp_path: Path
) -> None:
    path = hub_folders.write_jsonl(tmp_path / "real.jsonl", list(shared_rows(f"train/{name}.jsonl")))
    pool = load_pool(own(path, columns=columns, gold=gold, pool=3000))
    assert (len(pool.problems), pool.counts["unusable"], pool.counts["duplicates"]) == (3000, 0, 0)
    assert pool.counts["with_gold"] >= 3000 - without


def test_the_lab_source_gives_the_problems_that_it_always_gave() -> None:
    data = conf("lab-web", "data.pool=200")
    pool = load_pool(data, [("lab-basic", "Ada has 3 apples.")])
    written = json.dumps([to_row(problem) for problem in pool.problems])
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == "d9f60edf13da7a1b"
    assert pool.counts["problems"] == 200
    assert "not checked" in pool.counts["decontamination"]
    assert source_identity(data) == {}
    assert list(missing_source(data)) == []


# --- the draw


def test_the_draw_is_the_same_in_any_order_of_rows_files_and_shards(tmp_path: Path) -> None:
    everything = rows(60)
    one = hub_folders.write_jsonl(tmp_path / "one" / "all.jsonl", everything)
    hub_folders.write_jsonl(tmp_path / "two" / "b.jsonl", everything[:25])
    hub_folders.write_jsonl(tmp_path / "two" / "sub" / "a.jsonl", everything[:24:-1])
    pools = [load_pool(own(path, pool=20)) for path in (one, tmp_path / "two")]
    assert pools[0].problems == pools[1].problems
    larger = load_pool(own(one, pool=40)).problems
    assert larger[:20] == pools[0].problems
    assert load_pool(own(one, pool=20, seed=1)).problems != pools[0].problems
    assert {problem.question for problem in larger} != {row["question"] for row in everything[:40]}


def test_streaming_changes_nothing(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(rows(40)).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows(40)[::-1])}).save_to_disk(str(tmp_path / "dict"))
    hub_folders._plain(tmp_path / "hub", [row | {"answer": str(row["answer"])} for row in rows(40)], shards=4)
    hub = DataConfig(name="own", source="hub", columns=COLUMNS, pool=15)
    pools = [
        load_pool(dataclasses.replace(hub, hub_id=str(tmp_path / folder), streaming=streaming)).problems
        for folder in ("saved", "dict", "hub")
        for streaming in (False, True)
    ]
    assert len(pools[0]) == 15
    assert all(pool == pools[0] for pool in pools)
    with pytest.raises(DataError, match=r"data.split=test is not in .*choose from train"):
        load_pool(dataclasses.replace(hub, hub_id=str(tmp_path / "dict"), split="test"))


def test_the_draw_is_uniform() -> None:
    """Each of 50 rows is drawn into 10 of 50 places equally often: chi-square over 2000 seeds below its 99.9 % point (49 df)."""
    counts = dict.fromkeys(range(50), 0)
    made = [SourceRow(hub_folders.question(i), str(i)) for i in range(50)]
    for seed in range(2000):
        draw: Draw[str] = Draw(10, seed, lambda row: None)
        for row in made:
            draw.offer(row)
        for _, row in draw.result().rows:
            counts[int(row.solution)] += 1
    expected = 2000 * 10 / 50
    assert sum((seen - expected) ** 2 / expected for seen in counts.values()) * 50 / 40 < 85.4


def test_copies_count_once_and_ids_follow_from_the_content(tmp_path: Path) -> None:
    spaced = {"question": f"  {hub_folders.question(3)}\n", "solution": hub_folders.solution(3).replace(" ", "  "), "answer": 10}
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "a.jsonl", [*rows(10), spaced, *rows(5)])))
    assert (len(pool.problems), pool.counts["duplicates"], pool.counts["rows"]) == (10, 6, 16)
    again = load_pool(own(hub_folders.write_jsonl(tmp_path / "b.jsonl", [*rows(5), spaced, *rows(10)[::-1]])))
    assert again.problems == pool.problems
    assert all(len(problem.id) == 16 and int(problem.id, 16) for problem in pool.problems)


def test_one_solution_with_two_critiques_is_two_rows(tmp_path: Path) -> None:
    made = [row | {"critique": f"Fine.\nConclusion: {word} [END]"} for row in rows(3) for word in ("right", "wrong")]
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", made)
    mapped = own(path, columns=COLUMNS | {"critique": "critique"}, critiques="released")
    assert load_pool(mapped).counts["verdicts"] == {"right": 3, "wrong": 3, "unparsed": 0}
    assert load_pool(dataclasses.replace(mapped, critiques="teacher")).counts["duplicates"] == 3


def test_what_overlaps_is_replaced_by_what_comes_next(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", rows(60))
    plain = load_pool(own(path, pool=60)).problems
    evaluated = [("bench", plain[i].question) for i in (0, 3, 55)]
    pool = load_pool(own(path, pool=20), evaluated, words=13)
    shared = {problem.id for problem in plain} - {problem.id for problem in load_pool(own(path, pool=60), evaluated, 13).problems}
    assert pool.problems == [problem for problem in plain if problem.id not in shared][:20]
    found = pool.counts["decontamination"]
    assert found["left_out"] == found["by_benchmark"]["bench"] == 2  # the one at place 55 would not have been drawn anyway
    assert [example["id"] for example in found["examples"]] == [plain[0].id, plain[3].id]
    assert load_pool(own(path, pool=20), evaluated, words=0).problems == plain[:20]


def test_scan_rows_looks_at_the_first_rows_only(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", rows(30))
    pool = load_pool(own(path, scan_rows=12))
    assert (pool.counts["rows"], pool.counts["whole_source"]) == (12, False)
    assert {problem.question for problem in pool.problems} == {row["question"] for row in rows(12)}
    assert load_pool(own(path, scan_rows=30)).counts["whole_source"]


# --- bad rows, each of which costs itself only


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


def test_nothing_usable_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "own.jsonl", [{"question": "", "solution": "s", "answer": 1}] * 4)
    with pytest.raises(DataError, match=r"nothing that can be used: 4 rows were read, 4 empty question"):
        load_pool(own(path))
    path.write_text("")
    with pytest.raises(DataError, match="0 rows were read"):
        load_pool(own(path))
    hub_folders.write_jsonl(path, rows(2))
    with pytest.raises(DataError, match="2 overlap with an evaluated question"):
        load_pool(own(path), [("bench", row["question"]) for row in rows(2)])


# --- layouts


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


# --- own files


def test_own_files_of_every_kind_give_the_same_problems(tmp_path: Path) -> None:
    import csv

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


def test_other_columns_are_named_before_anything_is_drawn(tmp_path: Path) -> None:
    nested = hub_folders.write_jsonl(tmp_path / "own.jsonl", [{"prompt": "q", "student": {"text": "s"}}])
    with pytest.raises(DataError) as caught:
        load_pool(own(nested, columns={"question": "question", "solution": "student.answer"}))
    message = str(caught.value)
    assert "has the columns prompt, student, student.text" in message
    assert "'question' for question, 'student.answer' for solution" in message
    assert "data.columns.question=COLUMN" in message
    mapped = own(nested, columns={"question": "prompt", "solution": "student.text"})
    assert texts(load_pool(mapped)) == [("q", "s")]
    folder = hub_folders.orcamath(tmp_path / "hub")
    with pytest.raises(DataError, match=r"has the columns answer, question, but 'problem' for question, 'solution' for solution"):
        load_pool(conf("numina", f"data.hub_id={folder}"))


def test_a_column_of_golds_may_be_sparse(tmp_path: Path) -> None:
    sparse = [
        {"question": "q1", "solution": "s"},
        {"question": "q2", "solution": "s", "answer": 2.5},
        {"question": "q3", "solution": "s", "answer": " "},
    ]
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "own.jsonl", sparse)))
    assert {problem.question: problem.answer for problem in pool.problems} == {"q1": None, "q2": "2.5", "q3": None}
    assert pool.counts["with_gold"] == 1


# --- identity, and what is missing


def test_the_identity_is_what_the_files_hold_not_where_or_when(tmp_path: Path) -> None:
    one = hub_folders.write_jsonl(tmp_path / "one" / "a.jsonl", rows(3))
    two = hub_folders.write_jsonl(tmp_path / "two" / "a.jsonl", rows(3))
    os.utime(two, (1, 1))
    identity = source_identity(own(one.parent))
    assert source_identity(own(two.parent)) == identity
    hub_folders.write_jsonl(two, rows(4))
    assert source_identity(own(two.parent)) != identity
    assert source_identity(DataConfig(source="hub", hub_id=str(one.parent))) == identity
    assert source_identity(DataConfig(source="hub", hub_id="owner/name")) == {}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"path": None}, ["data.path is missing"]),
        ({"path": "nowhere"}, ["data.path=nowhere does not exist"]),
        ({"path": "FOLDER"}, ["has no file that can be read"]),
        ({"columns": {"question": "q"}}, ["data.columns.solution is missing"]),
        ({"columns": COLUMNS | {"qestion": "q"}}, ["data.columns.qestion is unknown"]),
        ({"gold": "boxed"}, ["data.gold=boxed reads no column"]),
        ({"critiques": "released"}, ["data.critiques=released needs the critiques"]),
        ({"layout": "critique", "gold": "boxed", "columns": {}}, ["would take a noisy solution for gold"]),
        ({"hub_id": "owner/name"}, ["data.hub_id=owner/name is read with data.source=hub only"]),
        ({"source": "hub"}, ["is read with data.source=local only"]),
        ({"source": "hub", "path": None}, ["data.hub_id is missing"]),
        ({"source": "hub", "path": None, "hub_id": "./nowhere"}, ["data.hub_id=./nowhere does not exist"]),
        ({"source": "hub", "path": None, "hub_id": "owner/name"}, ["HF_HUB_OFFLINE=1 forbids to fetch it", "hf download"]),
    ],
)
def test_what_is_missing_is_said_in_a_line_each(fields: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    good = hub_folders.write_jsonl(tmp_path / "own.jsonl", rows(1))
    changed = {name: str(folder) if value == "FOLDER" else value for name, value in fields.items()}
    data = dataclasses.replace(own(good), **changed)
    lines = list(missing_source(data))
    assert len(lines) == 1
    assert all(part in lines[0] for part in told)
    with pytest.raises(DataError, match="data"):
        load_pool(data)
    assert list(missing_source(own(good))) == []


def _python(script: str, given: str = "", **environment: str) -> str:
    """What a fresh Python prints."""
    command = [sys.executable, "-W", "error", "-c", script]
    settings = os.environ | environment
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=PROJECT_ROOT, env=settings, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_looking_for_what_is_missing_imports_no_datasets_and_takes_no_time() -> None:
    told = _python(
        "import sys, time\n"
        "from cft_lab.hydra_config import compose\n"
        "from cft_lab.data.sources import missing_source, source_identity\n"
        "data = [compose(f'data={name}').data for name in ('webinstruct', 'local', 'math')]\n"
        "started = time.monotonic()\n"
        "print([len(list(missing_source(part))) for part in data], [source_identity(part) for part in data])\n"
        "print(time.monotonic() - started < 0.5, [name for name in ('datasets', 'pandas', 'numpy') if name in sys.modules])"
    )
    assert told.splitlines() == ["[1, 1, 1] [{}, {}, {}]", "True []"]


def test_a_hub_id_that_cannot_be_reached_is_refused_at_once() -> None:
    started = time.monotonic()
    told = _python(
        "from cft_lab.config import DataError\n"
        "from cft_lab.hydra_config import compose\n"
        "from cft_lab.data.sources import load_pool\n"
        "try:\n    load_pool(compose('data=gsm8k').data)\n"
        "except DataError as error:\n    print(error)",
        HF_ENDPOINT="http://127.0.0.1:9",  # the discard port: nobody listens
        HF_HUB_OFFLINE="0",
    )
    assert told.startswith("data.hub_id=openai/gsm8k cannot be reached on the hub")
    assert "set data.hub_id to a local folder" in told
    assert time.monotonic() - started < 30


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub on loopback with three data sets."""
    hub_folders.gsm8k(tmp_path / "served" / "openai" / "gsm8k")
    hub_folders.math(tmp_path / "served" / "EleutherAI" / "hendrycks_math")
    hub_folders.webinstruct(tmp_path / "served" / "TIGER-Lab" / "WebInstructSub")
    command = [sys.executable, str(Path(hub_server.__file__)), str(tmp_path / "served")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()


_DRAW_EACH = """
import json, sys
from cft_lab.config import DataError
from cft_lab.data.sources import load_pool
from cft_lab.hydra_config import compose
for overrides in json.loads(sys.stdin.read()):
    try:
        pool = load_pool(compose(*overrides).data)
        print(json.dumps([pool.counts.get("revision"), [problem.id for problem in pool.problems]]))
    except DataError as error:
        print(json.dumps([str(error), []]))
"""


def test_a_hub_id_is_downloaded_or_streamed_at_one_commit_and_read_again_offline(hub: str, tmp_path: Path) -> None:
    whole, streamed = ["data=webinstruct", "data.streaming=false"], ["data=webinstruct"]
    cells = [["data=gsm8k"], ["data=math"], whole, streamed, ["data=orcamath"], ["data=gsm8k", "data.split=dev"]]
    online = {
        "HF_ENDPOINT": hub,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
    }
    found = [json.loads(line) for line in _python(_DRAW_EACH, json.dumps(cells), **online).splitlines()]
    assert [(told, len(ids)) for told, ids in found[:4]] == [(hub_server.COMMIT, hub_folders.ROWS)] * 4
    assert found[2] == found[3]
    assert "microsoft/orca-math-word-problems-200k cannot be reached on the hub (RepositoryNotFoundError" in found[4][0]
    assert "data.split=dev is not in openai/gsm8k" in found[5][0]

    cells = [
        ["data=gsm8k"],
        ["data=math"],
        whole,
        ["data=gsm8k", f"data.revision={hub_server.COMMIT}"],
        ["data=gsm8k", "data.subset=socratic"],
    ]
    again = [json.loads(line) for line in _python(_DRAW_EACH, json.dumps(cells), **online | {"HF_HUB_OFFLINE": "1"}).splitlines()]
    assert again[:3] == found[:3]
    assert again[3] == found[0]
    assert "perhaps fetched in part (run `hf download --repo-type dataset openai/gsm8k`" in again[4][0]


def test_a_data_set_of_several_configurations_says_so(tmp_path: Path) -> None:
    folder = hub_folders.math(tmp_path)
    with pytest.raises(DataError, match=r"data.subset=None does not say which .* algebra, .*name one, or all for all of them"):
        load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), subset=None))
    with pytest.raises(DataError, match=r"data.subset=logic is not among its configurations.*precalculus"):
        load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), subset="logic"))
    assert len(load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), subset="algebra")).problems) == 2
    with pytest.raises(DataError, match=r"data.split=validation is not in .*train.*test"):
        load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), split="validation"))


def test_offline_a_hub_id_is_read_from_the_hubs_cache_with_its_commit(own_caches: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = own_caches / "hub" / "datasets--microsoft--orca-math-word-problems-200k"
    snapshot = repository / "snapshots" / commit
    hub_folders.orcamath(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    data = conf("orcamath")
    pool = load_pool(data)
    assert pool.counts["revision"] == commit
    assert len(pool.problems) == hub_folders.ROWS
    assert load_pool(dataclasses.replace(data, revision=commit)).problems == pool.problems
    assert "at revision v2" in next(missing_source(dataclasses.replace(data, revision="v2")))
    shard = snapshot / "data" / "train-00000-of-00001.parquet"
    shard.rename(shard.with_name("train-00000-of-00003.parquet"))
    with pytest.raises(DataError, match="has only 1 of the 3 files of data/train: its download was interrupted"):
        load_pool(data)
    shutil.rmtree(snapshot / "data")  # the card alone is no data set
    assert len(list(missing_source(data))) == 1


def test_a_folder_without_data_or_with_broken_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.hub_id=.*empty cannot be read: EmptyDatasetError"):
        load_pool(conf("orcamath", f"data.hub_id={tmp_path / 'empty'}"))
    folder = hub_folders.orcamath(tmp_path / "broken")
    next((folder / "data").iterdir()).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"data.hub_id=.*broken cannot be read"):
        load_pool(conf("orcamath", f"data.hub_id={folder}"))
