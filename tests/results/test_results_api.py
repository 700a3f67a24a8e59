"""The results API on a real cell at debug size, and on stores with records that cannot be read."""

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cft_lab import pipeline
from cft_lab.__main__ import main
from cft_lab.config import Config
from cft_lab.json_files import read_json, read_records, write_json
from cft_lab.records import Generation, Grade, Result
from cft_lab.results import Results, open_store
from cft_lab.results.checks import check_rows
from cft_lab.stages import GENERATIONS


@pytest.fixture(scope="module")
def ran(shared_store: Path) -> Callable[[Callable[..., Config]], tuple[str, Result]]:
    """Runs the debug cell in the shared store, or finds it there; gives its key and result."""

    def run(cell: Callable[..., Config]) -> tuple[str, Result]:
        config = cell("method=cft", "train.cpu_threads=1", "engine.cpu_threads=1")
        return pipeline.plan(config).result.key, pipeline.run(config, lambda line: None)

    return run


def test_a_real_cell_in_every_frame(
    shared_store: Path, cell: Callable[..., Config], ran: Callable[..., tuple[str, Result]]
) -> None:
    key, result = ran(cell)
    found = open_store(shared_store)
    row = found.cells().loc[key]
    assert (row["model"], row["method"], row["seed"], row["scale"]) == ("lab-debug", "cft", 0, "lab")
    assert row["accuracy"] == pytest.approx(sum(score.accuracy or 0 for score in result.scores) / len(result.scores))
    scores = found.scores().query("result == @key").set_index("benchmark")
    for score in result.scores:
        told = scores.loc[score.benchmark]
        assert (told["n"], told["accuracy"], (told["low"], told["high"])) == (score.n, score.accuracy, score.interval)
        items = found.items([key], [score.benchmark])
        assert (len(items), items["correct"].mean()) == (score.n, pytest.approx(score.accuracy))
        assert items["paper_correct"].mean() == pytest.approx(score.paper_accuracy)
    assert set(found.items([key[:8]])["benchmark"]) == {score.benchmark for score in result.scores}
    _check_texts(found, key, result)
    curve, steps = found.selection(key), found.training(key)
    assert curve["selected"].sum() == 1
    assert (curve["accuracy"] == curve["correct"] / curve["n"]).all()
    assert steps["step"].tolist() == list(range(1, len(steps) + 1))
    costs = found.costs()
    assert costs.loc[result.keys["candidates"], "supervised_tokens"] == result.supervised_tokens
    assert costs.loc[result.keys["candidates"], "gpu_hours"] == 0
    pretrained = read_json(shared_store / "base_model" / result.keys["base_model"] / "manifest.json")["counts"]["tokens"]
    assert costs.loc[result.keys["base_model"], "trained_tokens"] == pretrained
    assert set(costs.loc[costs["tokens"] > 0, "stage"]) == {"critiques", "generations"}  # tokens are generated ones
    quality = found.critiques().loc[result.keys["critiques"]]
    assert quality["right"] + quality["wrong"] + quality["unparsed"] == quality["critiques"]
    critiques = found.critique_texts(result.keys["critiques"])
    assert len(critiques) == quality["critiques"]
    assert critiques[["question", "response", "critique"]].notna().all(axis=None)


def test_texts_that_are_none_and_grades_that_are_torn_are_told(
    tmp_path: Path, shared_store: Path, cell: Callable[..., Config], ran: Callable[..., tuple[str, Result]]
) -> None:
    key, result = ran(cell)
    for stage in ("result", "critiques", "problems", "responses", "scores", "generations"):
        shutil.copytree(shared_store / stage, tmp_path / stage)
    benchmark = result.scores[0].benchmark
    generated = tmp_path / "generations" / result.keys[f"generations/{benchmark}"] / GENERATIONS
    lines = generated.read_text().splitlines(keepends=True)
    first = json.loads(lines[0])
    first["turns"][0]["completion"]["text"] = None
    generated.write_text("".join([json.dumps(first) + "\n", *lines[1:]]))
    graded = tmp_path / "responses" / result.keys["responses"] / "grades.jsonl"
    graded.write_text('{"problem_id": ')
    found = open_store(tmp_path)
    assert found.texts(key, benchmark).empty
    assert len(found.texts(key, benchmark, [json.loads(lines[1])["problem_id"]])) == 1, "the other rows are whole"
    critiques = found.critique_texts(result.keys["critiques"])
    assert critiques["response_outcome"].isna().all()
    assert critiques["critique"].notna().all()
    columns = tmp_path / "scores" / result.keys[f"scores/{benchmark}"]
    (columns / "grades.parquet").unlink()
    rows = (columns / "grades.jsonl").read_text().splitlines(keepends=True)
    (columns / "grades.jsonl").write_text("".join([json.dumps(json.loads(rows[0]) | {"problem_id": [1]}) + "\n", *rows[1:]]))
    assert found.items([key], [benchmark]).empty
    told = {problem.path.partition("/")[0]: problem.what for problem in found.problems}
    assert "a text is None, not str" in told["generations"]
    assert "problem_id is [1]" in told["scores"]
    assert "it is damaged" in told["responses"]


def test_self_critiques_are_the_rounds_of_two_stage_inference(
    shared_store: Path, cell: Callable[..., Config], ran: Callable[..., tuple[str, Result]]
) -> None:
    def asked(*overrides: str) -> Config:
        return cell(*overrides, "inference=two-stage", "temperature=0.5", "inference.max_new_tokens=80", "benchmarks.items=12")

    key, result = ran(asked)
    found = open_store(shared_store)
    seen = 0
    for score in result.scores:
        rows = found.self_critiques(key, score.benchmark)
        graded = found.items([key], [score.benchmark]).set_index("item")["outcome"]
        texts = read_records(found.root / "generations" / result.keys[f"generations/{score.benchmark}"] / GENERATIONS, Generation)
        for text in texts:
            own = rows[rows["item"] == text.problem_id].sort_values("round")
            told = [turn for turn in text.turns if turn.purpose == "critique" and turn.completion.answered]
            assert own["critique"].tolist() == [turn.completion.text for turn in told]
            assert [None if pd.isna(v) else v for v in own["verdict"]] == [turn.verdict for turn in told]
            if len(own) == sum(turn.purpose == "solve" for turn in text.turns):  # the last solution, which counts, was judged
                assert own["solution_outcome"].iloc[-1] == graded[text.problem_id]
                seen += 1
    assert seen > 0
    direct, _ = ran(cell)
    assert open_store(shared_store).self_critiques(direct, result.scores[0].benchmark).empty


def test_the_command_lists_what_the_frame_has(
    shared_store: Path, cell: Callable[..., Config], ran: Callable[..., tuple[str, Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    key, result = ran(cell)
    assert main(["cells", "--store", str(shared_store)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if key in line)
    for score in result.scores:
        assert f"{100 * (score.accuracy or 0):.1f}" in line
    assert main(["cells", "--csv", "--store", str(shared_store)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("result").loc[key]
    assert {score.benchmark: table[score.benchmark] for score in result.scores} == pytest.approx(
        {score.benchmark: score.accuracy for score in result.scores}
    )


def test_the_command_lists_the_rest_where_a_record_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cells", "--store", str(tmp_path)]) == 0
    assert "no finished cell" in capsys.readouterr().out
    (tmp_path / "result" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / "result" / "0123456789abcdef" / "DONE").touch()
    (tmp_path / "result" / "0123456789abcdef" / "manifest.json").write_text("{")
    assert main(["cells", "--store", str(tmp_path)]) == 1
    assert "0123456789abcdef" in capsys.readouterr().err


def _check_texts(found: Results, key: str, result: Result) -> None:
    benchmark = result.scores[0].benchmark
    texts = found.texts(key, benchmark)
    grades = read_records(found.root / "scores" / result.keys[f"scores/{benchmark}"] / "grades.jsonl", Grade)
    assert texts["item"].tolist() == [grade.problem_id for grade in grades]
    assert texts["outcome"].tolist() == [grade.outcome.value for grade in grades]
    assert texts["text"].str.len().gt(0).all()
    questions = found.questions(benchmark)
    assert (texts["gold"] == questions.loc[texts["item"], "gold"].to_numpy()).all()
    assert texts["subject"].notna().all()
    assert found.texts(key, benchmark, texts["item"].tolist()[:1])["item"].tolist() == texts["item"].tolist()[:1]


def test_what_a_stage_of_scores_writes_has_columns_too(
    shared_store: Path, cell: Callable[..., Config], ran: Callable[..., tuple[str, Result]]
) -> None:
    _, result = ran(cell)
    for score in result.scores:
        assert (shared_store / "scores" / result.keys[f"scores/{score.benchmark}"] / "grades.parquet").is_file()


def test_an_empty_store_has_empty_frames_with_their_columns(tmp_path: Path) -> None:
    found = open_store(tmp_path)
    for frame in (found.cells(), found.scores(), found.items(), found.costs(), found.critiques()):
        assert len(frame) == 0
        assert len(frame.columns) > 5
    assert not found.problems
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(KeyError, match="0 results"):
        found.texts("abc", "lab-basic")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row | {"colour": 1}, "another version of cft_lab"),
        (lambda row: {name: value for name, value in row.items() if name != "keys"}, "another version of cft_lab, or is damaged"),
        (lambda row: row | {"scores": [row["scores"][0] | {"benchmark": "other"}]}, "without the key of its scores stage"),
        (lambda row: row | {"scores": [row["scores"][0] | {"n": "many"}]}, "scores[0].n is 'many', not int"),
        (lambda row: [row], "it is damaged"),
        (lambda row: row | {"cell": row["cell"] | {"seed": "x"}}, "it is damaged"),
    ],
)
def test_a_strange_record_is_told_and_left_out(
    tmp_path: Path, change: Callable[[dict[str, object]], object], told: str, shared_store: Path, cell: Callable[..., Config],
    ran: Callable[..., tuple[str, Result]],
) -> None:  # fmt: skip
    key, _ = ran(cell)
    for name in (key, "0" * 16):
        folder = tmp_path / "result" / name
        folder.mkdir(parents=True)
        for file in ("manifest.json", "DONE", "result.json"):
            (folder / file).write_bytes((shared_store / "result" / key / file).read_bytes())
    strange = tmp_path / "result" / ("0" * 16) / "result.json"
    write_json(strange, change(read_json(strange)))
    found = open_store(tmp_path)
    assert found.cells().index.tolist() == [key]
    (problem,) = found.problems
    assert problem.path == f"result/{'0' * 16}/result.json"
    assert told in problem.what
    assert "run the cell again" in problem.remedy


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"step": 10**400, "correct": 1, "n": 2}, "step is 1000"),
        ({"step": math.nan, "correct": 1, "n": 2}, "step is nan"),
        ({"step": 1, "correct": 0, "n": 0}, "correct is 0 of n=0"),
        ({"step": 1, "correct": 3, "n": 2}, "correct is 3 of n=2"),
        ({"step": 1, "correct": -1, "n": 2}, "correct is -1"),
        ({"step": 1, "loss": -1.7e308}, "|loss| is 1.7e+308"),
        ({"step": 1, "loss": "x"}, "loss is 'x', not a number"),
    ],
)
def test_strange_rows_of_curves_are_refused(row: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        check_rows([row], tuple(row))


def test_a_training_that_diverged_keeps_its_losses() -> None:
    rows = [{"step": step, "loss": loss} for step, loss in enumerate((2.5, -0.1, math.inf, math.nan))]
    assert check_rows(rows, ("step", "loss")) is rows
