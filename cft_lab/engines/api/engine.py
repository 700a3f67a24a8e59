"""The OpenAI-compatible engine: any server that speaks `/v1/chat/completions`, one request per row or the Batch API."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cft_lab.config import ApiConfig
from cft_lab.engines.api.background import Background, Post
from cft_lab.engines.api.batch import Batches, BatchLimits, refuse_while_under_way
from cft_lab.engines.api.chat import Asking
from cft_lab.engines.api.client import Caller, Tally
from cft_lab.engines.api.cost import UNREPORTED, Ledger, Price
from cft_lab.engines.api.errors import ApiError, BudgetReached, Key, Target
from cft_lab.engines.api.gate import Gate
from cft_lab.engines.api.online import Online, Row, Sender
from cft_lab.engines.api.probe import probe
from cft_lab.engines.api.settings import server_url, setting_problems
from cft_lab.engines.base import Prompt
from cft_lab.records import Completion, Sampling

SAME_FAILURES = 20  # rows in a row that fail in one way before the run is stopped


class OpenAIEngine:
    """An `Engine`. Use as a context manager.

    A row that fails for good comes back as finish `error` (worth another run) or `refused`. What ends the run is an ApiError.
    `num_tokens` and `prompt_tokens` are the server's counts; where it gives none they are 0 and None. `cost_usd` is what the
    server's counts of all attempts of the row come to. `spent_usd` is what earlier runs of the same stage spent by their rows;
    in `folder` the engine keeps what no row can tell (and the state of batches), so give it the stage's folder every time.
    """

    def __init__(
        self,
        model: str,
        api: ApiConfig,
        *,
        owner: str,
        price: Price | None,
        spent_usd: float = 0.0,
        folder: Path | None = None,
        say: Callable[[str], None],
        progress: bool = True,
        batch_limits: BatchLimits | None = None,
    ) -> None:
        """`owner` is the config group (teacher, responses, engine) that messages name. Raises ApiError for unusable
        settings (`setting_problems`), a missing key, a budget of zero, and a budget without a price."""
        if api.mode == "batch" and folder is None:
            raise ValueError("mode batch needs a folder: without one a killed run would pay twice")
        if problems := list(setting_problems(api, owner)):
            raise ApiError("; ".join(problems))
        self._model, self._api, self._folder, self._say, self._progress = model, api, folder, say, progress
        self._target = Target(owner, model, server_url(api), api.api_key_env)
        self._key = read_key(api, self._target)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        file = folder / UNREPORTED if folder else None
        self._ledger = Ledger(owner, price, api.mode, api.max_cost_usd, spent_usd, file)
        self._tally = Tally()
        self._batch_limits = batch_limits or BatchLimits()

    def __enter__(self) -> OpenAIEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free: each `generate` closes what it opened."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. Raises ApiError when nothing more can be sent, after all that was answered has been yielded."""
        if not prompts:
            return
        if self._api.mode == "online" and self._folder:
            refuse_while_under_way(self._folder, prompts, self._model, sampling, self._target.owner)
        done = 0
        try:
            for row in self._rows(prompts, sampling):
                yield row.index, row.completion
                done += 1
        except BudgetReached as reached:
            raise BudgetReached(
                f"{reached}. {done:,} of {len(prompts):,} rows are done, {len(prompts) - done:,} are missing. Raise "
                f"{self._target.owner}.max_cost_usd and run the same command again: only the missing rows are sent"
            ) from None

    def _rows(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Row]:
        """Rows as they come, stopped when the same failure repeats; with the progress bar."""
        streak = Streak(self._target)
        work = Background[Row | str](lambda post: self._work(prompts, sampling, post))
        try:
            with work as rows, self._bar(len(prompts)) as bar:
                try:
                    for row in rows:
                        if isinstance(row, str):  # how far a batch is
                            bar.set_description_str(row)
                            continue
                        # the rows of a batch were all sent at once: stopping would save nothing
                        yield from streak.release(row) if self._api.mode == "online" else [row]
                        bar.update(1)
                        bar.set_postfix_str(self._spent(), refresh=False)
                except ApiError:
                    yield from streak.rest()
                    raise
                yield from streak.rest()
        finally:
            if self._api.mode == "online":  # what is left of a batch can be collected again
                self._note_lost([*streak.held, *streak.dropped, *work.left()])

    def _note_lost(self, rows: Sequence[Row | str]) -> None:
        """Counts what was paid for rows that were not given out."""
        self._ledger.outside_rows(sum(row.completion.cost_usd or 0.0 for row in rows if isinstance(row, Row)))

    async def _work(self, prompts: Sequence[Prompt], sampling: Sampling, post: Post[Row | str]) -> None:
        gate = Gate(self._api.max_in_flight, self._ledger, self._tally)
        asking = Asking(self._model, sampling, self._tally.lessons, self._say)
        retries = self._api.max_retries
        try:
            async with Caller(self._target, self._key, self._api, self._tally) as caller:
                sender = Sender(caller, gate, self._ledger, self._target, self._key, self._tally)
                if self._api.mode == "batch" and self._folder:
                    batches = Batches(sender, asking, self._model, sampling, retries, self._folder, self._batch_limits)
                    await batches.run(prompts, post, self._say)
                    return
                if sampling.temperature > 0 and self._tally.seed == "not probed":
                    await probe(sender, self._model, prompts[0], self._tally.lessons)
                    self._say(f"{self._target.model} at {self._target.url}: {self._tally.seed}, {self._tally.n}")
                await Online(sender, asking, sampling, retries).run(prompts, self._api.max_in_flight, post)
        finally:
            self._ledger.close()

    def _bar(self, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(total=total, desc=self._target.owner, unit="row", disable=not self._progress)

    def _spent(self) -> str:
        tokens = self._tally.prompt_tokens + self._tally.output_tokens
        return f"{tokens:,} tokens" + (f", ${self._ledger.spent_usd:,.2f}" if self._ledger.priced else "")

    def observations(self) -> dict[str, Any]:
        """What was seen so far in this process, for the manifest: counts, tokens, dollars, what the server is and does.

        `cost_usd` is what the server reported to this process, `cost_in_no_row_usd` what `unreported_usd` keeps of all processes;
        dollars are None where the price is unknown.
        """
        tally, priced = self._tally, self._ledger.priced
        return {
            "requests": tally.requests,
            "rows": dict(tally.rows),
            "retries": dict(tally.retries),
            "rows_given_up": dict(tally.failures),
            "prompt_tokens": tally.prompt_tokens,
            "output_tokens": tally.output_tokens,
            "replies_without_usage": tally.replies_without_usage,
            "cost_usd": round(tally.reported_usd, 6) if priced else None,
            "cost_in_no_row_usd": round(self._ledger.in_no_row_usd, 6) if priced else None,
            "models": dict(tally.models),
            "seed": tally.seed,
            "n": tally.n,
            "lessons": sorted(tally.lessons),
            "highest_in_flight": tally.highest_in_flight,
            "rate_limit_cuts": tally.rate_limit_cuts,
            "lowest_limit": tally.lowest_limit,
            "batches": [batch if priced else {**batch, "worst_usd": None} for batch in tally.batches],
            "batch_lines": dict(tally.batch_lines),
        }


class Streak:
    """Stops a run whose rows all fail in one way, before it burns through 100,000 of them.

    Refused rows are never sent again, so they are held back until something else shows that the cause is theirs alone.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._kind: str | None = None
        self._count = 0
        self._any_text = False
        #: rows that were not given out yet, and rows that never will be
        self.held: list[Row] = []
        self.dropped: list[Row] = []

    def rest(self) -> Iterator[Row]:
        """The rows that are still held, at the end."""
        while self.held:
            yield self.held.pop(0)

    def release(self, row: Row) -> list[Row]:
        """The rows that may be given out now. Raises ApiError when the failures repeat."""
        refused = row.completion.finish == "refused"
        self._any_text = self._any_text or row.failure is None
        kind = None if refused and self._any_text else row.failure  # a refusal among texts is that row's own affair
        free: list[Row] = []
        if kind is None or kind != self._kind:
            free, self.held = self.held, []
            self._kind, self._count = kind, 0
        if kind is None:
            return [*free, row]
        self._count += 1
        if self._count >= SAME_FAILURES:
            self.dropped, self.held = [*self.held, row], []
            raise ApiError(
                f"{self._target.owner}.base_url={self._target.url}: {self._count} rows one after another failed in the same way: "
                f"{row.completion.text}. Remove the cause, then run the same command again: only the missing rows are sent"
            )
        if refused:
            self.held.append(row)
            return free
        return [*free, row]


def read_key(api: ApiConfig, target: Target) -> Key:
    """The key from the environment variable that the config names. Raises ApiError if it is not set."""
    if api.api_key_env is None:
        return Key(None)
    value = os.environ.get(api.api_key_env, "").strip()
    if not value:
        raise ApiError(
            f"{target.owner}.api_key_env={api.api_key_env}: this environment variable is not set. Set it to the key of the server "
            f"at {target.url}, or set {target.owner}.api_key_env=null for a server that wants no key"
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ApiError(
            f"{target.owner}.api_key_env={api.api_key_env}: this environment variable holds characters that no key has "
            "(spaces, line breaks or letters outside ASCII). Set it to the key alone"
        )
    return Key(value)
