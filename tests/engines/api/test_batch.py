"""The Batch API: files up, results down, and a kill at any point in between."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback import HERE, Loopback, prompts, serving
from server import text_for

from cft_lab.engines.api.batch import BatchLimits, custom_ids
from cft_lab.engines.api.cost import Price
from cft_lab.engines.api.engine import OpenAIEngine
from cft_lab.engines.api.errors import ApiError, BudgetReached
from cft_lab.engines.base import Prompt
from cft_lab.records import Completion, Message, Sampling

GREEDY = Sampling(100)
PRICE = Price(1000.0, 1000.0, 0.5)
QUICK = BatchLimits(first_poll_s=0.02, longest_poll_s=0.1)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cft_lab.engines.api.client.FIRST_WAIT_S", 0.02)


def engine(server: Loopback, folder: Path, limits: BatchLimits = QUICK, **changes: Any) -> OpenAIEngine:
    said = changes.pop("say", [].append)
    price = changes.pop("price", None)
    api = server.api(**{"mode": "batch", **changes})
    return OpenAIEngine(
        "loopback-1", api, owner="teacher", price=price, folder=folder, say=said, progress=False, batch_limits=limits
    )


def texts(rows: list[Prompt]) -> dict[int, str]:
    return {index: text_for(prompt.messages[-1].content) for index, prompt in enumerate(rows)}


def paid(server: Loopback) -> set[int]:
    return set(server.stats()["valid"].values())


def test_a_batch_answers_every_prompt(tmp_path: Path) -> None:
    said: list[str] = []
    with serving("batch_server.py", batch={"polls": 3}) as server:
        opened = engine(server, tmp_path, price=PRICE, say=said.append)
        found = dict(opened.generate(prompts(30), GREEDY))
        assert paid(server) == {1}
    assert {index: completion.text for index, completion in found.items()} == texts(prompts(30))
    assert found[0] == Completion(found[0].text, 13, "stop", 5, pytest.approx(0.009))  # batches ask half
    seen = opened.observations()
    assert seen["cost_usd"] == pytest.approx(0.27)
    assert [(part["step"], part["status"], part["rows"]) for part in seen["batches"]] == [("collected", "completed", 30)]
    assert seen["batches"][0]["worst_usd"] > seen["cost_usd"]
    assert said == ["batch batch_1: 30 rows sent", "batch batch_1: completed"]
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("limits", [BatchLimits(7, 10**9, 0.02, 0.1), BatchLimits(50, 2000, 0.02, 0.1)], ids=["requests", "bytes"])
def test_files_are_split_at_the_limits(tmp_path: Path, limits: BatchLimits) -> None:
    with serving("batch_server.py") as server:
        found = dict(engine(server, tmp_path, limits).generate(prompts(30), GREEDY))
        stats = server.stats()
    assert {index: completion.text for index, completion in found.items()} == texts(prompts(30))
    assert len(stats["batches"]) >= 5
    assert len(stats["uploaded"]) == len(stats["batches"])


def test_results_come_in_any_order_twice_torn_or_not_at_all(tmp_path: Path) -> None:
    how = {"duplicates": 0.3, "malformed": 3, "missing": 0.2, "failed": 0.2}
    with serving("batch_server.py", batch=how) as server:
        opened = engine(server, tmp_path)
        found = list(opened.generate(prompts(100), GREEDY))
    rows = dict(found)
    assert len(found) == len(rows) == 100
    reasons = {completion.text for completion in rows.values() if completion.finish == "error"}
    assert reasons == {
        "status 500: 500: server error (tried once)",
        "batch completed: batch batch_1 is completed without a result for this row (tried once)",
    }
    answered = {index: completion.text for index, completion in rows.items() if completion.finish == "stop"}
    assert answered.items() <= texts(prompts(100)).items()
    assert 40 < len(answered) < 90
    lines = opened.observations()["batch_lines"]
    assert lines["duplicate or not asked for"] > 10
    assert lines["malformed"] == 6


@pytest.mark.parametrize(("outcome", "answered"), [("expired", 10), ("cancelled", 10), ("failed", 0)])
def test_a_batch_that_ends_badly_gives_what_it_has_and_reasons(tmp_path: Path, outcome: str, answered: int) -> None:
    with serving("batch_server.py", batch={"outcome": outcome}) as server:
        first = dict(engine(server, tmp_path).generate(prompts(20), GREEDY))
        server.change(batch={})
        failed = [index for index, completion in first.items() if completion.finish == "error"]
        again = dict(engine(server, tmp_path).generate([prompts(20)[i] for i in failed], GREEDY))
        assert paid(server) == {1}
    assert len(failed) == 20 - answered
    assert all(first[i].text.startswith(f"batch {outcome}: batch batch_1 is {outcome}") for i in failed)
    assert outcome != "failed" or "Enqueued token limit" in first[0].text
    assert {completion.finish for completion in again.values()} == {"stop"}


def test_a_batch_of_unknown_price_has_no_worst_case(tmp_path: Path) -> None:
    with serving("batch_server.py") as server:
        opened = engine(server, tmp_path)
        dict(opened.generate(prompts(3), GREEDY))
    assert opened.observations()["batches"][0]["worst_usd"] is None


def test_equal_prompts_get_names_of_their_own(tmp_path: Path) -> None:
    twice = [prompts(1)[0]] * 3
    assert len(set(custom_ids(twice, "m", GREEDY))) == 3
    strange = Prompt("ä b/" * 50, twice[0].messages)
    assert all(len(name) <= 64 and name.isascii() for name in custom_ids([strange], "m", GREEDY))
    with serving("batch_server.py") as server:
        assert len(dict(engine(server, tmp_path).generate(twice, GREEDY))) == 3


def test_rows_that_cannot_be_sent_are_refused(tmp_path: Path) -> None:
    rows = [Prompt("broken", (Message("user", "\ud83d"),)), Prompt("long", (Message("user", "x" * 3000),)), *prompts(1)]
    with serving("batch_server.py") as server:
        found = dict(engine(server, tmp_path, BatchLimits(50, 2000, 0.02, 0.1)).generate(rows, GREEDY))
    assert [found[i].finish for i in range(3)] == ["refused", "refused", "stop"]


def test_the_other_name_of_the_limit_is_learnt_from_a_batch(tmp_path: Path) -> None:
    with serving("batch_server.py", refuses=["max_tokens"]) as server:
        found = dict(engine(server, tmp_path).generate(prompts(5), GREEDY))
        assert len(server.stats()["batches"]) == 2
    assert {completion.finish for completion in found.values()} == {"stop"}


def test_a_refused_setting_ends_the_run_and_records_no_refusal(tmp_path: Path) -> None:
    found: dict[int, Completion] = {}
    with serving("batch_server.py", refuses=["temperature"]) as server, pytest.raises(ApiError, match="refuses a sampling setting"):
        found.update(engine(server, tmp_path).generate(prompts(3), GREEDY))
    assert [found[i].finish for i in range(3)] == ["error"] * 3


def test_the_budget_limits_each_batch(tmp_path: Path) -> None:
    with serving("batch_server.py") as server:
        opened = engine(server, tmp_path, price=PRICE, max_cost_usd=0.5)
        found: dict[int, Completion] = {}

        with pytest.raises(BudgetReached, match=r"would be crossed.*rows are done"):
            found.update(opened.generate(prompts(100), GREEDY))  # keeps what came before the error
        batches = server.stats()["batches"]
        assert paid(server) == {1}
    # worst case of a row: 0.08; what it costs: 0.009. Parts of five, four ... rows until less than one fits
    assert len(batches) > 3
    assert 0.5 - 0.09 < sum(completion.cost_usd or 0 for completion in found.values()) <= 0.5


def test_a_reply_that_is_lost_makes_nothing_twice(tmp_path: Path) -> None:
    with serving("batch_server.py", batch={"drop": 1}) as server:
        dict(engine(server, tmp_path / "upload").generate(prompts(5), GREEDY))
        assert len(server.stats()["uploaded"]) == 1
        server.change(batch={"drop": 0})
        rows = engine(server, tmp_path / "create").generate(prompts(5, start=5), GREEDY)
        server.change(batch={"drop": 2})  # upload and creation
        dict(rows)
        stats = server.stats()
    assert len(stats["uploaded"]) == len(stats["batches"]) == 2
    assert set(stats["valid"].values()) == {1}


CHILD = """
import json, os, sys
sys.path.insert(0, {here!r})
from test_batch import GREEDY, QUICK, Loopback, engine, prompts
from cft_lab.engines.api import batch, batch_calls
kill = sys.argv[3]
original = batch.Batches._save
def save(self, part):
    if kill == f"before {{part.step}} {{bool(part.file_id)}}": os._exit(9)
    original(self, part)
    if kill == f"after {{part.step}} {{bool(part.file_id)}}": os._exit(9)
batch.Batches._save = save
done = 0
from pathlib import Path
for index, completion in engine(Loopback(int(sys.argv[1])), Path(sys.argv[2])).generate(prompts(12), GREEDY):
    done += 1
    if kill == f"row {{done}}": os._exit(9)
    with open(Path(sys.argv[2]) / "journal", "a") as file: file.write(json.dumps(index) + "\\n")
"""

KILLS = [
    "before written False",
    "after written False",
    "after uploading False",
    "before uploading True",  # uploaded, and its id not saved
    "after creating True",
    "before created True",  # created, and its id not saved
    "after created True",
    "row 5",
    "before collected True",
]


@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_at_any_point_uploads_and_pays_once(kill: str, tmp_path: Path) -> None:
    with serving("batch_server.py", batch={"polls": 2}) as server:
        child = [sys.executable, "-c", CHILD.format(here=str(HERE)), str(server.port), str(tmp_path)]
        assert subprocess.run([*child, kill], check=False).returncode == 9
        journal = tmp_path / "journal"
        known = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        missing = [i for i in range(12) if i not in known]
        found = dict(engine(server, tmp_path).generate([prompts(12)[i] for i in missing], GREEDY))
        stats = server.stats()
    assert {missing[place]: c.text for place, c in found.items()} == {i: texts(prompts(12))[i] for i in missing}
    assert set(stats["valid"].values()) == {1}
    assert len(stats["uploaded"]) == len(stats["batches"]) == 1


def test_leaving_early_leaves_the_batch_to_the_next_run(tmp_path: Path) -> None:
    said: list[str] = []
    with serving("batch_server.py", batch={"polls": 2}) as server:
        rows = engine(server, tmp_path, say=said.append).generate(prompts(12), GREEDY)
        next(rows)
        rows.close()
        assert said[-1] == "batch batch_1 is left at the server: the same command collects it"
        assert len(dict(engine(server, tmp_path).generate(prompts(12)[1:], GREEDY))) == 11
        assert paid(server) == {1}


def leave_a_batch_under_way(server: Loopback, folder: Path) -> Path:
    """Leaves after the first of 12 rows; the state file of the batch."""
    rows = engine(server, folder).generate(prompts(12), GREEDY)
    next(rows)
    rows.close()
    return next(folder.glob("batch-*.json"))


def test_a_batch_under_way_is_not_paid_again_online(tmp_path: Path) -> None:
    with serving("batch_server.py") as server:
        state = leave_a_batch_under_way(server, tmp_path)
        with pytest.raises(ApiError, match=r"teacher\.mode=online would pay twice: batch_1, .*teacher\.mode=batch") as refusal:
            dict(engine(server, tmp_path, mode="online").generate(prompts(12)[1:], GREEDY))
        assert str(state) in str(refusal.value)
        assert "POST /v1/chat/completions" not in server.stats()["calls"]
        dict(engine(server, tmp_path).generate(prompts(12)[1:], GREEDY))  # the first remedy: collect it
        assert dict(engine(server, tmp_path, mode="online").generate(prompts(2, start=50), GREEDY)).keys() == {0, 1}
        assert paid(server) == {1}


def test_a_batch_can_be_given_up(tmp_path: Path) -> None:
    with serving("batch_server.py") as server:
        leave_a_batch_under_way(server, tmp_path).unlink()
        assert len(dict(engine(server, tmp_path, mode="online").generate(prompts(12)[1:], GREEDY))) == 11


def test_a_batch_that_holds_none_of_the_wanted_rows_does_not_stop_them(tmp_path: Path) -> None:
    with serving("batch_server.py") as server:
        state = leave_a_batch_under_way(server, tmp_path)
        assert len(dict(engine(server, tmp_path, mode="online").generate(prompts(2, start=50), GREEDY))) == 2
        state.with_suffix(".jsonl").unlink()  # now nobody can tell
        with pytest.raises(ApiError, match="would pay twice"):
            dict(engine(server, tmp_path, mode="online").generate(prompts(2, start=60), GREEDY))


def test_a_batch_that_the_server_does_not_know_is_not_paid_again_unasked(tmp_path: Path) -> None:
    with serving("batch_server.py", batch={"slow": 1}) as server:
        script = CHILD.format(here=str(HERE))
        subprocess.run([sys.executable, "-c", script, str(server.port), str(tmp_path), "after created True"], check=False)
    with serving("batch_server.py") as other:
        with pytest.raises(ApiError, match="does not know batch batch_1"):
            dict(engine(other, tmp_path).generate(prompts(12), GREEDY))
        assert other.stats()["batches"] == []


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize(("script", "path"), [("server.py", "/files"), ("batch_server.py", "/batches")])
def test_a_server_without_batches_is_told_apart_and_can_be_asked_online(
    status: int, script: str, path: str, tmp_path: Path
) -> None:
    with serving(script, absent=status, batch={"absent": ["POST batches"]}) as server:
        with pytest.raises(
            ApiError, match=rf"POST {path} is not served there. Set teacher\.mode=online .*\({status}: Not Found"
        ) as told:
            dict(engine(server, tmp_path).generate(prompts(2), GREEDY))
        assert "chat completions" not in str(told.value)
        assert not list(tmp_path.glob("batch-*"))  # nothing is under way that would stand in the way of the remedy
        assert len(dict(engine(server, tmp_path, mode="online").generate(prompts(6), GREEDY))) == 6


def test_a_batch_that_may_exist_elsewhere_is_not_forgotten(tmp_path: Path) -> None:
    with serving("batch_server.py") as server:
        child = [sys.executable, "-c", CHILD.format(here=str(HERE)), str(server.port), str(tmp_path), "before created True"]
        assert subprocess.run(child, check=False).returncode == 9
    with serving("batch_server.py", batch={"absent": ["POST batches"]}) as other:
        with pytest.raises(ApiError, match="is not served there"):
            dict(engine(other, tmp_path).generate(prompts(12), GREEDY))
        with pytest.raises(ApiError, match="would pay twice"):
            dict(engine(other, tmp_path, mode="online").generate(prompts(12), GREEDY))


def test_results_that_are_gone_are_not_blamed_on_the_address(tmp_path: Path) -> None:
    with (
        serving("batch_server.py", batch={"absent": ["GET files/content"]}) as server,
        pytest.raises(ApiError, match="does not have the results file_2 any more"),
    ):
        dict(engine(server, tmp_path).generate(prompts(2), GREEDY))


def test_batches_need_a_folder() -> None:
    with serving() as server, pytest.raises(ValueError, match="folder"):
        OpenAIEngine("m", server.api(mode="batch"), owner="teacher", price=None, say=print)
