"""The Batch API: requests go up in files, results come down hours later, at half the price.

Each part has a state file that is written before and after every step that the server remembers, so a process killed at any
point goes on where it was: a file is not uploaded twice and a batch is not paid twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cft_lab.engines.api.background import Post
from cft_lab.engines.api.batch_calls import ENDPOINT, BatchCalls, NotThere
from cft_lab.engines.api.chat import Asking, Reply, read_completion
from cft_lab.engines.api.cost import most_tokens
from cft_lab.engines.api.errors import REFUSE, RETRY, SHOWN, STOP, ApiError, Failure, status_failure, stop_error
from cft_lab.engines.api.online import Row, Sender, failed_row, text_row
from cft_lab.engines.base import Prompt
from cft_lab.json_files import read_json, write_json
from cft_lab.records import Sampling

OVER = ("completed", "expired", "failed", "cancelled")
ID_LENGTH = 40  # characters of a prompt's id that go into its custom_id


@dataclass(frozen=True)
class BatchLimits:
    """What the API takes in one batch (OpenAI: 50,000 requests, 200 MB), and how often it is asked how far it is."""

    requests: int = 50_000
    bytes: int = 200_000_000
    first_poll_s: float = 5.0
    longest_poll_s: float = 60.0


@dataclass
class Part:
    """One batch: what was sent and how far it is."""

    name: str
    rows: int
    worst_usd: float
    parameters: list[str]  # of its request bodies
    step: str = "written"  # written, uploading, creating, created, collected
    file_id: str | None = None
    batch_id: str | None = None
    status: str = ""


class Batches:
    """Answers prompts through batches. Rows that a batch did not answer come back as errors; another run sends them again."""

    def __init__(
        self, sender: Sender, asking: Asking, model: str, sampling: Sampling, retries: int, folder: Path, limits: BatchLimits
    ) -> None:
        self._sender, self._asking, self._model, self._sampling = sender, asking, model, sampling
        self._folder, self._limits = folder, limits
        self._calls = BatchCalls(sender, retries)
        self._stop: ApiError | None = None

    async def run(self, prompts: Sequence[Prompt], post: Post[Row | str], say: Callable[[str], None]) -> None:
        """Posts a row for every prompt, and lines about how far batches are.

        Raises BudgetReached when not one more row fits, and ApiError for what concerns all rows alike.
        """
        self._prompts, self._post = prompts, post
        self._open = dict(zip(custom_ids(prompts, self._model, self._sampling), range(len(prompts)), strict=True))
        await self._refuse_unsendable()
        active = self._saved_parts()
        sent = {name for part in active for name in self._names(part)}
        unsent = deque(name for name in self._open if name not in sent)
        del sent
        try:
            while unsent or active:
                while unsent and not self._stop and (part := self._write(unsent)):
                    active.append(part)
                for part in active:
                    await self._submit(part, say)
                if not active:
                    break
                await self._wait_for_one(active, unsent, say)
        except asyncio.CancelledError:
            for part in active:
                say(f"batch {part.batch_id or part.name} is left at the server: the same command collects it")
            raise
        except NotThere:
            self._forget_unmade(active)
            raise
        if self._stop:
            raise self._stop
        if unsent:
            raise self._sender.ledger.reached(self._worst(unsent[0]))

    async def _refuse_unsendable(self) -> None:
        for name, index in list(self._open.items()):
            try:
                size = len(self._line(name))
            except UnicodeEncodeError:
                failure = Failure("invalid text", "the prompt is not valid Unicode", REFUSE)
            else:
                if size <= self._limits.bytes:
                    continue
                failure = Failure("too long", f"{size:,} bytes are more than a batch file may have", REFUSE)
            del self._open[name]
            await self._post(failed_row(index, failure, 0, None, self._sender.tally))

    def _saved_parts(self) -> list[Part]:
        """The parts of earlier processes that answer some of what is wanted now."""
        found = []
        for path in sorted(self._folder.glob("batch-*.json")):
            part = Part(**read_json(path))
            if part.step != "collected" and any(name in self._open for name in self._names(part)):
                self._sender.ledger.reserve(part.worst_usd, outlives=True)
                found.append(part)
        return found

    def _write(self, unsent: deque[str]) -> Part | None:
        """Writes the next part, as large as the limits and the budget allow; None if the budget allows no row."""
        part = Part(
            f"batch-{len(list(self._folder.glob('batch-*.json'))) + 1:04d}-{secrets.token_hex(6)}",
            0,
            0.0,
            [*self._asking.body(self._prompts[0])],
        )
        size, path = 0, self._requests(part)
        with path.open("wb") as file:
            while unsent and part.rows < self._limits.requests:
                line, worst_usd = self._line(unsent[0]), self._worst(unsent[0])
                if size + len(line) > self._limits.bytes or not self._sender.ledger.fits(part.worst_usd + worst_usd):
                    break
                file.write(line)
                size += len(line)
                part.rows += 1
                part.worst_usd += worst_usd
                unsent.popleft()
        if not part.rows:
            path.unlink()
            return None
        self._sender.ledger.reserve(part.worst_usd, outlives=True)
        self._save(part)
        return part

    async def _submit(self, part: Part, say: Callable[[str], None]) -> None:
        """Uploads and creates what is not there yet. A step that an earlier process may have finished is looked for first."""
        if part.step == "created":
            return
        if part.file_id is None:
            resumed, part.step = part.step == "uploading", "uploading"
            self._save(part)
            part.file_id = await self._calls.upload(self._requests(part), resumed)
            self._save(part)
        resumed, part.step = part.step == "creating", "creating"
        self._save(part)
        try:
            part.batch_id = await self._calls.create(part.file_id, resumed)
        except NotThere:
            part.step = part.step if resumed else "uploading"  # an earlier process may have made it, at another server
            raise
        part.step = "created"
        self._save(part)
        say(f"batch {part.batch_id}: {part.rows:,} rows sent")

    async def _wait_for_one(self, active: list[Part], unsent: deque[str], say: Callable[[str], None]) -> None:
        """Polls until at least one batch is over, and collects it."""
        delay = 0.0
        while True:
            await asyncio.sleep(delay)
            over = False
            for part in list(active):
                batch = await self._calls.retrieve(part.batch_id or "")
                part.status = self._sender.key.redact(str(batch.get("status")))
                counts = batch.get("request_counts") or {}
                await self._post(f"batch {part.batch_id}: {part.status}, {counts.get('completed', '?')} of {part.rows:,}")
                if part.status in OVER:
                    over = True
                    await self._collect(part, batch, unsent)
                    active.remove(part)
                    say(f"batch {part.batch_id}: {part.status}")
            if over:
                return
            delay = min(self._limits.longest_poll_s, max(self._limits.first_poll_s, delay * 1.5))

    async def _collect(self, part: Part, batch: dict[str, Any], unsent: deque[str]) -> None:
        """Posts a row for each prompt of the part that has none yet: results first, then what failed or is missing."""
        ours = {name for name in self._names(part) if name in self._open}
        failures: dict[str, Failure] = {}
        reported, unreported = 0.0, 0.0
        for role in ("output_file_id", "error_file_id"):
            async for name, outcome in self._results(part, batch.get(role)):
                if name not in ours:
                    self._sender.tally.batch_lines["duplicate or not asked for"] += 1
                elif isinstance(outcome, Failure):
                    failures.setdefault(name, outcome)
                else:
                    ours.remove(name)
                    index = self._open.pop(name)
                    cost, assumed = self._sender.price(outcome, self._worst_of(index))
                    reported, unreported = reported + (cost or 0.0), unreported + assumed
                    await self._post(text_row(index, outcome, cost, self._sender.tally))
        missing = self._missing(part, batch)
        for name in sorted(ours, key=self._open.__getitem__):
            failure = failures.get(name, missing)
            if self._asking.learn(failure, part.parameters):
                unsent.append(name)  # goes into another part, with other parameters
                continue
            cost, _ = self._sender.price(failure, 0.0)
            reported += cost or 0.0
            if failure.then == STOP:
                self._stop = self._stop or stop_error(failure, self._sender.target)
            await self._post(failed_row(self._open.pop(name), failure, 1, cost, self._sender.tally))
        self._sender.ledger.settle(part.worst_usd, reported, unreported)
        part.step = "collected"
        self._save(part)
        self._sender.tally.batches.append(asdict(part))
        for path in self._folder.glob(f"{part.name}.*jsonl"):
            path.unlink()

    def _missing(self, part: Part, batch: dict[str, Any]) -> Failure:
        errors = batch.get("errors")
        listed = errors.get("data") if isinstance(errors, dict) else None
        why = "; ".join(str(e.get("message")) for e in listed[:3] if isinstance(e, dict)) if isinstance(listed, list) else ""
        text = f"batch {part.batch_id} is {part.status} without a result for this row{f': {why}' if why else ''}"
        return Failure(f"batch {part.status}", self._sender.key.redact(text)[:SHOWN], RETRY)

    async def _results(self, part: Part, file_id: Any) -> AsyncIterator[tuple[str, Reply | Failure]]:
        """Every readable line of a result file as (custom_id, outcome)."""
        if not isinstance(file_id, str) or not file_id:
            return
        path = self._folder / f"{part.name}.result.jsonl"
        await self._calls.download(file_id, path)
        with path.open("rb") as file:  # by b"\n": text mode splits at what JSON may contain
            for line in file:
                found = self._read_line(line)
                if found is None:
                    self._sender.tally.batch_lines["malformed"] += bool(line.strip())
                else:
                    yield found

    def _read_line(self, line: bytes) -> tuple[str, Reply | Failure] | None:
        key = self._sender.key
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or not isinstance(data.get("custom_id"), str):
            return None
        response, error = data.get("response"), data.get("error")
        if not isinstance(response, dict):
            what = error.get("message") if isinstance(error, dict) else error
            return data["custom_id"], Failure("batch error", key.redact(str(what))[:SHOWN], RETRY)
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return data["custom_id"], read_completion(body, self._sampling, key)
        detail = body.get("error", body) if isinstance(body, dict) else body
        return data["custom_id"], status_failure(status if isinstance(status, int) else 500, detail, {}, key)

    def _line(self, name: str) -> bytes:
        body = self._asking.body(self._prompts[self._open[name]])
        request = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"

    def _worst(self, name: str) -> float:
        return self._worst_of(self._open[name])

    def _worst_of(self, index: int) -> float:
        return self._sender.ledger.worst(most_tokens(self._prompts[index]), self._sampling.max_new_tokens)

    def _requests(self, part: Part) -> Path:
        return self._folder / f"{part.name}.jsonl"

    def _names(self, part: Part) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            yield from _names_in(self._requests(part))

    def _forget_unmade(self, parts: Sequence[Part]) -> None:
        """Removes the parts of which no batch was made: nothing was paid, and their rows may go another way."""
        for part in parts:
            if part.step in ("written", "uploading"):
                (self._folder / f"{part.name}.json").unlink()
                self._requests(part).unlink()

    def _save(self, part: Part) -> None:
        write_json(self._folder / f"{part.name}.json", asdict(part))


def refuse_while_under_way(folder: Path, prompts: Sequence[Prompt], model: str, sampling: Sampling, owner: str) -> None:
    """Raises ApiError if a batch that was not collected answers some of `prompts`: sent one by one they would be paid twice.

    `owner` is the config group that the message names.
    """
    wanted = set(custom_ids(prompts, model, sampling))
    for path in sorted(folder.glob("batch-*.json")):
        part, requests = Part(**read_json(path)), path.with_suffix(".jsonl")
        # without its requests nobody can tell whose answers a batch holds: it may be these
        if part.step != "collected" and (not requests.exists() or not wanted.isdisjoint(_names_in(requests))):
            raise ApiError(
                f"{owner}.mode=online would pay twice: {part.batch_id or part.name}, a batch of {part.rows:,} rows, is under way. "
                f"Run once more with {owner}.mode=batch to collect it, or delete {path} to give it up"
            )


def _names_in(requests: Path) -> Iterator[str]:
    with requests.open("rb") as file:
        for line in file:
            yield json.loads(line)["custom_id"]


def custom_ids(prompts: Sequence[Prompt], model: str, sampling: Sampling) -> Iterator[str]:
    """A name for each prompt: its id, and a hash of all that its text depends on, so that another process finds its results;
    numbered where two prompts are the same."""
    seen: Counter[str] = Counter()
    for prompt in prompts:
        digest = hashlib.sha256(repr((prompt, model, sampling)).encode()).hexdigest()[:16]
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', prompt.id)[:ID_LENGTH]}-{digest}"
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"
