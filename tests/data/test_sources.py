"""Sources: every data set of conf/data from a folder in its true layout, the lab, what is missing and what is in the key."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_folders
import pytest
from own_data import COLUMNS, conf, fresh_python, own, rows, texts

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, DataConfig, DataError
from cft_lab.data.sources import load_pool, missing_source, source_identity, too_few_rows
from cft_lab.hydra_config import compose

pytestmark = pytest.mark.usefixtures("own_caches")

SharedRows = Callable[[str], Iterator[dict[str, object]]]


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
    written = json.dumps([[p.id, p.question, p.source, p.answer, p.solution, p.subject] for p in pool.problems])
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == "aa469c164c411384"
    assert pool.counts["problems"] == 200
    assert "not checked" in pool.counts["decontamination"]
    assert source_identity(data) == {}
    assert list(missing_source(data)) == []


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
        ({"columns": COLUMNS | {"solution": ""}}, ["data.columns.solution is empty"]),
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


def test_own_files_with_fewer_rows_than_examples_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    data = dataclasses.replace(own(hub_folders.write_jsonl(tmp_path / "own.jsonl", rows(3))), examples=4)
    (line,) = too_few_rows(data)
    assert "own.jsonl has 3 rows, and data.examples=4 are wanted: add rows, or lower data.examples" in line
    assert list(too_few_rows(dataclasses.replace(data, examples=3))) == []
    assert list(too_few_rows(dataclasses.replace(data, examples=None))) == []
    assert list(too_few_rows(dataclasses.replace(data, path=str(tmp_path / "none.jsonl")))) == []
    config = dataclasses.replace(compose("method=sft", "data=local", f"data.path={data.path}"), data=data)
    assert any("data.examples=4" in line for stage in pipeline.plan(config).result.walk() for line in stage.lacks())


def test_looking_for_what_is_missing_imports_no_datasets_and_takes_no_time() -> None:
    told = fresh_python(
        "import sys, time\n"
        "from cft_lab.hydra_config import compose\n"
        "from cft_lab.data.sources import missing_source, source_identity\n"
        "data = [compose(f'data={name}').data for name in ('webinstruct', 'local', 'math')]\n"
        "started = time.monotonic()\n"
        "print([len(list(missing_source(part))) for part in data], [source_identity(part) for part in data])\n"
        "print(time.monotonic() - started < 0.5, [name for name in ('datasets', 'pandas', 'numpy') if name in sys.modules])"
    )
    assert told.splitlines() == ["[1, 1, 1] [{}, {}, {}]", "True []"]
