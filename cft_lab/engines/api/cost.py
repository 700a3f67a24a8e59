"""Dollars: prices, the estimate before the first call, and the budget that is never crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cft_lab.config import ApiConfig, PricesConfig
from cft_lab.engines.api.errors import ApiError, BudgetReached, CostNotConfirmed
from cft_lab.engines.base import Prompt
from cft_lab.json_files import read_json, write_json
from cft_lab.records import Completion, Sampling

CHARACTERS_PER_TOKEN = 4  # OpenAI's rule of thumb for English text
ENOUGH_SEEN = 20  # completions whose mean is a better basis than a rule of thumb
UNREPORTED = "unreported_usd.json"
TURN_OVERHEAD = 16  # tokens that a chat template may add to one message, generously


@dataclass(frozen=True)
class Price:
    """What a model asks, in dollars per million tokens; `batch_factor` is the Batch API's share of that."""

    input_usd: float
    output_usd: float
    batch_factor: float

    def cost(self, prompt_tokens: int, completion_tokens: int, mode: str) -> float:
        """Dollars for so many tokens; `mode` is online or batch. Discounts for cached prompts are left out."""
        full = (prompt_tokens * self.input_usd + completion_tokens * self.output_usd) / 1e6
        return full * (self.batch_factor if mode == "batch" else 1.0)


def price_of(model: str, prices: PricesConfig) -> Price | None:
    """The price of a model, None if the table does not have it. Raises ApiError if it has one half of it."""
    sides = (prices.input_usd.get(model), prices.output_usd.get(model))
    if sides[0] is None and sides[1] is None:
        return None
    if sides[0] is None or sides[1] is None:
        lacking = "input_usd" if sides[0] is None else "output_usd"
        raise ApiError(f"prices.{lacking} has no price for {model!r}, though the other side has: give both, or neither")
    return Price(sides[0], sides[1], prices.batch_factor)


@dataclass(frozen=True)
class CostEstimate:
    """What the rows that are still to be sent will take; `usd` is None where the price is unknown."""

    rows: int
    prompt_tokens: int
    output_tokens: int
    usd: float | None
    basis: str

    def line(self) -> str:
        """One line to print."""
        dollars = "price unknown" if self.usd is None else f"${self.usd:,.2f}"
        tokens = f"{self.prompt_tokens:,} prompt and {self.output_tokens:,} output tokens"
        return f"estimate: {self.rows:,} rows, {tokens}, {dollars} (basis: {self.basis})"


def estimate_cost(
    prompts: Sequence[Prompt], sampling: Sampling, price: Price | None, mode: str, seen: Sequence[Completion]
) -> CostEstimate:
    """What `prompts` will take, judged by `seen` (completions of the same kind) if there are enough of them."""
    rows = len(prompts)
    counted = [c for c in seen if c.prompt_tokens is not None and c.finish in ("stop", "length")]
    if len(counted) >= ENOUGH_SEEN:
        prompt_tokens = round(rows * sum(c.prompt_tokens or 0 for c in counted) / len(counted))
        output_tokens = round(rows * sum(c.num_tokens for c in counted) / len(counted))
        basis = f"mean of {len(counted):,} rows already answered"
    else:
        characters = sum(len(message.content) for prompt in prompts for message in prompt.messages)
        prompt_tokens, output_tokens = characters // CHARACTERS_PER_TOKEN, rows * sampling.max_new_tokens
        basis = (
            f"nothing measured yet: {CHARACTERS_PER_TOKEN} characters per prompt token, and every text as long as its limit of "
            f"{sampling.max_new_tokens:,} tokens, so rather too high"
        )
    usd = None if price is None else price.cost(prompt_tokens, output_tokens, mode)
    return CostEstimate(rows, prompt_tokens, output_tokens, usd, basis)


def require_confirmation(estimate: CostEstimate, api: ApiConfig, owner: str) -> None:
    """Raises CostNotConfirmed if nobody said yes to an estimate above the threshold, or to OpenAI's own server at an unknown
    price. A server of one's own with an unknown price needs no yes."""
    if api.confirm_cost or (estimate.usd is None and not _asks_money(api)):
        return
    if estimate.usd is None:
        raise CostNotConfirmed(
            f"{estimate.line()}: OpenAI's server asks money, and the price of this model is unknown. Give it with "
            "'+prices.input_usd={NAME: DOLLARS}' '+prices.output_usd={NAME: DOLLARS}' (per million tokens), or go ahead "
            f"all the same with {owner}.confirm_cost=true"
        )
    if estimate.usd <= api.confirm_above_usd:
        return
    raise CostNotConfirmed(
        f"{estimate.line()}; that is above {owner}.confirm_above_usd={api.confirm_above_usd:g}. "
        f"To go ahead, add {owner}.confirm_cost=true; {owner}.max_cost_usd=... sets a limit that is not crossed"
    )


def unreported_usd(folder: Path) -> float:
    """Dollars of a stage, over all its processes, that no completion carries: probes, replies that nobody took, the worst case of
    attempts without a usage report. With the `cost_usd` of the journal's completions they make what the stage cost.

    0.0 where nothing was kept: nothing was lost, or the price is unknown.
    """
    return _kept_usd(folder / UNREPORTED)


def _kept_usd(file: Path | None) -> float:
    kept: dict[str, float] = read_json(file) if file and file.exists() else {}
    return kept.get("attempts_usd", 0.0) + kept.get("under_way_usd", 0.0)


def _asks_money(api: ApiConfig) -> bool:
    """Whether the server is OpenAI's own, by whatever name."""
    return api.base_url is None or f".{urlsplit(api.base_url).hostname}".endswith(".openai.com")


def most_tokens(prompt: Prompt) -> int:
    """More prompt tokens than `prompt` can have: a token is at least one byte. Raises UnicodeEncodeError on lone surrogates."""
    return sum(len(message.content.encode()) + TURN_OVERHEAD for message in prompt.messages)


class Ledger:
    """Keeps spent + worst case of what is under way + worst case of the next request within the limit.

    With a file, money that is in no completion (attempts without a usage report, probes, what was under way when the process
    was killed) outlives the process too.
    """

    def __init__(self, owner: str, price: Price | None, mode: str, limit_usd: float | None, spent_usd: float, file: Path | None):
        if limit_usd is not None and price is None:
            raise ApiError(
                f"{owner}.max_cost_usd={limit_usd:g} cannot be kept: the price of the model is unknown. "
                "Give it in prices.input_usd and prices.output_usd (dollars per million tokens), or set max_cost_usd=null"
            )
        if limit_usd is not None and limit_usd <= 0:
            raise ApiError(f"{owner}.max_cost_usd={limit_usd:g} allows no call at all: raise it, or set it to null for no limit")
        self._owner, self._price, self._mode, self._limit_usd, self._file = owner, price, mode, limit_usd, file
        self.unreported_usd = _kept_usd(file)
        self.spent_usd = spent_usd + self.unreported_usd
        self.reserved_usd = 0.0
        self._highest_usd = 0.0

    @property
    def in_no_row_usd(self) -> float:
        """What `unreported_usd` finds in the file now, the worst case of what is under way included."""
        return self.unreported_usd + self._highest_usd

    @property
    def priced(self) -> bool:
        """Whether dollars can be counted at all."""
        return self._price is not None

    def worst(self, prompt_tokens: int, output_tokens: int) -> float:
        """The most dollars that a request can cost; 0 where no price is known."""
        return self._price.cost(prompt_tokens, output_tokens, self._mode) if self._price else 0.0

    def reported(self, tokens: tuple[int, int] | None) -> float | None:
        """Dollars for the (prompt, output) tokens of a usage report; None if there is no report or no price."""
        return self._price.cost(*tokens, self._mode) if self._price and tokens else None

    def fits(self, usd: float) -> bool:
        """Whether `usd` more, at worst, stay within the limit."""
        return self._limit_usd is None or self.spent_usd + self.reserved_usd + usd <= self._limit_usd + 1e-9

    def reserve(self, usd: float, *, outlives: bool = False) -> None:
        """Sets aside the worst case of a request before it is sent. `outlives`: a kill does not lose it (batches)."""
        self.reserved_usd += usd
        if not outlives and self.reserved_usd > self._highest_usd:
            self._highest_usd = self.reserved_usd
            self._keep()

    def settle(self, reserved_usd: float, reported_usd: float = 0.0, unreported_usd: float = 0.0) -> None:
        """Ends a reservation: what it cost by the server's report, and what must be assumed for want of one."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += reported_usd + unreported_usd
        self.outside_rows(unreported_usd)

    def outside_rows(self, usd: float) -> None:
        """Notes dollars, spent already, that no completion will carry."""
        if usd:
            self.unreported_usd += usd
            self._keep()

    def close(self) -> None:
        """Nothing is under way any more."""
        self._highest_usd = 0.0
        self._keep()

    def reached(self, next_usd: float) -> BudgetReached:
        """The error for a request that would not fit."""
        assumed = (
            f" (of which ${self.unreported_usd:,.4f} are in no row: assumed at worst, or probes)" if self.unreported_usd else ""
        )
        return BudgetReached(
            f"{self._owner}.max_cost_usd={self._limit_usd:g} would be crossed: ${self.spent_usd:,.4f} are spent{assumed}, and the "
            f"next request may cost up to ${next_usd:,.4f}"
        )

    def _keep(self) -> None:
        if self._file and self._price:
            write_json(self._file, {"attempts_usd": self.unreported_usd, "under_way_usd": self._highest_usd})
