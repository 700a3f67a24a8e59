"""The six requests of the Batch API, each with bounded retries, none done twice."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cft_lab.engines.api.client import with_retries
from cft_lab.engines.api.errors import RETRY, STOP, ApiError, Failure, stop_error
from cft_lab.engines.api.online import Sender

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ResultT = TypeVar("ResultT")

TRANSFER_S = 1800.0  # seconds that a file may take, up or down
LISTED = 100  # newest batches or files that are looked through for one that an interrupted request may have made
ENDPOINT: Final = "/v1/chat/completions"
WINDOW: Final = "24h"  # the only completion window that the API offers


class NotThere(ApiError):  # noqa: N818 - reads as what happened
    """The server answered 404 or 405: it did nothing."""


class BatchCalls:
    """Every method raises ApiError when its retries are used up, and NotThere for a 404 or 405."""

    def __init__(self, sender: Sender, retries: int) -> None:
        self._sender, self._retries = sender, retries

    async def upload(self, path: Path, resumed: bool) -> str:
        """The id of the uploaded file. `resumed`: an earlier process may have uploaded it already."""

        async def send(client: AsyncOpenAI) -> Any:
            with path.open("rb") as file:
                raw = await client.files.with_raw_response.create(file=(path.name, file), purpose="batch", timeout=TRANSFER_S)
            return _object(raw.content)

        return await self._once("/files", "filename", path.name, send, resumed)

    async def create(self, file_id: str, resumed: bool) -> str:
        """The id of the batch for an uploaded file."""

        async def send(client: AsyncOpenAI) -> Any:
            raw = await client.batches.with_raw_response.create(
                input_file_id=file_id,
                endpoint=ENDPOINT,
                completion_window=WINDOW,
            )
            return _object(raw.content)

        return await self._once("/batches", "input_file_id", file_id, send, resumed)

    async def retrieve(self, batch_id: str) -> dict[str, Any]:
        """The batch as the server sees it now."""

        absent = (
            f"the server does not know batch {batch_id}, which an earlier run made. Call with the address and key of that run, or "
            "delete the batch's files in the stage's folder, so that its rows are sent again"
        )
        batch: dict[str, Any] = await self._call(lambda: self._get(f"/batches/{batch_id}"), "asking for the batch", absent)
        return batch

    async def download(self, file_id: str, path: Path) -> None:
        """Writes a result file to `path`, in pieces: it may be as large as the batch."""

        async def send(client: AsyncOpenAI) -> bool:
            async with client.files.with_streaming_response.content(file_id, timeout=TRANSFER_S) as reply:
                with path.open("wb") as file:
                    async for piece in reply.iter_bytes():
                        file.write(piece)
            return True

        absent = (
            f"the server does not have the results {file_id} any more. Delete the batch's files in the stage's folder, so that its "
            "rows are sent again"
        )
        await self._call(lambda: self._sender.caller.call(send, TRANSFER_S), "downloading results", absent)

    async def _once(
        self, listing: str, field: str, value: str, send: Callable[[AsyncOpenAI], Awaitable[Any]], resumed: bool
    ) -> str:
        """The id of what `send` makes. If it may exist already, it is looked for before it is made again."""
        tried = resumed

        async def attempt() -> Any:
            nonlocal tried
            if tried and (found := await self._find(listing, field, value)):
                return found
            tried = True
            return await self._sender.caller.call(send, TRANSFER_S)

        owner = self._sender.target.owner
        absent = (
            f"POST {listing} is not served there. Set {owner}.mode=online if this server has no Batch API, or mend the address: it "
            "usually ends in /v1"
        )
        made = await self._call(attempt, f"POST {listing}", absent)
        return self._sender.key.redact_reply(str(made["id"]))

    async def _find(self, listing: str, field: str, value: str) -> dict[str, Any] | None:
        listed = await self._get(f"{listing}?limit={LISTED}")
        data = listed.get("data") if isinstance(listed, dict) else None  # some servers have no listing
        entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        return next((entry for entry in entries if entry.get(field) == value and entry.get("id")), None)

    async def _get(self, path: str) -> dict[str, Any] | Failure:
        import httpx2

        async def send(client: AsyncOpenAI) -> Any:
            return _object((await client.get(path, cast_to=httpx2.Response)).content)

        result: dict[str, Any] | Failure = await self._sender.caller.call(send, self._sender.caller.timeout_s)
        return result

    async def _call(self, attempt: Callable[[], Awaitable[Any]], what: str, absent: str) -> Any:
        """The result of `attempt`, with retries; `absent` is what a 404 or 405 means, and the remedy."""

        async def checked() -> Any:
            result = await attempt()
            unreadable = Failure("malformed JSON", "the reply is no JSON object with an id", RETRY)
            return result if result is True or isinstance(result, Failure) or (result and result.get("id")) else unreadable

        outcome, tries = await with_retries(checked, self._retries, self._sender.gate.sleep, self._sender.tally)
        if not isinstance(outcome, Failure):
            return outcome
        target = self._sender.target
        if outcome.kind == "not found":
            raise NotThere(f"{target.owner}.base_url={target.url}: {absent} ({outcome.what})")
        if outcome.then == STOP:
            raise stop_error(outcome, target)
        raise ApiError(
            f"{target.owner}.base_url={target.url}: {what} failed {tries} times ({outcome.kind}: {outcome.what}). "
            f"Run the same command again, or set {target.owner}.mode=online if this server has no Batch API"
        )


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
