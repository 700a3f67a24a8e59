"""The real `openai` client behind one door: a call gives its result or a Failure, never an exception of the client."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cft_lab.config import ApiConfig
from cft_lab.engines.api.errors import RETRY, STOP, Failure, Key, Target, status_failure
from cft_lab.engines.api.settings import server_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ResultT = TypeVar("ResultT")

KEEP_ALIVE_S = 60.0  # seconds that an idle connection is kept
CONNECT_S = 15.0  # seconds to open a connection, within the timeout of the request
FIRST_PATIENCE_S = 2.0  # seconds of failing connections after which a server that never answered is given up
FIRST_WAIT_S, LONGEST_BACKOFF_S = 0.5, 60.0
_LOGGERS = ("openai", "httpx2", "httpcore2", "httpx", "httpcore")  # at debug level they write headers and replies


@dataclass
class Tally:
    """What an engine counts, for the manifest."""

    requests: int = 0
    rows: Counter[str] = field(default_factory=Counter)  # finish -> rows
    retries: Counter[str] = field(default_factory=Counter)  # kind -> further attempts
    failures: Counter[str] = field(default_factory=Counter)  # kind -> rows given up
    models: Counter[str] = field(default_factory=Counter)  # model that answered -> replies
    prompt_tokens: int = 0
    output_tokens: int = 0
    replies_without_usage: int = 0
    reported_usd: float = 0.0
    highest_in_flight: int = 0
    rate_limit_cuts: int = 0
    lowest_limit: int | None = None  # of requests in flight, where the server's rate limit lowered it
    batches: list[dict[str, Any]] = field(default_factory=list)
    batch_lines: Counter[str] = field(default_factory=Counter)  # result lines that were of no use
    lessons: set[str] = field(default_factory=set)  # parameters that the server does not take
    seed: str = "not probed"
    n: str = "not probed"


class Caller:
    """Use as an async context manager, inside the loop that calls."""

    def __init__(self, target: Target, key: Key, api: ApiConfig, tally: Tally) -> None:
        self._target, self._key, self._api, self._tally = target, key, api, tally
        self.timeout_s = api.timeout_s
        self._clients: list[AsyncOpenAI] = []
        self._idle: list[AsyncOpenAI] = []
        self._reached = False
        self._first_failed_at: float | None = None

    async def __aenter__(self) -> Caller:
        import httpx2

        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._tls = httpx2.create_ssl_context()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    def _new_client(self) -> AsyncOpenAI:
        """A client for one request at a time. A shared pool of connections is searched through for every request: with 256 of them
        that took more CPU time than all the rest together."""
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        client = AsyncOpenAI(
            api_key=self._key.value,
            base_url=server_url(self._api),
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=min(CONNECT_S, self._api.timeout_s)),
            http_client=DefaultAsyncHttpxClient(verify=self._tls, limits=httpx2.Limits(keepalive_expiry=KEEP_ALIVE_S)),
        )
        self._clients.append(client)
        return client

    async def chat(self, body: dict[str, Any]) -> bytes | Failure:
        """The raw body of a chat completion. `chat.completions.create`, which builds typed objects both ways, takes 1.7 times the
        CPU time (benchmarks/RESULTS.md)."""
        import httpx2

        async def post(client: AsyncOpenAI) -> bytes:
            response = await client.post("/chat/completions", cast_to=httpx2.Response, body=body)
            return response.content

        return await self.call(post, self._api.timeout_s)

    async def call(self, send: Callable[[AsyncOpenAI], Awaitable[ResultT]], timeout_s: float) -> ResultT | Failure:
        """One request, from the connection to the last byte within `timeout_s`."""
        import openai

        self._tally.requests += 1
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            async with asyncio.timeout(timeout_s):
                result = await send(client)
        except TimeoutError:
            return Failure("timeout", f"no whole reply within {timeout_s:g} s", RETRY, billed=True)
        except openai.APIStatusError as error:
            self._reached = True
            return status_failure(error.status_code, error.body, error.response.headers, self._key)
        except openai.APIConnectionError as error:
            return self._connection_failure(error)
        finally:
            self._idle.append(client)
        self._reached = True
        return result

    def _connection_failure(self, error: Exception) -> Failure:
        import httpx2

        cause = error.__cause__ or error
        what = self._key.redact(f"{type(cause).__name__}: {cause}")
        if not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol):
            self._reached = True
            return Failure("dropped connection", what, RETRY, billed=True)
        now = time.monotonic()
        self._first_failed_at = self._first_failed_at or now
        never = not self._reached and now - self._first_failed_at > FIRST_PATIENCE_S
        return Failure("unreachable", what, STOP if never else RETRY)


async def with_retries(
    attempt: Callable[[], Awaitable[ResultT | Failure | None]],
    retries: int,
    sleep: Callable[[float], Awaitable[None]],
    tally: Tally,
) -> tuple[ResultT | Failure | None, int]:
    """Repeats `attempt` while it fails in a way that may pass: the last outcome, and how many attempts there were.

    Waits a uniformly random share of 0.5 s, 1 s, 2 s ... 60 s (full jitter), and no less than the server asked for.
    """
    tries = 0
    while True:
        outcome = await attempt()
        tries += 1
        if not isinstance(outcome, Failure) or outcome.then != RETRY or tries > retries:
            return outcome, tries
        tally.retries[outcome.kind] += 1
        backoff = random.uniform(0, min(LONGEST_BACKOFF_S, FIRST_WAIT_S * 2 ** (tries - 1)))
        await sleep(backoff + (outcome.retry_after_s or 0.0))
