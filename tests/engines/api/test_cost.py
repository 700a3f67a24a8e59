"""Prices, estimates and the budget's arithmetic."""

from pathlib import Path

import pytest

from cft_lab.config import ApiConfig, PricesConfig
from cft_lab.engines.api.cost import (
    UNREPORTED,
    Ledger,
    Price,
    estimate_cost,
    most_tokens,
    price_of,
    require_confirmation,
    unreported_usd,
)
from cft_lab.engines.api.errors import ApiError, CostNotConfirmed
from cft_lab.engines.base import Prompt
from cft_lab.records import Completion, Message, Sampling

GPT_4O = Price(2.50, 10.00, 0.5)
PROMPTS = [Prompt(f"p{i}", (Message("user", "x" * 400),)) for i in range(10)]


def test_a_price_is_dollars_per_million_tokens_and_batches_ask_half() -> None:
    assert GPT_4O.cost(1_000_000, 0, "online") == 2.5
    assert GPT_4O.cost(1000, 500, "online") == pytest.approx(0.0075)
    assert GPT_4O.cost(1000, 500, "batch") == pytest.approx(0.00375)


def test_prices_come_whole_or_not_at_all() -> None:
    prices = PricesConfig(input_usd={"a": 1.0, "b": 1.0}, output_usd={"a": 2.0}, batch_factor=0.5)
    assert price_of("a", prices) == Price(1.0, 2.0, 0.5)
    assert price_of("other", prices) is None
    with pytest.raises(ApiError, match="prices.output_usd has no price for 'b'"):
        price_of("b", prices)


def test_an_estimate_says_what_it_rests_on() -> None:
    blind = estimate_cost(PROMPTS, Sampling(100), GPT_4O, "online", [])
    assert (blind.rows, blind.prompt_tokens, blind.output_tokens) == (10, 1000, 1000)
    assert blind.usd == pytest.approx(0.0125)
    assert "nothing measured yet" in blind.line()
    seen = [Completion("t", 20, "stop", 200), Completion("t", 40, "length", 200), Completion("why", 0, "error")] * 10
    measured = estimate_cost(PROMPTS, Sampling(100), GPT_4O, "online", seen)
    assert (measured.prompt_tokens, measured.output_tokens) == (2000, 300)
    assert "mean of 20 rows already answered" in measured.line()
    assert "price unknown" in estimate_cost(PROMPTS, Sampling(100), None, "online", []).line()


def test_a_high_estimate_needs_a_yes() -> None:
    estimate = estimate_cost(PROMPTS, Sampling(10_000_000), GPT_4O, "online", [])
    with pytest.raises(CostNotConfirmed, match=r"teacher.confirm_cost=true") as refusal:
        require_confirmation(estimate, ApiConfig(), "teacher")
    assert "basis" in str(refusal.value)
    require_confirmation(estimate, ApiConfig(confirm_cost=True), "teacher")
    require_confirmation(estimate, ApiConfig(confirm_above_usd=1e9), "teacher")
    require_confirmation(estimate_cost(PROMPTS, Sampling(1), GPT_4O, "online", []), ApiConfig(), "teacher")


@pytest.mark.parametrize("base_url", [None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1"])
def test_an_unknown_price_at_openai_needs_a_yes(base_url: str | None) -> None:
    unknown = estimate_cost(PROMPTS, Sampling(1), None, "online", [])
    with pytest.raises(CostNotConfirmed, match=r"price of this model is unknown.*teacher\.confirm_cost=true") as refusal:
        require_confirmation(unknown, ApiConfig(base_url=base_url), "teacher")
    assert "'+prices.input_usd={NAME: DOLLARS}' '+prices.output_usd={NAME: DOLLARS}'" in str(refusal.value)
    assert "$" not in str(refusal.value)
    require_confirmation(unknown, ApiConfig(base_url=base_url, confirm_cost=True), "teacher")


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:8000/v1", "https://notopenai.com/v1"])
def test_an_unknown_price_at_ones_own_server_needs_no_yes(base_url: str) -> None:
    unknown = estimate_cost(PROMPTS, Sampling(10_000_000), None, "online", [])
    require_confirmation(unknown, ApiConfig(base_url=base_url), "teacher")


def test_a_budget_needs_a_price_and_allows_something() -> None:
    with pytest.raises(ApiError, match=r"teacher.max_cost_usd=3 .*prices.input_usd"):
        Ledger("teacher", None, "online", 3.0, 0.0, None)
    with pytest.raises(ApiError, match="teacher.max_cost_usd=0 allows no call"):
        Ledger("teacher", GPT_4O, "online", 0.0, 0.0, None)


def test_the_worst_case_bounds_prompt_tokens_by_bytes() -> None:
    assert most_tokens(Prompt("p", (Message("user", "äb"),))) == 3 + 16
    with pytest.raises(UnicodeEncodeError):
        most_tokens(Prompt("p", (Message("user", "\ud83d"),)))


def test_reservations_count_until_they_are_settled() -> None:
    ledger = Ledger("teacher", GPT_4O, "online", 1.0, 0.25, None)
    ledger.reserve(0.5)
    assert ledger.fits(0.25)
    assert not ledger.fits(0.26)
    ledger.settle(0.5, reported_usd=0.1)
    assert ledger.spent_usd == pytest.approx(0.35)
    assert ledger.fits(0.65)
    assert "$0.35" in str(ledger.reached(0.7))


def test_what_no_row_can_tell_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / UNREPORTED
    killed = Ledger("teacher", GPT_4O, "online", 9.0, 0.0, file)
    killed.reserve(0.5)
    killed.reserve(0.25)
    killed.settle(0.25, reported_usd=0.1)
    killed.settle(0.0, unreported_usd=0.125)
    after_kill = Ledger("teacher", GPT_4O, "online", 9.0, 0.1, file)
    assert after_kill.spent_usd == pytest.approx(0.1 + 0.125 + 0.75)
    after_kill.close()
    assert Ledger("teacher", GPT_4O, "online", 9.0, 0.0, file).spent_usd == pytest.approx(0.875)
    assert unreported_usd(tmp_path) == pytest.approx(0.875)


def test_nothing_kept_is_nothing_unreported(tmp_path: Path) -> None:
    assert unreported_usd(tmp_path) == 0.0
