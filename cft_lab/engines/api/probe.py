"""Does this server do what `seed` and `n` ask for? Servers ignore both without a word, so a few short requests find out."""

from __future__ import annotations

import re
from typing import Any

from cft_lab.engines.api.chat import Asking, Reply
from cft_lab.engines.api.client import with_retries
from cft_lab.engines.api.cost import most_tokens
from cft_lab.engines.api.errors import STOP, Failure, stop_error
from cft_lab.engines.api.online import Sender
from cft_lab.engines.base import Prompt
from cft_lab.records import Sampling

PROBE_TOKENS = 32  # long enough for draws at temperature 1 to part
PROBE_RETRIES = 2
SEEDS = (1, 1, 2)


async def probe(sender: Sender, model: str, prompt: Prompt, lessons: set[str]) -> None:
    """Writes what was found into the tally: same seed twice, another seed, two choices; the opening of a real prompt's answer,
    at temperature 1. Raises ApiError where nothing can be sent at all (key, model, address).
    """
    sampling = Sampling(PROBE_TOKENS, temperature=1.0)
    asking = Asking(model, sampling, lessons, lambda lesson: None)
    texts: list[str] = []
    for seed in SEEDS:
        outcome = await _ask(sender, asking, prompt, {"seed": seed})
        if outcome is None:
            return
        if isinstance(outcome, Failure):
            refused = "seed" in outcome.what
            sender.tally.seed = f"refuses seed ({outcome.what})" if refused else f"not probed ({outcome.kind}: {outcome.what})"
            break
        texts.append(outcome.text)
    else:
        sender.tally.seed = _verdict(*texts)
    outcome = await _ask(sender, asking, prompt, {"n": 2})
    if isinstance(outcome, Reply):
        sender.tally.n = "honours n" if outcome.choices == 2 else "ignores n"
    elif outcome is not None:
        sender.tally.n = f"refuses n ({outcome.what})" if re.search(r"\bn\b", outcome.what) else f"not probed ({outcome.kind})"


def _verdict(first: str, again: str, other: str) -> str:
    if first != again:
        return "ignores seed"
    return "honours seed" if first != other else "always the same text"


async def _ask(sender: Sender, asking: Asking, prompt: Prompt, extra: dict[str, Any]) -> Reply | Failure | None:
    sampling = Sampling(PROBE_TOKENS, temperature=1.0)
    choices = extra.get("n", 1)
    worst_usd = sender.ledger.worst(most_tokens(prompt), PROBE_TOKENS * choices)

    async def attempt() -> Reply | Failure | None:
        while True:
            body = asking.body(prompt)
            outcome, reported = await sender.ask({**body, **extra}, worst_usd, sampling)
            if reported:
                sender.ledger.outside_rows(reported)
            learnt = isinstance(outcome, Failure) and asking.learn(outcome, body)
            if not learnt or ("seed" in extra and "seed" not in asking.body(prompt)):
                return outcome

    outcome, _ = await with_retries(attempt, PROBE_RETRIES, sender.gate.sleep, sender.tally)
    if isinstance(outcome, Failure) and outcome.then == STOP and outcome.kind != "refused setting":
        raise stop_error(outcome, sender.target)
    return outcome
