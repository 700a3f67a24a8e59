"""One request for each row, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cft_lab.engines.api.chat import Asking, Reply, read_reply
from cft_lab.engines.api.client import Caller, Tally, with_retries
from cft_lab.engines.api.cost import Ledger, most_tokens
from cft_lab.engines.api.errors import REFUSE, STOP, Failure, Key, Target, stop_error
from cft_lab.engines.api.gate import Gate
from cft_lab.engines.base import Prompt
from cft_lab.records import Completion, Sampling

MOST_MODELS = 20  # names of models that are counted


@dataclass(frozen=True)
class Row:
    """A finished row: which prompt, what came of it, and the kind of failure if it is one."""

    index: int
    completion: Completion
    failure: str | None = None


@dataclass
class Sender:
    """Sends single requests through the gate, pays for them and keeps count."""

    caller: Caller
    gate: Gate
    ledger: Ledger
    target: Target
    key: Key
    tally: Tally

    async def ask(self, body: dict[str, Any], worst_usd: float, sampling: Sampling) -> tuple[Reply | Failure | None, float | None]:
        """One request: its outcome (None if nothing may be sent any more) and the dollars that the server reported."""
        sent_at = await self.gate.enter(worst_usd)
        if sent_at is None:
            return None, None
        reported, unreported = None, worst_usd  # what holds if this is cancelled half way
        try:
            content = await self.caller.chat(body)
            outcome = content if isinstance(content, Failure) else read_reply(content, sampling, self.key)
            reported, unreported = self.price(outcome, worst_usd)
        finally:
            self.gate.leave(worst_usd, reported or 0.0, unreported)
        if isinstance(outcome, Reply):
            self.gate.succeeded()
        elif outcome.slow_down:
            self.gate.slow_down(sent_at, outcome.retry_after_s)
        return outcome, reported

    def price(self, outcome: Reply | Failure, worst_usd: float) -> tuple[float | None, float]:
        """Dollars reported (None if there is no report), and dollars to be assumed for want of a report."""
        tally = self.tally
        if isinstance(outcome, Reply) and (outcome.model in tally.models or len(tally.models) < MOST_MODELS):
            tally.models[outcome.model] += 1
        if outcome.tokens:
            tally.prompt_tokens += outcome.tokens[0]
            tally.output_tokens += outcome.tokens[1]
            reported = self.ledger.reported(outcome.tokens)
            tally.reported_usd += reported or 0.0
            return reported, 0.0
        tally.replies_without_usage += isinstance(outcome, Reply)
        return None, worst_usd if isinstance(outcome, Reply) or outcome.billed else 0.0


class Online:
    """Answers prompts, each with bounded retries. A worker takes its next row only when the last one has been taken from it,
    so that no more than `max_in_flight` rows are ever between the server and the consumer's journal.
    """

    def __init__(self, sender: Sender, asking: Asking, sampling: Sampling, retries: int) -> None:
        self._sender, self._asking, self._sampling, self._retries = sender, asking, sampling, retries

    async def run(self, prompts: Sequence[Prompt], workers: int, post: Callable[[Row], Awaitable[None]]) -> None:
        """Posts a row for every prompt. Raises what stopped it, after all that was under way has been posted."""
        order = iter(range(len(prompts)))

        async def work() -> None:
            for index in order:
                row = await self._row(index, prompts[index])
                if row is None:
                    return
                await post(row)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(prompts))):
                group.create_task(work())
        if self._sender.gate.stopped:
            raise self._sender.gate.stopped

    async def _row(self, index: int, prompt: Prompt) -> Row | None:
        """A row; None if the run was stopped before it had an outcome."""
        sender = self._sender
        try:
            worst_usd = sender.ledger.worst(most_tokens(prompt), self._sampling.max_new_tokens)
        except UnicodeEncodeError:
            return failed_row(index, Failure("invalid text", "the prompt is not valid Unicode", REFUSE), 0, None, sender.tally)
        costs: list[float] = []

        async def attempt() -> Reply | Failure | None:
            outcome, reported = await self._ask(prompt, worst_usd)
            if reported is not None:
                costs.append(reported)
            return outcome

        try:
            outcome, tries = await with_retries(attempt, self._retries, sender.gate.sleep, sender.tally)
        except asyncio.CancelledError:
            sender.ledger.outside_rows(sum(costs))
            raise
        cost_usd = sum(costs) if costs else None
        if isinstance(outcome, Failure) and outcome.then == STOP:
            sender.gate.stop(stop_error(outcome, sender.target))
            outcome = None
        if outcome is None:
            sender.ledger.outside_rows(sum(costs))
            return None
        if isinstance(outcome, Failure):
            return failed_row(index, outcome, tries, cost_usd, sender.tally)
        return text_row(index, outcome, cost_usd, sender.tally)

    async def _ask(self, prompt: Prompt, worst_usd: float) -> tuple[Reply | Failure | None, float | None]:
        """One attempt, repeated at once if it taught us that the server wants other parameters."""
        while True:
            body = self._asking.body(prompt)
            outcome, reported = await self._sender.ask(body, worst_usd, self._sampling)
            if not isinstance(outcome, Failure) or not self._asking.learn(outcome, body):
                return outcome, reported


def text_row(index: int, reply: Reply, cost_usd: float | None, tally: Tally) -> Row:
    """The row of an answered prompt."""
    tally.rows[reply.finish] += 1
    prompt_tokens, output_tokens = reply.tokens or (None, 0)
    return Row(index, Completion(reply.text, output_tokens, reply.finish, prompt_tokens, cost_usd))


def failed_row(index: int, failure: Failure, tries: int, cost_usd: float | None, tally: Tally) -> Row:
    """The row of a prompt that got no text: what went wrong and how often it was tried."""
    finish = "refused" if failure.then == REFUSE else "error"
    tally.rows[finish] += 1
    tally.failures[failure.kind] += 1
    times = "once" if tries == 1 else f"{tries} times"
    reason = f"{failure.kind}: {failure.what}" + (f" (tried {times})" if tries else "")
    return Row(index, Completion(reason, 0, finish, None, cost_usd), failure.kind)
