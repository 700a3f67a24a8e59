"""A coroutine in a thread of its own whose rows are handed over one by one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

RowT = TypeVar("RowT")
Post = Callable[[RowT], Awaitable[None]]


class Background(Generic[RowT]):
    """Runs `work(post)` in a thread. `await post(row)` returns when the consumer has come back for the next row: it has then
    done with this one (journalled it). Leaving the context cancels the work and waits until thread and sockets are gone.
    """

    def __init__(self, work: Callable[[Post[RowT]], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._queue: SimpleQueue[tuple[RowT, asyncio.Future[None]] | BaseException | None] = SimpleQueue()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="openai-engine", daemon=True)

    def __enter__(self) -> Background[RowT]:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the work is over
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def __iter__(self) -> Iterator[RowT]:
        """Rows as they come; ends with the work, or raises what ended it."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            row, taken = item
            yield row
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_finish, taken)

    def left(self) -> list[RowT]:
        """Rows that were made and not taken; to be asked after leaving the context."""
        rows = []
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, tuple):
                rows.append(item[0])
        return rows

    def _main(self) -> None:
        try:
            asyncio.run(self._supervise())
        except asyncio.CancelledError:
            self._queue.put(None)
        except BaseException as error:  # raised again in the consumer's thread
            self._queue.put(error)
        else:
            self._queue.put(None)

    async def _supervise(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._work(self._post))
        self._started.set()
        await self._task

    async def _post(self, row: RowT) -> None:
        taken: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((row, taken))
        await taken


def _finish(taken: asyncio.Future[None]) -> None:
    if not taken.done():  # cancelled meanwhile
        taken.set_result(None)
