"""Who may send now: a bounded number in flight that halves when the server says 429 and recovers, within the budget."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

from cft_lab.engines.api.client import Tally
from cft_lab.engines.api.cost import Ledger
from cft_lab.engines.api.errors import ApiError


class Gate:
    """Admits requests. Additive increase (one more per round of successes), multiplicative decrease (half, once per round)."""

    def __init__(self, most: int, ledger: Ledger, tally: Tally) -> None:
        self.limit = float(most)
        self.active = 0
        self.stopped: ApiError | None = None
        self._most, self._ledger, self._tally = most, ledger, tally
        self._last_cut = 0.0
        self._paused_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._stopping = asyncio.Event()

    async def enter(self, worst_usd: float) -> float | None:
        """Waits until one more request may be sent; the time of that, or None if nothing may be sent any more."""
        while self.stopped is None:
            pause = self._paused_until - time.monotonic()
            if pause > 0:
                await self.sleep(pause)
            elif self.active >= int(self.limit):
                await self._turn()
            elif self._ledger.fits(worst_usd):
                self._ledger.reserve(worst_usd)
                self.active += 1
                self._tally.highest_in_flight = max(self._tally.highest_in_flight, self.active)
                return time.monotonic()
            elif self.active:  # those under way mostly cost less than their worst case
                await self._turn()
            else:
                self.stop(self._ledger.reached(worst_usd))
        return None

    def leave(self, worst_usd: float, reported_usd: float, unreported_usd: float) -> None:
        """Ends a request that `enter` admitted."""
        self.active -= 1
        self._ledger.settle(worst_usd, reported_usd, unreported_usd)
        self._wake(max(1, int(self.limit) - self.active))

    def succeeded(self) -> None:
        """A request went through: room for one more after as many of them as there is room for now."""
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def slow_down(self, sent_at: float, retry_after_s: float | None) -> None:
        """The server asked for fewer. Requests sent before the last cut do not cut again: they belong to the same storm."""
        if sent_at > self._last_cut:
            self.limit = max(1.0, self.limit / 2)
            self._tally.lowest_limit = min(self._tally.lowest_limit or self._most, int(self.limit))
            self._last_cut = time.monotonic()
            self._tally.rate_limit_cuts += 1
        if retry_after_s:
            self._paused_until = max(self._paused_until, time.monotonic() + retry_after_s)

    def stop(self, error: ApiError) -> None:
        """Nothing more is admitted; requests under way go on. The first error is the one that is raised."""
        if self.stopped is None:
            self.stopped = error
            self._stopping.set()
            self._wake(len(self._waiting))

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not beyond `stop`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _turn(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self, count: int) -> None:
        while count > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
