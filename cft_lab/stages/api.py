"""Models behind an API, as stages use them: what is lacking for a call, what it will cost, and the engine itself."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import ApiConfig, Config, PricesConfig
from cft_lab.engines.base import Prompt
from cft_lab.engines.journal import Memory
from cft_lab.json_files import write_json
from cft_lab.records import Completion, Sampling
from cft_lab.store import Work

if TYPE_CHECKING:
    from cft_lab.engines.api.cost import Price
    from cft_lab.engines.api.engine import OpenAIEngine

OBSERVED = "observed.json"  # what was seen of a server while it was asked
_SEEN = 1000  # completions that an estimate of cost looks back on


@contextlib.contextmanager
def open_api(model: str, api: ApiConfig, group: str, config: Config, work: Work, memory: Memory) -> Iterator[ConfirmedEngine]:
    """An engine over a model behind an API, whose estimated cost is said and confirmed before the first request.

    `group` is the config group of `api`, for messages. What was observed of the server goes into the stage's folder.
    """
    from cft_lab.engines.api.cost import price_of
    from cft_lab.engines.api.engine import OpenAIEngine

    price = price_of(model, config.prices)
    engine = OpenAIEngine(
        model,
        api,
        owner=group,
        price=price,
        spent_usd=memory.spent_usd,
        folder=work.folder,
        say=work.say,
        progress=config.progress,
    )
    with engine:
        try:
            yield ConfirmedEngine(engine, price, api, group, memory.recent(_SEEN), work.say)
        finally:
            write_json(work.folder / OBSERVED, engine.observations())


class ConfirmedEngine:
    """Wraps an API engine: before its first request it says what is to come and asks for confirmation where that is due."""

    def __init__(
        self,
        engine: OpenAIEngine,
        price: Price | None,
        api: ApiConfig,
        group: str,
        seen: Sequence[Completion],
        say: Callable[[str], None],
    ) -> None:
        self._engine, self._price, self._api, self._group, self._say = engine, price, api, group, say
        self._seen: Sequence[Completion] | None = seen  # None once confirmed

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. Raises CostNotConfirmed before anything is sent."""
        from cft_lab.engines.api.cost import estimate_cost, require_confirmation

        if self._seen is not None and prompts:
            estimate = estimate_cost(prompts, sampling, self._price, self._api.mode, self._seen)
            self._say(f"        {self._group}: {estimate.line()}")
            require_confirmation(estimate, self._api, self._group)
            self._seen = None
        yield from self._engine.generate(prompts, sampling)


def stage_usd(spent_usd: float, model: str, prices: PricesConfig, folder: Path) -> float | None:
    """Dollars of a stage over all its runs; None where the price is unknown. `spent_usd` is what its journal's completions cost."""
    from cft_lab.engines.api.cost import price_of, unreported_usd

    return None if price_of(model, prices) is None else round(spent_usd + unreported_usd(folder), 6)


def api_lacks(model: str, api: ApiConfig, group: str, prices: PricesConfig) -> Iterator[str]:
    """What is lacking for calling a model behind an API, one line each; `group` is the config group of `api`."""
    from cft_lab.engines.api.cost import price_of
    from cft_lab.engines.api.errors import ApiError

    if importlib.util.find_spec("openai") is None:
        yield f"{group}.kind=openai: the package openai is not installed: `pip install openai`"
    if api.api_key_env and not os.environ.get(api.api_key_env):
        yield (
            f"{group}.kind=openai needs the API key in the environment variable {api.api_key_env}: export it, name another one "
            f"with {group}.api_key_env, or set {group}.api_key_env=null for a server that wants none"
        )
    try:
        price = price_of(model, prices)
    except ApiError as error:
        yield str(error)
        return
    if api.max_cost_usd == 0:
        yield f"{group}.max_cost_usd=0 lets nothing be sent: raise it, or set it to null for no limit"
    elif api.max_cost_usd is not None and price is None:
        yield (
            f"{group}.max_cost_usd={api.max_cost_usd:g} cannot be kept without a price: give "
            f"'+prices.input_usd={{{model}: USD}}' and '+prices.output_usd={{{model}: USD}}' (per million tokens), "
            f"or set {group}.max_cost_usd=null"
        )
