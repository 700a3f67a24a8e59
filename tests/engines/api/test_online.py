"""The online engine against a real server on loopback, through the real client."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, prompts, serving
from server import text_for

from cft_lab.config import ApiConfig
from cft_lab.engines.api.cost import Price, unreported_usd
from cft_lab.engines.api.engine import OpenAIEngine
from cft_lab.engines.api.errors import ApiError, BudgetReached
from cft_lab.engines.base import Prompt
from cft_lab.engines.journal import JournalEngine
from cft_lab.json_files import Journal, write_json
from cft_lab.records import Completion, Message, Sampling

GREEDY = Sampling(100)
PRICE = Price(1000.0, 1000.0, 0.5)  # a thousandth of a dollar per token


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cft_lab.engines.api.client.FIRST_WAIT_S", 0.02)
    monkeypatch.setattr("cft_lab.engines.api.client.FIRST_PATIENCE_S", 0.05)


@pytest.fixture(scope="module")
def shared() -> Iterator[Loopback]:
    """A server without faults."""
    with serving() as server:
        yield server


def engine(api: ApiConfig, **changes: Any) -> OpenAIEngine:
    return OpenAIEngine("loopback-1", api, **{"owner": "teacher", "price": None, "say": [].append, "progress": False, **changes})


def complete(server: Loopback, rows: list[Prompt], sampling: Sampling = GREEDY, **api: Any) -> dict[int, Completion]:
    return dict(engine(server.api(**api)).generate(rows, sampling))


def until_stopped(opened: OpenAIEngine, rows: list[Prompt]) -> tuple[list[tuple[int, Completion]], ApiError | None]:
    """What came before the error that ended the run, and the error."""
    found = []
    try:
        for row in opened.generate(rows, GREEDY):
            found.append(row)  # noqa: PERF402 - the rows before the error are wanted
    except ApiError as error:
        return found, error
    return found, None


def expected(prompt: Prompt) -> str:
    return text_for(prompt.messages[-1].content)


def test_every_prompt_is_answered_once_with_its_own_text_and_usage(shared: Loopback) -> None:
    rows = prompts(50)
    opened = engine(shared.api(), price=PRICE)
    found = list(opened.generate(rows, GREEDY))
    assert sorted(index for index, _ in found) == list(range(50))
    for index, completion in found:
        assert completion == Completion(expected(rows[index]), 13, "stop", 5, pytest.approx(0.018))
    seen = opened.observations()
    assert (seen["requests"], seen["rows"], seen["models"]) == (50, {"stop": 50}, {"loopback-1": 50})
    assert (seen["prompt_tokens"], seen["output_tokens"], seen["cost_usd"]) == (250, 650, pytest.approx(0.9))
    assert 1 < seen["highest_in_flight"] <= 8


def test_no_prompts_make_no_call() -> None:
    assert list(engine(ApiConfig(base_url="http://127.0.0.1:1/v1", api_key_env=None)).generate([], GREEDY)) == []


def test_a_text_cut_by_its_limit_says_so(shared: Loopback) -> None:
    assert complete(shared, prompts(1), Sampling(3))[0] == Completion(" ".join(expected(prompts(1)[0]).split()[:3]), 3, "length", 5)


def test_no_more_than_the_limit_are_in_flight() -> None:
    with serving(latency_s=0.02) as server:
        complete(server, prompts(60), max_in_flight=5)
        assert server.stats()["highest"] == 5


PASSING = ("429", "429-after", "500", "502", "503", "drop", "drop-body", "malformed", "no-choices", "null", "no-finish", "html")
MIXED = dict.fromkeys(PASSING, 0.03)


def test_faults_that_pass_cost_no_row() -> None:
    with serving(faults={**MIXED, "hang": 0.02}, retry_after="0.05") as server:
        opened = engine(server.api(timeout_s=0.4, max_retries=20, max_in_flight=16))
        rows = prompts(200)
        found = dict(opened.generate(rows, GREEDY))
        stats = server.stats()
    assert {index: completion.text for index, completion in found.items()} == {i: expected(rows[i]) for i in range(200)}
    assert sum(stats["sent"].values()) - stats["sent"]["ok"] > 40
    assert set(stats["valid"].values()) == {1}
    assert sum(opened.observations()["retries"].values()) == sum(stats["sent"].values()) - 200


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("hang", "timeout"),
        ("trickle", "timeout"),
        ("drop", "dropped connection"),
        ("drop-body", "dropped connection"),
        ("malformed", "malformed JSON"),
        ("deep", "malformed JSON"),
        ("null", "no text"),
        ("empty", "empty text"),
        ("500", "status 500"),
        ("429-date", "rate limit"),
    ],
)
def test_a_row_that_keeps_failing_is_recorded_with_its_reason_and_the_others_go_on(fault: str, kind: str) -> None:
    with serving(always={"number 1 ": fault}, hang_s=3.0, retry_after="0.1") as server:
        found = complete(server, prompts(3), timeout_s=0.6, max_retries=2)
        assert server.stats()["sent"][fault] == 3
    assert [found[i].finish for i in range(3)] == ["stop", "error", "stop"]
    assert found[1].text.startswith(f"{kind}: ")
    assert found[1].text.endswith("(tried 3 times)")


@pytest.mark.parametrize("fault", ["filter", "refusal", "400-context", "400"])
def test_a_prompt_that_is_refused_is_not_sent_again(fault: str) -> None:
    with serving(always={"number 1 ": fault}) as server:
        found = complete(server, prompts(3))
        assert server.stats()["sent"] == {"ok": 2, fault: 1}
    assert found[1].finish == "refused"
    assert found[1].text.endswith("(tried once)")


def test_an_unencodable_prompt_costs_that_row_only(shared: Loopback) -> None:
    broken = Prompt("broken", (Message("user", "half \ud83d"),))
    found = complete(shared, [broken, *prompts(1)])
    assert (found[0].finish, found[1].finish) == ("refused", "stop")
    assert "not valid Unicode" in found[0].text


@pytest.mark.parametrize("fault", ["surrogate", "surrogate-refusal", "400-surrogate", "500-surrogate", "surrogate-model"])
def test_half_a_surrogate_pair_of_a_server_can_be_journalled(fault: str, tmp_path: Path) -> None:
    with serving(always={"number 1 ": fault}) as server, Journal(tmp_path / "journal.jsonl") as journal:
        opened = engine(server.api(max_retries=0))
        assert len(dict(JournalEngine(opened, journal).generate(prompts(2), GREEDY))) == 2
    write_json(tmp_path / "observed.json", opened.observations())
    written = "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    assert "half ? pair" in written


def test_half_a_surrogate_pair_can_be_said() -> None:
    with serving(always={"number": "401-surrogate"}) as server, pytest.raises(ApiError) as refusal:
        complete(server, prompts(1))
    assert "half ? pair" in str(refusal.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", "teacher.api_key_env=null"),
        ("403", "teacher.api_key_env=null"),
        ("404", "teacher.base_url=http://127.0.0.1"),
        ("429-quota", "no credit or quota left"),
    ],
)
def test_what_concerns_every_row_ends_the_run_at_once(fault: str, message: str) -> None:
    with serving(always={"number": fault}) as server:
        with pytest.raises(ApiError, match=message):
            complete(server, prompts(500))
        assert server.stats()["sent"][fault] <= 8


def test_what_was_under_way_when_a_run_ends_is_still_yielded() -> None:
    with serving(first=["ok", "401"], latency_s=0.3) as server:
        found, error = until_stopped(engine(server.api(max_in_flight=4)), prompts(100))
        assert "refused the key" in str(error)
        assert len(found) == 3
        assert server.stats()["valid"].keys() == {prompts(100)[index].messages[-1].content for index, _ in found}


def test_an_unknown_model_is_named() -> None:
    with serving(models=["other"]) as server, pytest.raises(ApiError, match="teacher.model='loopback-1'.*does not know this model"):
        complete(server, prompts(3))


def test_a_server_that_is_not_there_is_given_up_after_a_few_tries() -> None:
    started = time.monotonic()
    with pytest.raises(ApiError, match=r"teacher.base_url=http://127.0.0.1:1/v1: nothing answers there"):
        list(engine(ApiConfig(base_url="http://127.0.0.1:1/v1", api_key_env=None)).generate(prompts(50), GREEDY))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("fault", ["500", "html", "filter"])
def test_rows_that_all_fail_alike_stop_the_run(fault: str) -> None:
    with serving(always={"number": fault}) as server:
        found, error = until_stopped(engine(server.api(max_retries=1)), prompts(1000))
        assert "20 rows one after another failed in the same way" in str(error)
        assert server.stats()["sent"][fault] < 80
    # a refused row is never sent again, so none is recorded when the cause is everybody's
    assert len(found) == (0 if fault == "filter" else 19)


def test_refused_rows_at_the_start_are_given_out_once_something_is_answered() -> None:
    with serving(first=["filter"] * 6) as server:
        found = complete(server, prompts(30))
    assert sorted(c.finish for c in found.values()) == ["refused"] * 6 + ["stop"] * 24


def test_rate_limits_lower_the_concurrency_and_it_recovers() -> None:
    with serving(latency_s=0.02, most_at_once=4) as server:
        opened = engine(server.api(max_in_flight=64, max_retries=50))
        found = dict(opened.generate(prompts(300), GREEDY))
        assert {c.finish for c in found.values()} == {"stop"}
        seen = opened.observations()
        assert seen["lowest_limit"] <= 8
        assert seen["rate_limit_cuts"] >= 3
        refused = server.stats()["sent"]["429"]
        server.change(most_at_once=0)
        dict(opened.generate(prompts(300), GREEDY))
        assert server.stats()["sent"]["429"] == refused
    # 64 at once against a limit of 4 would refuse nearly every call for ever; instead most calls go through
    assert refused < 300


@pytest.mark.parametrize("fault", ["429-after", "429-date"])
def test_retry_after_is_honoured_by_everybody(fault: str) -> None:
    with serving(first=[fault], retry_after="2") as server:
        started = time.monotonic()
        complete(server, prompts(30), max_in_flight=2)
        seconds = time.monotonic() - started
        assert server.stats()["valid"].keys() == {p.messages[-1].content for p in prompts(30)}
    assert 0.9 < seconds < 6  # a date has whole seconds only


def test_the_budget_is_never_crossed_and_says_what_is_missing() -> None:
    with serving(latency_s=0.01) as server:
        opened = engine(server.api(max_cost_usd=1.0), price=PRICE)
        found, error = until_stopped(opened, prompts(100))
        assert isinstance(error, BudgetReached)
        assert "teacher.max_cost_usd=1 would be crossed" in str(error)
        spent = sum(completion.cost_usd or 0 for _, completion in found)
        assert len(server.stats()["valid"]) == len(found)
    # a row costs 0.018; its worst case, 100 output tokens and a prompt of at most 66, is 0.17
    assert 1.0 - 0.17 < spent <= 1.0
    assert f"{len(found)} of 100 rows are done, {100 - len(found)} are missing" in str(error)


def test_earlier_spending_counts(shared: Loopback) -> None:
    before = shared.stats()["calls"]
    with pytest.raises(BudgetReached, match="0 of 3 rows are done"):
        list(engine(shared.api(max_cost_usd=1.0), price=PRICE, spent_usd=0.9).generate(prompts(3), GREEDY))
    assert shared.stats()["calls"].get("POST /v1/chat/completions") == before.get("POST /v1/chat/completions")


def test_attempts_that_may_have_been_billed_count_at_their_worst(tmp_path: Path) -> None:
    with serving(first=["hang", "drop-body", "malformed", "500", "429"], hang_s=2.0) as server:
        opened = engine(server.api(timeout_s=0.4, max_cost_usd=50.0, max_in_flight=1), price=PRICE, folder=tmp_path)
        found = dict(opened.generate(prompts(1), GREEDY))
    worst = 0.001 * (len("be brief") + 16 + len(prompts(1)[0].messages[1].content) + 16 + 100)
    assert found[0].cost_usd == pytest.approx(0.018)
    assert opened.observations()["cost_in_no_row_usd"] == pytest.approx(3 * worst)
    with pytest.raises(BudgetReached):  # and the next process knows
        list(engine(server.api(max_cost_usd=3 * worst + 0.1), price=PRICE, folder=tmp_path).generate(prompts(1), GREEDY))


def test_a_server_without_usage_is_charged_at_worst_and_invents_no_tokens() -> None:
    with serving(usage=False) as server:
        opened = engine(server.api(max_cost_usd=50.0), price=PRICE)
        found = dict(opened.generate(prompts(2), GREEDY))
    assert found[0] == Completion(expected(prompts(1)[0]), 0, "stop", None, None)
    assert opened.observations()["replies_without_usage"] == 2
    assert opened.observations()["cost_in_no_row_usd"] > 0.2


def test_replies_that_nobody_took_are_counted(tmp_path: Path) -> None:
    with serving() as server:
        opened = engine(server.api(max_in_flight=4), price=PRICE, folder=tmp_path)
        rows = opened.generate(prompts(20), GREEDY)
        next(rows)
        time.sleep(0.3)  # the other three are answered
        rows.close()
        assert len(server.stats()["valid"]) == 4
    assert unreported_usd(tmp_path) == pytest.approx(3 * 0.018)  # the first row carries its own
    assert opened.observations()["cost_in_no_row_usd"] == pytest.approx(3 * 0.018)


def test_refusals_that_are_not_given_out_are_counted(tmp_path: Path) -> None:
    with serving(always={"number": "filter"}) as server:
        found, error = until_stopped(engine(server.api(max_in_flight=1), price=PRICE, folder=tmp_path), prompts(100))
    assert "failed in the same way" in str(error)
    assert found == []
    assert unreported_usd(tmp_path) == pytest.approx(20 * 0.018)


def test_what_a_stage_cost_is_its_rows_and_what_no_row_carries(tmp_path: Path) -> None:
    spent = 0.0
    with serving(first=["null"]) as server:  # a reply without a text that was paid: tried again
        for place in range(3):
            opened = engine(server.api(), price=PRICE, folder=tmp_path)
            sampling = Sampling(100, temperature=0.5)
            spent += sum(c.cost_usd or 0 for _, c in opened.generate(prompts(5, start=5 * place), sampling))
            assert opened.observations()["cost_in_no_row_usd"] == pytest.approx(unreported_usd(tmp_path), abs=1e-6)
        bodies = server.stats()["sent"]
    assert sum(bodies.values()) == 15 + 3 * 4 + 1  # four probes in each process
    assert unreported_usd(tmp_path) > 0.1
    assert spent > 15 * 0.018


@pytest.mark.parametrize(("price", "shown"), [(None, False), (PRICE, True)])
def test_dollars_are_shown_only_where_the_price_is_known(
    shared: Loopback, capsys: pytest.CaptureFixture[str], price: Price | None, shown: bool
) -> None:
    opened = engine(shared.api(), price=price, progress=True)
    dict(opened.generate(prompts(20), GREEDY))
    bar = capsys.readouterr().err
    assert "tokens" in bar
    assert ("$" in bar) is shown
    assert (opened.observations()["cost_usd"] is not None) is shown
    assert (opened.observations()["cost_in_no_row_usd"] is not None) is shown


@pytest.mark.parametrize(
    ("settings", "seed", "n"),
    [
        ({}, "honours seed", "honours n"),
        ({"draws": "ignores"}, "ignores seed", "honours n"),
        ({"draws": "same", "knows_n": False}, "always the same text", "ignores n"),
        ({"refuses": ["seed", "n"]}, "refuses seed", "refuses n"),
        ({"always": {"number": "500"}}, "not probed", "not probed"),
    ],
)
def test_what_a_server_does_with_seed_and_n_is_found_out(settings: dict[str, Any], seed: str, n: str) -> None:
    said: list[str] = []
    with serving(**settings) as server:
        opened = engine(server.api(max_retries=1), say=said.append)
        found = dict(opened.generate(prompts(3), Sampling(50, temperature=0.7, seed=3)))
        first = server.stats()["calls"]["POST /v1/chat/completions"]
        dict(opened.generate(prompts(3), Sampling(50, temperature=0.7, seed=4)))
        if "always" not in settings:
            assert server.stats()["calls"]["POST /v1/chat/completions"] == first + 3  # probed once
    assert opened.observations()["seed"].startswith(seed)
    assert opened.observations()["n"].startswith(n)
    assert {c.finish for c in found.values()} == {"error" if "always" in settings else "stop"}
    assert any(seed in line and n in line for line in said)


def test_greedy_text_needs_no_probe(shared: Loopback) -> None:
    opened = engine(shared.api())
    dict(opened.generate(prompts(2), GREEDY))
    assert (opened.observations()["requests"], opened.observations()["seed"]) == (2, "not probed")


def test_a_seed_draws_the_same_text_again_and_another_seed_another(shared: Loopback) -> None:
    first = complete(shared, prompts(3), Sampling(50, 0.7, seed=1))
    assert complete(shared, prompts(3), Sampling(50, 0.7, seed=1)) == first
    assert complete(shared, prompts(3), Sampling(50, 0.7, seed=2)) != first


def test_max_completion_tokens_is_used_where_max_tokens_is_refused() -> None:
    said: list[str] = []
    with serving(refuses=["max_tokens"], latency_s=0.01) as server:
        opened = engine(server.api(), say=said.append)
        found = dict(opened.generate(prompts(40), Sampling(5)))
        bodies = server.stats()["bodies"]
    assert {c.finish for c in found.values()} == {"length"}
    assert bodies[-1]["max_completion_tokens"] == 5
    assert len(said) == 1


def test_a_refused_setting_ends_the_run() -> None:
    with serving(refuses=["temperature"]) as server, pytest.raises(ApiError, match="refuses a sampling setting.*'temperature'"):
        complete(server, prompts(3))


def test_long_lists_of_stop_strings_cut_the_same(shared: Loopback) -> None:
    stops = ("</s>", "<|im_end|>", "<|endoftext|>", "(END)", "**END**", "[END]")
    found = complete(shared, prompts(1), Sampling(100, stop=stops))
    assert found[0].text == expected(prompts(1)[0]).removesuffix("[END]")
    assert shared.stats()["bodies"][-1]["stop"] != list(stops)


def _sockets_and_threads() -> tuple[int, int]:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.parametrize("how", ["break", "close", "interrupt"])
def test_leaving_early_leaves_nothing_behind(how: str) -> None:
    with serving(latency_s=0.05, always={"number 7": "hang"}) as server:
        complete(server, prompts(5))  # imports done
        before = _sockets_and_threads()
        rows = engine(server.api(timeout_s=60)).generate(prompts(100), GREEDY)
        started = time.monotonic()
        if how == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                rows.throw(KeyboardInterrupt) if next(rows) else None
        else:
            next(rows)
        rows.close()
        del rows
        assert time.monotonic() - started < 2
        assert _sockets_and_threads() == before


def test_a_row_is_not_replaced_before_it_is_taken() -> None:
    with serving() as server:
        rows = engine(server.api(max_in_flight=3)).generate(prompts(20), GREEDY)
        next(rows)
        time.sleep(0.3)
        assert len(server.stats()["valid"]) == 3  # one is being journalled, two are waiting: nothing else was asked for
        assert len(list(rows)) == 19


def test_a_missing_key_is_told_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ApiError, match="teacher.api_key_env=SOME_KEY: this environment variable is not set"):
        engine(ApiConfig(api_key_env="SOME_KEY"))


@pytest.mark.parametrize("key", ["sk-two words", "sk-line\nbreak", "sk-schlüssel-lang"])
def test_a_key_that_no_header_takes_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(ApiError, match="holds characters that no key has") as refusal:
        engine(ApiConfig(api_key_env="SOME_KEY"))
    assert "sk-" not in str(refusal.value)


def test_the_key_reaches_the_server_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = "-".join(["sk", "test", "0123456789abcdef"])
    monkeypatch.setenv("SOME_KEY", secret)
    said: list[str] = []
    texts: list[str] = []
    caplog.set_level(logging.DEBUG)
    with serving(key=secret) as server:
        opened = engine(server.api(api_key_env="SOME_KEY"), say=said.append, folder=tmp_path, price=PRICE)
        assert dict(opened.generate(prompts(2), GREEDY))[0].finish == "stop"
        server.change(reply=f"your key is {secret}")
        texts.append(str(dict(opened.generate(prompts(2), Sampling(20, 0.5)))))
        server.change(key="another")
        with pytest.raises(ApiError, match="refused the key") as refusal:
            list(opened.generate(prompts(2), GREEDY))
    error: BaseException | None = refusal.value
    while error is not None:
        texts.append(repr(error) + repr(vars(error)))
        error = error.__cause__ or error.__context__
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    everything = [
        *texts,
        *said,
        *written,
        repr(opened),
        repr(vars(opened)),
        str(opened.observations()),
        caplog.text,
        *capfd.readouterr(),
    ]
    assert "[key]" in texts[0]
    assert not [text for text in everything if secret in text or "0123456789" in text]
