"""Benchmarks from files in the forms that really occur: the hub's folders, evaluation repositories' JSON lines, damaged copies."""

import http.server
import json
import os
import random
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cells import DEBUG, SHARED_DATA

from cft_lab.config import PROJECT_ROOT, DataError
from cft_lab.evaluation import golds
from cft_lab.evaluation.benchmark_rows import HubData, content_hash, locate, read
from cft_lab.evaluation.benchmarks import BENCHMARKS, HUB_BENCHMARKS, load_benchmark, load_items
from cft_lab.hydra_config import compose
from cft_lab.published import published_values
from cft_lab.records import Problem, from_row, to_row

GSM8K = [
    {"question": "Two and two?", "answer": "2 + 2 = 4\n#### 4"},
    {"question": "A thousand and two?", "answer": "Add.\n#### 1,002"},
    {"question": "Two less five?", "answer": "2 - 5\n#### -3"},
]
REAL = {
    "math": ("math_test.jsonl", 5000),
    "math500": ("math500.jsonl", 500),
    "minerva-math": ("minerva_math.jsonl", 272),
    "gsm8k": ("gsm8k_test.jsonl", 1319),
    "olympiadbench": ("olympiadbench.jsonl", 675),
    "aime24": ("aime24.jsonl", 30),
    "amc23": ("amc23.jsonl", 40),
    "theoremqa": ("theoremqa.jsonl", 800),
}


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is in the hub's caches unless a test puts it there."""
    monkeypatch.delenv("CFT_LAB_BENCHMARKS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache" / "datasets"))
    return tmp_path / "cache"


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_readme(folder: Path, configs: Mapping[str, tuple[str, str]]) -> None:
    """A data set card as on the hub: config -> (split, files)."""
    lines = [
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {files}" for name, (split, files) in configs.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n# A card\n")


def gsm8k_folder(folder: Path) -> Path:
    """openai/gsm8k's layout: two configs, two splits, Parquet."""
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {c}\n  data_files:\n  - split: train\n    path: {c}/train-*\n  - split: test\n    path: {c}/test-*\n"
        for c in ("main", "socratic")
    )
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"{card}---\n")
    other = [{"question": "other", "answer": "#### 0"}]
    for config in ("main", "socratic"):
        for split in ("train", "test"):
            rows = GSM8K if (config, split) == ("main", "test") else other
            write_parquet(folder / config / f"{split}-00000-of-00001.parquet", rows)
    return folder


# --- the real files


def real_items(name: str) -> list[Problem]:
    file, _ = REAL[name]
    path = SHARED_DATA / "benchmarks" / file
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return load_items(name, paths={name: str(path)})


@pytest.mark.parametrize("name", REAL)
def test_real_files_load_whole(name: str) -> None:
    items = real_items(name)
    assert len(items) == REAL[name][1] == HUB_BENCHMARKS[name].size
    assert load_benchmark(name, {name: str(SHARED_DATA / "benchmarks" / REAL[name][0])}).flag is None
    assert len({item.id for item in items}) == len(items)
    assert all(item.answer and item.question and item.source == name for item in items)
    assert [from_row(Problem, json.loads(json.dumps(to_row(item)))) for item in items[:5]] == items[:5]


def test_boxed_golds_of_math_are_the_answers_that_math500_states() -> None:
    stated = {item.question: item.answer for item in real_items("math500")}
    boxed = {item.question: item.answer for item in real_items("math")}
    differing = {question for question in stated if stated[question] != boxed[question]}
    assert len(stated.keys() & boxed.keys()) == 500
    assert len(differing) <= 5, [(stated[q], boxed[q]) for q in differing]  # re-spelled by MATH-500's authors


def test_contest_golds_are_whole_numbers() -> None:
    golds_of = [item.answer for name in ("aime24", "amc23") for item in real_items(name)]
    assert all(str(int(str(gold))) == gold for gold in golds_of)
    assert "25" in golds_of
    assert "-1" in golds_of


def test_gsm8k_golds_have_no_commas_and_solutions_no_gold() -> None:
    items = real_items("gsm8k")
    assert all(str(item.answer).lstrip("-").isdigit() for item in items)
    assert sum(len(str(item.answer)) > 3 for item in items) > 100
    assert all("####" not in str(item.solution) for item in items)


def test_olympiadbench_marks_several_answers_and_the_tolerance() -> None:
    items = real_items("olympiadbench")
    assert Counter(item.kind for item in items) == {"math": 581, "set": 94}
    assert [(item.answer, item.tolerance) for item in items if item.tolerance is not None] == [("4.2", 0.1)]
    assert not any("$" in str(item.answer) for item in items)
    assert next(item.answer for item in items if item.id == "olympiadbench/1606") == "2"


def test_theoremqa_kinds_and_pictures() -> None:
    items = real_items("theoremqa")
    assert Counter(item.kind for item in items) == {"number": 593, "bool": 116, "list": 73, "choice": 18}
    assert sum(item.needs_picture for item in items) == 53
    assert {item.answer for item in items if item.kind == "bool"} == {"True", "False"}
    assert {item.answer for item in items if item.kind == "choice"} == set("ABCD")
    numbers = [str(item.answer) for item in items if item.kind == "number"]
    assert sum("." in number for number in numbers) == 377, "as many as are floats: the others are whole numbers"
    assert all(number.lstrip("-").replace(".", "", 1).isdigit() for number in numbers), "no exponents"


def test_a_part_of_mmlu_pro_is_flagged() -> None:
    path = SHARED_DATA / "benchmarks" / "mmlu_pro_sample.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    loaded = load_benchmark("mmlu-pro", {"mmlu-pro": str(path)})
    assert loaded.flag == "703 of 12032"
    for item in loaded.problems:
        assert item.options is not None
        assert str(item.answer) in golds.LETTERS[: len(item.options)]


def test_the_clean_validation_set_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    path = SHARED_DATA / "train" / "math_train.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    loaded = load_benchmark("math-train-clean", {"math-train-clean": str(path)})
    assert len(loaded.problems) == 500
    assert loaded.flag == "3000 of 7500"
    lines = path.read_text(encoding="utf-8").splitlines()
    random.Random(3).shuffle(lines)
    (tmp_path / "shuffled.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert load_items("math-train-clean", paths={"math-train-clean": str(tmp_path / "shuffled.jsonl")}) == list(loaded.problems)
    tested = {item.question for item in real_items("math")}
    assert not tested & {item.question for item in loaded.problems}


# --- rows and golds


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"so $\boxed 9$.", "9"),
        (r"\fbox{a{b}c}", "a{b}c"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\}", None),
        (r"\boxed{unclosed", None),
        ("none", None),
        (r"\boxed{}", None),
    ],
)
def test_boxed_answer(solution: str, gold: str | None) -> None:
    assert golds.boxed_answer(solution) == gold


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("025", "25"),
        (27.0, "27"),
        ("1,002", "1002"),
        ("-3", "-3"),
        (4e-05, "0.00004"),
        ("2.50", "2.5"),
        (" -7 ", "-7"),
        (0.0, "0"),
    ],
)
def test_plain_number(value: object, plain: str) -> None:
    assert golds.plain_number(value) == plain


@pytest.mark.parametrize("value", ["", "x+1", "nan", "inf", None, [1]])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(golds.BadRowError):
        golds.plain_number(value)


@pytest.mark.parametrize(
    ("kind", "answer", "gold"),
    [
        ("bool", "True", "True"),
        ("bool", False, "False"),
        ("option", "(c)", "C"),
        ("integer", "11760", "11760"),
        ("float", "1.0", "1.0"),
        ("float", 345, "345.0"),
        ("float", 4e-05, "0.00004"),
        ("list of integer", "[0, 5]", "[0, 5]"),
        ("list of float", [2.0, 1.32], "[2.0, 1.32]"),
    ],
)
def test_theoremqa_golds_of_hub_and_local_rows(kind: str, answer: object, gold: str) -> None:
    row = {"Question": "q", "Answer": answer, "Answer_type": kind, "Picture": None}
    assert golds.theoremqa(row, "0", "theoremqa").answer == gold


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("bool", "maybe"),
        ("option", "(z)"),
        ("list of float", "1, 2"),
        ("matrix", "1"),
        ("float", "nan"),
        ("float", "x"),
        ("integer", "two"),
        ("list of integer", "[[1]]"),
        ("float", None),
    ],
)
def test_theoremqa_rows_that_cannot_be_used(kind: str, answer: object) -> None:
    with pytest.raises(golds.BadRowError):
        golds.theoremqa({"Question": "q", "Answer": answer, "Answer_type": kind, "Picture": None}, "0", "theoremqa")


GPQA = [
    {
        "Question": f" question {i}\n",
        "Correct Answer": f"right {i}",
        **{f"Incorrect Answer {j}": f"wrong {i}{j}\n" for j in (1, 2, 3)},
        "Record ID": f"rec{i}",
        "Subdomain": "Genetics",
    }
    for i in range(40)
]


def test_gpqa_options_are_shuffled_by_row_id_and_keep_the_right_one(tmp_path: Path) -> None:
    forward = load_items("gpqa-diamond", paths={"gpqa-diamond": str(write_jsonl(tmp_path / "a.jsonl", GPQA))})
    backward = load_items("gpqa-diamond", paths={"gpqa-diamond": str(write_jsonl(tmp_path / "b.jsonl", GPQA[::-1]))})
    assert forward == backward[::-1]
    for i, item in enumerate(forward):
        assert item.options is not None
        assert item.options["ABCD".index(str(item.answer))] == f"right {i}"
        assert sorted(item.options) == sorted([f"right {i}", *(f"wrong {i}{j}" for j in (1, 2, 3))])
    assert set(Counter(item.answer for item in forward)) == set("ABCD")


def test_only_gpqa_is_private() -> None:
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.private] == ["gpqa-diamond"]


@pytest.mark.slow
def test_a_private_benchmark_is_scored_and_its_text_stays_out_of_trackers_and_logs(
    tmp_path: Path, debug_model: Path, shared_store: Path
) -> None:
    from cft_lab import pipeline

    def run(name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
        path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        cell = ("method=base", f"benchmarks.names=[{name}]", f"+benchmarks.paths.{name}={path}", "tracking=wandb")
        said: list[str] = []
        config = compose(*DEBUG, *cell, f"output_root={shared_store}")
        key = pipeline.plan(config).result.key
        score = pipeline.run(config, said.append).scores[0]
        sent = [file for file in (shared_store / "tracking").rglob("*") if file.is_file() and key in str(file.parent)]
        assert any(file.suffix == ".wandb" for file in sent)
        return score.n, "".join(said) + b"".join(file.read_bytes() for file in sent).decode(errors="replace")

    n, told = run("gpqa-diamond", GPQA)
    assert n == 4
    assert "gpqa-diamond" in told
    assert not any(f"{word} {i}" in told for word in ("question", "right", "wrong") for i in range(4))
    assert "40 of 198" in told, "the count is said"
    _, told = run("gsm8k", GSM8K)
    assert "Two and two?" in told, "what is not private is shown, so this test would notice"


def test_choices_must_fit_their_options() -> None:
    row = {"question": "q", "options": ["a", "b"], "answer": "B", "answer_index": 1}
    assert golds.multiple_choice(row, "0", "mmlu-pro").options == ("a", "b")
    for change in ({"answer": "C"}, {"answer_index": 0}, {"options": []}, {"options": "ab"}):
        with pytest.raises(golds.BadRowError):
            golds.multiple_choice(row | change, "0", "mmlu-pro")


def test_tolerance_and_context_of_olympiadbench() -> None:
    row = {"question": "q", "context": "c", "final_answer": ["$1$", "$2$."], "is_multiple_answer": False, "error": "1e-2", "id": 7}
    item = golds.olympiadbench(row, "0", "olympiadbench")
    assert (item.question, item.answer, item.kind, item.tolerance) == ("c\nq", "1, 2", "set", 0.01)
    for change in ({"final_answer": []}, {"final_answer": ["$ $"]}, {"error": "small"}, {"question": ""}):
        with pytest.raises(golds.BadRowError):
            golds.olympiadbench(row | change, "0", "olympiadbench")


# --- folders in the hub's layout, read by the datasets library


def test_a_hub_folder_with_configs(tmp_path: Path) -> None:
    items = load_items("gsm8k", paths={"gsm8k": str(gsm8k_folder(tmp_path / "gsm8k"))})
    assert [item.answer for item in items] == ["4", "1002", "-3"]
    assert [item.id for item in items] == ["gsm8k/0", "gsm8k/1", "gsm8k/2"]


def test_all_seven_subjects_of_math(tmp_path: Path) -> None:
    configs = HUB_BENCHMARKS["math"].hub.configs
    folder = tmp_path / "math"
    for place, config in enumerate(configs):
        rows = [{"problem": f"{config}?", "level": "Level 3", "type": config, "solution": f"so $\\boxed{{{place}}}$"}]
        write_parquet(folder / config / "test-00000-of-00001.parquet", rows)
    write_readme(folder, {config: ("test", f"{config}/test-*") for config in configs})
    loaded = load_benchmark("math", {"math": str(folder)})
    assert [item.id for item in loaded.problems] == [f"math/{config}/0" for config in configs]
    assert [item.answer for item in loaded.problems] == [str(place) for place in range(7)]
    assert loaded.flag == "7 of 5000"
    shutil.rmtree(folder / "geometry")
    with pytest.raises(DataError, match="does not hold EleutherAI/hendrycks_math"):
        load_items("math", paths={"math": str(folder)})


def test_gpqa_as_csv_and_olympiadbench_under_train(tmp_path: Path) -> None:
    import pandas

    folder = tmp_path / "gpqa"
    write_readme(folder, {"gpqa_main": ("train", "gpqa_main.csv"), "gpqa_diamond": ("train", "gpqa_diamond.csv")})
    pandas.DataFrame(GPQA[:5]).to_csv(folder / "gpqa_main.csv", index=False)
    pandas.DataFrame(GPQA[:3]).to_csv(folder / "gpqa_diamond.csv", index=False)
    assert [item.id for item in load_items("gpqa-diamond", paths={"gpqa-diamond": str(folder)})] == [
        f"gpqa-diamond/rec{i}" for i in range(3)
    ]
    folder = tmp_path / "olympiad"
    rows = [{"id": 5, "question": "q", "context": None, "final_answer": ["2"], "is_multiple_answer": False, "error": None}]
    name = "OE_TO_maths_en_COMP"
    write_parquet(folder / name / f"{name}.parquet", rows)
    write_readme(folder, {name: ("train", f"{name}/{name}.parquet"), "OE_MM_maths_en_COMP": ("train", "absent.parquet")})
    assert [item.id for item in load_items("olympiadbench", paths={"olympiadbench": str(folder)})] == ["olympiadbench/5"]


def test_pictures_of_the_hub_are_marked_and_not_decoded(tmp_path: Path) -> None:
    """As on the hub, the Parquet file says that a column holds pictures, which the datasets library would want to open."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"Question": "with", "Answer": "True", "Answer_type": "bool", "Picture": {"bytes": b"no real picture", "path": "a.png"}},
        {"Question": "without", "Answer": "[1, 2]", "Answer_type": "list of integer", "Picture": None},
    ]
    features = {name: {"dtype": "string", "_type": "Value"} for name in rows[0]} | {"Picture": {"_type": "Image"}}
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    items = load_items("theoremqa", paths={"theoremqa": str(tmp_path)})
    assert [(item.answer, item.needs_picture) for item in items] == [("True", True), ("[1, 2]", False)]


def test_files_and_folders_of_evaluation_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K)
    write_parquet(tmp_path / "amc23.parquet", [{"id": 3, "question": "q", "answer": 27.0}])
    write_jsonl(tmp_path / "minerva_math" / "test.jsonl", [{"problem": "p", "solution": r"\boxed{1.6}", "idx": 9}])
    monkeypatch.setenv("CFT_LAB_BENCHMARKS", str(tmp_path))
    assert [item.answer for item in load_items("gsm8k")] == ["4", "1002", "-3"]
    assert [(item.id, item.answer) for item in load_items("amc23")] == [("amc23/3", "27")]
    assert [(item.id, item.answer) for item in load_items("minerva-math")] == [("minerva-math/9", "1.6")]
    assert len(load_items("gsm8k", 2)) == 2
    other = write_jsonl(tmp_path / "other.jsonl", GSM8K[:1])
    assert len(load_items("gsm8k", paths={"gsm8k": str(other)})) == 1, "the config's path comes before the environment's"


# --- damaged and wrong files


def test_damaged_lines_cost_their_row_and_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in GSM8K]
    (tmp_path / "damaged.jsonl").write_bytes(
        b"\n".join([lines[0], b'{"question": "caf\xe9", "answer": "#### 1"}', b"[1]", b"", lines[1], lines[2][:-9]])
    )
    loaded = load_benchmark("gsm8k", {"gsm8k": str(tmp_path / "damaged.jsonl")})
    assert [item.id for item in loaded.problems] == ["gsm8k/0", "gsm8k/3"], "a lost row does not rename the others"
    assert [reason.removeprefix("row ").split(" ", 1) for reason in loaded.skipped] == [
        ["1", "of damaged.jsonl is not UTF-8"],
        ["2", "of damaged.jsonl is not a JSON object"],
        ["4", "of damaged.jsonl is not JSON"],
    ]
    assert loaded.flag == "2 of 1319 (3 unusable: row 1 of damaged.jsonl is not UTF-8)"


def test_rows_without_a_gold_and_repeated_ids_are_counted(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "question": "q", "answer": "1"},
        {"id": 1, "question": "r", "answer": "2"},
        {"id": 2, "question": "s", "answer": " "},
    ]
    loaded = load_benchmark("minerva-math", {"minerva-math": str(write_jsonl(tmp_path / "m.jsonl", rows))})
    assert [item.answer for item in loaded.problems] == ["1"]
    assert loaded.skipped == (
        "row 1 has the id of an earlier row",
        "row 2: it has neither an answer nor a \\boxed one in its solution",
    )


def test_reasons_never_quote_a_row(tmp_path: Path) -> None:
    rows = [GPQA[0], {**GPQA[1], "Incorrect Answer 2": ""}, {**GPQA[2], "Record ID": "rec0"}]
    path = write_jsonl(tmp_path / "g.jsonl", rows)
    path.write_text(path.read_text() + '{"Question": "secret tail')
    told = " ".join(load_benchmark("gpqa-diamond", {"gpqa-diamond": str(path)}).skipped)
    assert "row 1" in told
    assert not any(word in told for word in ("right", "wrong", "question", "secret"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "have no rows that can be read"),
        (b"\n\n", "have no rows that can be read"),
        (b'{"prompt": "q", "label": "1"}\n', "no column question, no column answer; found label, prompt"),
        (b'{"question": "q", "answer": ""}\n', "none of its 1 rows can be used"),
    ],
)
def test_files_that_hold_no_items(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_items("gsm8k", paths={"gsm8k": str(tmp_path / "x.jsonl")})


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("no")
    (tmp_path / "x.parquet").write_text("no")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("absent.jsonl", "does not exist"),
        ("x.txt", "not a .jsonl or .parquet file"),
        ("x.parquet", "cannot be read as Parquet"),
        ("empty", "does not hold openai/gsm8k"),
    ):
        with pytest.raises(DataError, match=said):
            load_items("gsm8k", paths={"gsm8k": str(tmp_path / name)})


def test_a_folder_without_the_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "g" / "train.jsonl", GSM8K)
    with pytest.raises(DataError, match="split test"):
        load_items("gsm8k", paths={"gsm8k": str(tmp_path / "g")})


# --- the caches and the hub


def put_in_hub_cache(cache: Path, commit: str, noted: bool) -> Path:
    repository = cache / "hub" / "datasets--openai--gsm8k"
    gsm8k_folder(repository / "snapshots" / commit)
    if noted:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    return repository


@pytest.mark.parametrize("noted", [True, False])
def test_rows_from_the_hubs_cache(empty_caches: Path, noted: bool) -> None:
    assert BENCHMARKS["gsm8k"].identity({})["revision"] is None
    repository = put_in_hub_cache(empty_caches, "c0ffee", noted)
    assert BENCHMARKS["gsm8k"].missing({}) is None
    assert [item.answer for item in load_items("gsm8k")] == ["4", "1002", "-3"]
    assert BENCHMARKS["gsm8k"].identity({}) == {
        "benchmark": "gsm8k",
        "loader": 1,
        "hub_id": "openai/gsm8k",
        "split": "test",
        "configs": ["main"],
        "gated": False,
        "revision": "c0ffee",
    }
    shutil.rmtree(repository / "snapshots" / "c0ffee" / "main")  # another config's files are not this one's
    assert "hf download openai/gsm8k" in str(BENCHMARKS["gsm8k"].missing({}))


def test_rows_from_the_datasets_librarys_cache(empty_caches: Path) -> None:
    """The layout is the library's own: it reads the same folder back without a network."""
    import datasets

    folder = empty_caches / "datasets" / "openai___gsm8k" / "main" / "0.0.0" / "c0ffee"
    folder.mkdir(parents=True)
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "gsm8k-test.arrow")) as writer:
        for row in GSM8K:
            writer.write(row)
        writer.finalize()
    splits = {"test": {"name": "test", "num_bytes": 1, "num_examples": 3, "dataset_name": "gsm8k"}}
    info = {"config_name": "main", "dataset_name": "gsm8k", "builder_name": "parquet", "splits": splits, "version": "0.0.0"}
    info["features"] = {name: {"dtype": "string", "_type": "Value"} for name in ("question", "answer")}  # type: ignore[assignment]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    script = "import datasets; print(datasets.load_dataset('openai/gsm8k', 'main', split='test')['question'][:])"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(empty_caches / "datasets")}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True).stdout
    assert told.strip() == str([row["question"] for row in GSM8K])
    assert [item.question for item in load_items("gsm8k")] == [row["question"] for row in GSM8K]
    assert BENCHMARKS["gsm8k"].identity({})["revision"] == "c0ffee"


@pytest.mark.parametrize(
    ("hub_id", "folder"), [("Hothan/OlympiadBench", "Hothan___olympiad_bench"), ("TIGER-Lab/TheoremQA", "TIGER-Lab___theorem_qa")]
)
def test_the_datasets_library_writes_names_so(empty_caches: Path, hub_id: str, folder: str) -> None:
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = hub_id.partition("/")
    assert f"{owner}___{camelcase_to_snakecase(name)}" == folder
    made = empty_caches / "datasets" / folder / "default" / "0.0.0" / "abc"
    made.mkdir(parents=True)
    (made / "dataset_info.json").write_text("{}")
    (made / "x-test.arrow").write_bytes(b"")
    located = locate("x", HubData(hub_id), {})
    assert located is not None
    assert located.paths == (made,)


@pytest.fixture
def gated_hub() -> Iterator[str]:
    """A hub that refuses everything as the real one refuses a gated data set."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load_elsewhere(name: str, **environment: str) -> str:
    """What DataError a fresh process meets; the hub's settings are read at import."""
    script = (
        "from cft_lab.config import DataError\nfrom cft_lab.evaluation.benchmarks import load_items\n"
        f"try:\n    load_items({name!r})\nexcept DataError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=PROJECT_ROOT,
        check=True,
    )
    return done.stdout


def test_a_gated_data_set_that_refuses(gated_hub: str, tmp_path: Path) -> None:
    told = load_elsewhere("gpqa-diamond", HF_ENDPOINT=gated_hub, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path))
    for part in ("gated", "https://huggingface.co/datasets/Idavidrein/gpqa", "hf auth login", "hf download"):
        assert part in told


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    told = load_elsewhere("gsm8k", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "openai/gsm8k could not be had from the hub" in told
    assert "hf download openai/gsm8k --repo-type dataset" in told


def test_a_hub_that_speaks_no_http(tmp_path: Path) -> None:
    class Stranger(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"no hub here\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = f"http://127.0.0.1:{server.server_address[1]}"
        told = load_elsewhere("gsm8k", HF_ENDPOINT=hub, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path))
        server.shutdown()
    assert "openai/gsm8k could not be had from the hub" in told


# --- identity, keys, presets


def test_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a" / "x.jsonl", GSM8K)
    same = write_jsonl(tmp_path / "b" / "y.jsonl", GSM8K)
    other = write_jsonl(tmp_path / "c.jsonl", GSM8K[:2])
    identity = BENCHMARKS["gsm8k"].identity
    assert identity({"gsm8k": str(first)}) == identity({"gsm8k": str(same)}) != identity({"gsm8k": str(other)})
    before = content_hash(first.parent)
    (first.parent / ".notes").write_text("hidden files do not count")
    assert content_hash(first.parent) == before
    first.write_text(first.read_text().replace("Two", "Three"))
    assert content_hash(first.parent) != before
    assert "Three" in load_items("gsm8k", paths={"gsm8k": str(first)})[0].question, "a changed file is read anew"


def test_paths_are_given_as_the_message_says() -> None:
    assert compose("+benchmarks.paths.gpqa-diamond=/some/where").benchmarks.paths == {"gpqa-diamond": "/some/where"}


def test_stage_keys_follow_the_content(tmp_path: Path) -> None:
    from cft_lab import pipeline

    def key(rows: Sequence[Mapping[str, Any]], file: str) -> str:
        path = write_jsonl(tmp_path / file, rows)
        config = compose("benchmarks.names=[gsm8k]", "train.selection.benchmark=gsm8k", f"+benchmarks.paths.gsm8k={path}")
        return pipeline.plan(config).result.key

    assert key(GSM8K, "a.jsonl") == key(GSM8K, "b.jsonl") != key(GSM8K[:2], "c.jsonl")


def test_lab_items_are_what_they_were() -> None:
    loaded = load_benchmark("lab-long")
    assert (len(loaded.problems), loaded.flag) == (250, None)
    assert load_items("lab-long", 3) == list(loaded.problems[:3])


def test_planning_the_papers_cell_is_quick_and_light(tmp_path: Path) -> None:
    """Ten megabytes of local rows are hashed; nothing is imported to read them."""
    for name in ("math", "minerva-math", "gsm8k", "olympiadbench", "aime24", "amc23", "math500"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"question": "x" * 1_400_000, "answer": "1"}])
    script = (
        "import sys, time\nfrom cft_lab import pipeline, preflight\nfrom cft_lab.config import ConfigError\n"
        "from cft_lab.hydra_config import compose\nconfig = compose('model=qwen2.5-math-7b')\nstarted = time.perf_counter()\n"
        "assert pipeline.plan(config).result.key\n"
        "try:\n    preflight.check(config)\nexcept ConfigError as error:\n    assert 'benchmark' not in str(error), error\n"
        "seconds = time.perf_counter() - started\n"
        "heavy = ('torch', 'datasets', 'pandas', 'pyarrow', 'numpy', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules], seconds < 1.0, seconds)"
    )
    env = {**os.environ, "CFT_LAB_BENCHMARKS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=PROJECT_ROOT, check=True)
    assert done.stdout.startswith("[] True"), done.stdout


def test_missing_rows_are_refused_in_a_second_with_the_remedy() -> None:
    started = time.perf_counter()
    told = BENCHMARKS["gpqa-diamond"].missing({})
    assert time.perf_counter() - started < 1
    assert told is not None
    for part in (
        "gpqa-diamond",
        "hf auth login",
        "hf download Idavidrein/gpqa",
        "+benchmarks.paths.gpqa-diamond=PATH",
        "CFT_LAB_BENCHMARKS",
    ):
        assert part in told


@pytest.mark.parametrize(("preset", "table"), [("math6", 2), ("stem7", 3), ("table4", 4), ("table8", 8)])
def test_presets_are_the_tables_of_the_paper(preset: str, table: int) -> None:
    ours = {"GPQA": "gpqa-diamond"}
    printed = {value.benchmark for value in published_values(table)} - {"AVG"}
    config = compose(f"benchmarks={preset}")
    assert config.benchmarks.name == preset
    assert sorted(config.benchmarks.names) == sorted(ours.get(name, name.lower()) for name in printed)
    assert set(config.benchmarks.names) <= set(BENCHMARKS)


def test_a_readme_alone_is_not_a_data_set(empty_caches: Path) -> None:
    snapshot = empty_caches / "hub" / "datasets--openai--gsm8k" / "snapshots" / "abc"
    write_readme(snapshot, {"main": ("test", "main/test-*")})
    assert locate("gsm8k", HUB_BENCHMARKS["gsm8k"].hub, {}) is None


def test_rows_of_a_folder_without_a_card(tmp_path: Path) -> None:
    """A copy whose README, and so the names of its configs, were left behind."""
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", GSM8K)
    hub = HUB_BENCHMARKS["gsm8k"].hub
    located = locate("gsm8k", hub, {"gsm8k": str(tmp_path)})
    assert located is not None
    assert [row for _, row in read(located, hub).rows] == GSM8K
