"""Whole cells whose teacher, or whose responses, come from a server: journals, failures, budgets, keys."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import DEBUG
from engines.api.loopback import Loopback, serving

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, Config, ConfigError, DataError
from cft_lab.data.critique_quality import quality, response_grades
from cft_lab.engines.api.errors import ApiError, BudgetReached, CostNotConfirmed
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Critique, Example, Failure, Grade, Problem, Response
from cft_lab.store import Store

ComposeCell = Callable[..., Config]
ROWS = 60
SMALL = ("data=local", f"data.pool={ROWS}", "data.examples=24")


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as a person would bring it: questions, solutions of which every third is wrong, gold answers."""
    path = tmp_path_factory.mktemp("own") / "mine.jsonl"
    rows = [
        {"question": f"What is {i} plus {i}?", "solution": f"It is \\boxed{{{2 * i + (i % 3 == 0)}}}.", "answer": str(2 * i)}
        for i in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


@pytest.fixture
def taught(cell: ComposeCell, own_file: Path, tmp_path: Path, debug_model: Path, shared_store: Path) -> Callable[..., Config]:
    """Composes a cell on own data with a teacher behind a server, in a store of its own that has the base model."""
    root = tmp_path / "store"
    (root / "base_model").mkdir(parents=True)
    (root / "base_model" / debug_model.parent.name).symlink_to(debug_model.parent, target_is_directory=True)

    def composed(running: Loopback, *overrides: str) -> Config:
        return cell(
            *SMALL,
            f"data.path={own_file}",
            "teacher=openai-compatible",
            f"teacher.base_url={running.url}",
            "teacher.model=loopback-1",
            "teacher.timeout_s=5",
            f"output_root={root}",
            *overrides,
        )

    return composed


def stage_folder(config: Config, name: str) -> Path:
    stage = next(stage for stage in pipeline.plan(config).result.walk() if stage.name == name)
    return pipeline.output_root(config) / stage.name / stage.key


def counts(config: Config, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(stage_folder(config, name) / "manifest.json")["counts"]
    return found


def calls(running: Loopback) -> int:
    return int(running.stats()["calls"].get("POST /v1/chat/completions", 0))


def run(config: Config) -> list[str]:
    """Runs the whole cell and returns what was said."""
    said: list[str] = []
    pipeline.check(config)
    pipeline.run(config, said.append)
    return said


def make_examples(config: Config, last: str = "examples") -> list[str]:
    """Makes the cell's examples (or an earlier stage) only, as a run would, and returns what was said."""
    said: list[str] = []
    pipeline.check(config)
    stages = {stage.name: stage for stage in pipeline.plan(config).result.walk()}
    Store(pipeline.output_root(config), said.append).ensure(stages[last])
    return said


def test_a_cell_on_own_data_with_a_served_teacher_runs_whole(taught: Callable[..., Config], server: Loopback) -> None:
    config = taught(server, "method=cft")
    said = run(config)
    assert any("estimate" in line and f"{ROWS}" in line for line in said)
    assert any("a micro-batch of" in line for line in said)
    made = read_records(stage_folder(config, "critiques") / "critiques.jsonl", Critique)
    assert len(made) == ROWS
    assert all(row.verdict is True for row in made), "this server finds everything right"
    examples = read_records(stage_folder(config, "examples") / "examples.jsonl", Example)
    assert len(examples) == 24
    known = {row.problem_id: row.text for row in made}
    assert all(row.target == known[row.problem_id] for row in examples)
    found = counts(config, "critiques")
    assert found["quality"]["false_right"] == {
        "count": 20,
        "n": 20,
        "share": 1.0,
        "interval": pytest.approx([0.839, 1.0], abs=1e-3),
    }
    assert found["quality"]["agreement"]["count"] == 40
    assert found["prompt_tokens"] > 0
    assert found["cost_usd"] is None, "nobody said what this server asks"
    assert "loopback-1" in str(found["api"])


def test_a_finished_stage_calls_nobody_and_arms_share_critiques(taught: Callable[..., Config], server: Loopback) -> None:
    make_examples(taught(server, "method=cft"))
    before = calls(server)
    for overrides in (
        ["method=cft"],
        ["method=sft-verified"],
        ["method=cft", "method.keep_critiques=parsed"],
        ["method=cft", "seed=1"],
    ):
        make_examples(taught(server, *overrides))
    assert calls(server) == before


def test_a_finished_stage_needs_neither_server_nor_key(taught: Callable[..., Config]) -> None:
    with serving() as running:
        config = taught(running, "method=cft")
        make_examples(config)
    again = taught(running, "method=cft", "teacher.api_key_env=NO_SUCH_KEY", "teacher.base_url=http://127.0.0.1:9/v1")
    assert not any("make" in line for line in make_examples(again))


def test_faults_cost_time_and_no_row(taught: Callable[..., Config]) -> None:
    faults = {"429-after": 0.08, "500": 0.06, "drop": 0.06, "drop-body": 0.05, "malformed": 0.05, "no-choices": 0.05}
    with serving(faults=faults, retry_after="0.05") as running:
        config = taught(running, "method=cft", "teacher.max_retries=20")
        make_examples(config)
        assert sum(running.stats()["valid"].values()) >= ROWS
    rows = read_records(stage_folder(config, "critiques") / "critiques.jsonl", Critique)
    assert sorted(row.problem_id for row in rows) == sorted({row.problem_id for row in rows})
    assert len(rows) == ROWS


def test_failed_rows_stop_the_stage_and_are_all_that_is_asked_again(taught: Callable[..., Config], server: Loopback) -> None:
    server.change(always={"What is 7 plus": "500"})
    config = taught(server, "method=cft", "teacher.max_retries=1")
    with pytest.raises(DataError, match=r"1 of 60 prompts to teacher loopback-1 failed.*accept_failed"):
        make_examples(config)
    assert not (stage_folder(config, "critiques")).exists()
    accepted = taught(server, "method=cft", "teacher.max_retries=1", "teacher.accept_failed=true")
    before = calls(server)
    make_examples(accepted)
    assert calls(server) - before <= 2 + 6, "the failed row twice, and at most a probe, whose prompt it is"
    lost = read_records(stage_folder(config, "critiques") / "failed.jsonl", Failure)
    assert [row.finish for row in lost] == ["error"]
    assert "500" in lost[0].reason
    assert counts(config, "critiques")["failed"] == 1


def test_a_refused_row_costs_itself_and_can_be_retried(taught: Callable[..., Config], server: Loopback) -> None:
    server.change(always={"What is 7 plus": "filter"})
    config = taught(server, "method=cft")
    run(config)
    assert counts(config, "critiques")["refused"] == 1
    assert counts(config, "critiques")["critiques"] == ROWS - 1
    server.change(always={})
    before = calls(server)
    said = run(taught(server, "method=cft", "teacher.retry_failed=true"))
    assert 1 <= calls(server) - before <= 1 + 4
    assert counts(config, "critiques")["critiques"] == ROWS
    assert counts(config, "critiques")["refused"] == 0
    assert any("superseded" in line for line in said)
    kept = sorted(path.parent.parent.name for path in (pipeline.output_root(config) / "superseded").glob("*/*/DONE"))
    assert {"examples", "candidates", "selected"} <= set(kept)


def test_a_larger_pool_pays_for_what_is_new_only(taught: Callable[..., Config], server: Loopback) -> None:
    make_examples(taught(server, "method=cft", "data.pool=40"))
    before = server.stats()["valid"]
    said = make_examples(taught(server, "method=cft", "data.pool=50"))
    assert any("40 of 50 rows are known" in line for line in said)
    make_examples(taught(server, "method=cft", "data.pool=50", "train.selection.mode=last"))
    after = server.stats()["valid"]
    new = {prompt: count - before.get(prompt, 0) for prompt, count in after.items() if count > before.get(prompt, 0)}
    assert sum(new.values()) <= 10 + 4, "ten rows and a probe"


def test_lost_rows_are_tried_again_once_however_many_cells_share_them(taught: Callable[..., Config], server: Loopback) -> None:
    server.change(always={"What is 7 plus": "filter"})
    make_examples(taught(server, "method=cft"))
    before = server.stats()["sent"].get("filter", 0)
    finished = []
    for method in ("cft", "sft-verified"):
        config = taught(server, f"method={method}", "teacher.retry_failed=true", "benchmarks.names=[lab-basic]")
        run(config)
        finished.append(stage_folder(config, "result"))
    assert server.stats()["sent"]["filter"] - before <= 1 + 6, "the row once, and a probe of its prompt"
    assert all((folder / "DONE").exists() for folder in finished)


def test_retrying_without_a_key_moves_nothing(taught: Callable[..., Config], server: Loopback) -> None:
    server.change(always={"What is 7 plus": "filter"})
    config = taught(server, "method=cft")
    make_examples(config)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        run(taught(server, "method=cft", "teacher.retry_failed=true", "teacher.api_key_env=NO_SUCH_KEY"))
    assert (stage_folder(config, "examples") / "DONE").exists()
    assert not (pipeline.output_root(config) / "superseded").exists()


def test_odd_characters_in_replies_are_written_and_read_again(taught: Callable[..., Config]) -> None:
    with serving(reply="\x1b[31mred\x00 \u2028 Conclusion: right") as running:
        config = taught(running, "method=cft")
        make_examples(config)
        texts = [row.text for row in read_records(stage_folder(config, "critiques") / "critiques.jsonl", Critique)]
        assert len(texts) == ROWS
        key = stage_folder(config, "critiques").name
        told = call("-m", "cft_lab", "critiques", "--store", str(pipeline.output_root(config)), key)
        assert "\x1b" not in told.stdout
        assert "[31mred" in told.stdout


def test_responses_and_answers_of_a_server(taught: Callable[..., Config], server: Loopback) -> None:
    other = ("responses=engine", "responses.kind=openai", "responses.model=writer", f"responses.base_url={server.url}",
             "responses.api_key_env=null", "responses.max_new_tokens=100")  # fmt: skip
    config = taught(server, "method=sft", *other)
    make_examples(config)
    texts = read_records(stage_folder(config, "responses") / "responses.jsonl", Response)
    assert len(texts) == ROWS
    assert {row.author for row in texts} == {"writer"}
    answered = taught(server, "method=sft-teacher")
    make_examples(answered)
    problems = {row.id for row in read_records(stage_folder(answered, "problems") / "problems.jsonl", Problem)}
    assert {row.problem_id for row in read_records(stage_folder(answered, "answers") / "responses.jsonl", Response)} == problems


def test_a_local_model_teaches_and_responds(taught: Callable[..., Config], server: Loopback, debug_model: Path) -> None:
    local = f"model={debug_model}", "prompt_format=lab", "max_new_tokens=8"
    config = taught(
        server, "method=cft", "teacher=local", *(f"teacher.{setting}" for setting in local), "teacher.base_url=null",
        "responses=engine", *(f"responses.{setting}" for setting in local),
    )  # fmt: skip
    make_examples(config, "critiques")
    assert counts(config, "critiques")["asked"] + counts(config, "critiques")["no_response"] == ROWS
    assert counts(config, "critiques")["cut_off"] > 0
    assert calls(server) == 0


@pytest.mark.parametrize(
    ("settings", "overrides", "error", "said"),
    [
        ({}, ["teacher.api_key_env=NO_SUCH_KEY"], ConfigError, "environment variable NO_SUCH_KEY"),
        ({}, ["teacher.max_cost_usd=0"], ConfigError, "teacher.max_cost_usd=0 lets nothing be sent"),
        ({}, ["teacher.max_cost_usd=1"], ConfigError, "cannot be kept without a price"),
        ({}, ["+prices.input_usd={loopback-1: 1}"], ConfigError, "prices.output_usd has no price for 'loopback-1'"),
        ({}, ["teacher.model=null"], ConfigError, "teacher.model has no value"),
        ({"key": "sk-right"}, ["teacher.api_key_env=WRONG_KEY"], ApiError, "refused the key"),
        ({"models": ["another"]}, [], ApiError, "does not know this model"),
        (
            {},
            ["+prices.input_usd.loopback-1=1e6", "+prices.output_usd.loopback-1=1e6"],
            CostNotConfirmed,
            "teacher.confirm_cost=true",
        ),
    ],
)
def test_what_stops_a_teacher_at_once(
    taught: Callable[..., Config], settings: dict[str, Any], overrides: list[str], error: type[Exception], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-key-0123456789")
    with serving(**settings) as running:
        with pytest.raises(error) as raised:
            make_examples(taught(running, "method=cft", *overrides))
        assert sum(running.stats()["valid"].values()) == 0
        assert calls(running) <= 40
    assert said in str(raised.value)
    assert "0123456789" not in str(raised.value)


def test_a_spent_budget_stops_before_it_is_crossed_and_goes_on_later(taught: Callable[..., Config], server: Loopback) -> None:
    priced = ("+prices.input_usd={loopback-1: 100}", "+prices.output_usd={loopback-1: 1000}", "teacher.max_new_tokens=40")
    with pytest.raises(BudgetReached):
        make_examples(taught(server, "method=cft", *priced, "teacher.max_cost_usd=0.5"))
    first = sum(server.stats()["valid"].values())
    assert 0 < first < ROWS
    config = taught(server, "method=cft", *priced, "teacher.max_cost_usd=50")
    make_examples(config)
    found = counts(config, "critiques")
    assert found["critiques"] == ROWS
    valid = server.stats()["valid"]
    twice = [prompt for prompt, count in valid.items() if count > 1]
    assert len(twice) <= 2, "nothing is paid twice, but that each start looks at the server with its first prompt"
    expected = (found["prompt_tokens"] * 100 + found["tokens"] * 1000) / 1e6
    assert found["cost_usd"] == pytest.approx(expected, rel=0.3), "the rows, and what two looks at the server cost"
    assert found["cost_usd"] > expected


def test_the_key_is_written_nowhere(taught: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "sk-test-4fb1c6d2a97e"  # noqa: S105
    monkeypatch.setenv("TEACHER_KEY", secret)
    overrides = ["method=cft", "teacher.api_key_env=TEACHER_KEY", "tracking=wandb", "progress=true"]
    with serving(key=secret) as running:
        said = run(taught(running, *overrides))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb" in str(path) for path in written)
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert secret not in "".join(said)


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False, env=env)


def test_the_quality_report_of_served_critiques(taught: Callable[..., Config], server: Loopback) -> None:
    config = taught(server, "method=cft")
    make_examples(config)
    command = ["-m", "cft_lab", "critiques", "--store", str(pipeline.output_root(config))]
    key = stage_folder(config, "critiques").name
    told = call(*command, key[:6], "--show", "disagreeing", "--samples", "2")
    assert told.returncode == 0, told.stderr
    assert "wrong responses judged right: 100.0 % [83.9, 100.0] (20 of 20)" in told.stdout
    assert told.stdout.count("response wrong, verdict True") == 2
    assert json.loads(call(*command, key, "--json").stdout)["critiques"] == ROWS
    unknown = call(*command, "zzz")
    assert unknown.returncode == 2
    assert "no critiques stage begins with 'zzz'" in unknown.stderr


def test_bad_input_of_the_command_line_stops_before_anything_is_made(tmp_path: Path) -> None:
    store = tmp_path / "store"
    told = call(
        "run.py", *DEBUG, "data=local", f"output_root={store}", "data.path=/no/x.jsonl", "teacher=gpt-4o-mini", OPENAI_API_KEY=""
    )
    assert told.returncode == 2
    assert "data.path=/no/x.jsonl" in told.stderr
    assert "OPENAI_API_KEY" in told.stderr
    assert not store.exists()


def test_the_weak_oracles_error_rate_is_measured_back_and_the_filter_removes_its_errors(cell: ComposeCell, tmp_path: Path) -> None:
    shares = {}
    for keep in ("all", "agreeing"):
        config = cell(
            "method=cft", "teacher=weak-oracle", f"method.keep_critiques={keep}", "data.pool=1500", "data.examples=800",
            f"output_root={tmp_path}",
        )  # fmt: skip
        make_examples(config)
        used = {row.problem_id for row in read_records(stage_folder(config, "examples") / "examples.jsonl", Example)}
        critiques = read_records(stage_folder(config, "critiques") / "critiques.jsonl", Critique)
        right = response_grades(read_records(stage_folder(config, "responses") / "grades.jsonl", Grade))
        shares[keep] = quality([row for row in critiques if row.problem_id in used], right)["agreement"]["share"]
    low, high = counts(config, "critiques")["quality"]["agreement"]["interval"]
    assert low <= 1 - config.teacher.error_rate <= high
    assert 0.75 < shares["all"] < 0.85
    assert shares["agreeing"] == 1.0
    assert counts(config, "examples")["left_out"]["disagrees"] == pytest.approx(300, abs=45)


def test_token_matched_arms(cell: ComposeCell) -> None:
    tokens = {}
    for method in ("cft", "sft"):
        config = cell(
            f"method={method}", "data.supervised_tokens=1500", "benchmarks.names=[lab-basic]", "train.selection.mode=last"
        )
        result = pipeline.run(config, lambda line: None)
        tokens[method] = result.supervised_tokens
    assert all(number is not None and 1500 <= number < 1700 for number in tokens.values()), tokens
