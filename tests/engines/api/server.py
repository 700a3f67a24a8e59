"""An OpenAI-compatible server on loopback for tests and benchmarks: quick, honest about what it sent, and faulty on demand.

    python tests/engines/api/server.py '{"latency_s": 0.2}'

prints its port and runs until its standard input closes. `GET /_stats` tells what it did; `POST /_settings` changes settings.
Replies are a function of the prompt, so that every text can be checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Settings:
    """How the server behaves; rates are shares of all calls."""

    seed: int = 0
    latency_s: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)  # name -> rate; `FAULTS` below, or any HTTP status
    first: list[str] = field(default_factory=list)  # faults of the first calls, in order; "ok" is none
    always: dict[str, str] = field(default_factory=dict)  # prompt contains -> fault
    retry_after: str = "0.2"
    hang_s: float = 30.0
    most_at_once: int = 0  # more calls at once are answered with 429; 0 is no limit
    key: str = ""  # Authorization that is asked for
    models: list[str] = field(default_factory=list)  # names that are known; none is all
    draws: str = "honours"  # what `seed` does: honours, ignores, same
    knows_n: bool = True
    refuses: list[str] = field(default_factory=list)  # parameters answered with 400
    usage: bool = True
    words: int = 12
    reply: str = ""  # a fixed text instead of one made from the prompt
    counts: bool = True  # False keeps no count for each prompt
    absent: int = 404  # status where nothing is served
    batch: dict[str, Any] = field(default_factory=dict)


def text_for(prompt: str, words: int = 12) -> str:
    """The reply to a prompt: checkable, and of a given length."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return " ".join([f"critique {digest[:12]}", *(f"w{i}" for i in range(max(0, words - 4))), "Conclusion: right [END]"])


class Server:
    """State and routes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = random.Random(settings.seed)
        self.valid: Counter[str] = Counter()  # prompt -> whole, usable replies sent
        self.sent: Counter[str] = Counter()  # fault -> calls
        self.calls: Counter[str] = Counter()  # "METHOD path" -> requests
        self.bodies: deque[dict[str, Any]] = deque(maxlen=40)  # the latest chat bodies, for tests of parameters
        self.active = self.highest = 0
        self.draws = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, _, rest = head.decode("latin-1").partition("\r\n")
                method, path, _ = line.split(" ", 2)
                headers = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in rest.splitlines() if h)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self.answer(method, path, headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False closes the connection."""
        path, _, _query = path.partition("?")
        self.calls[f"{method} {path}" if path.startswith("/v1/chat") else f"{method} {'/'.join(path.split('/')[:3])}"] += 1
        if path == "/_stats":
            return await send(writer, 200, self.stats())
        if path == "/_settings":
            self.settings = dataclasses.replace(self.settings, **json.loads(body))
            return await send(writer, 200, {})
        if self.settings.key and headers.get("authorization") != f"Bearer {self.settings.key}":
            sent = headers.get("authorization", "").removeprefix("Bearer ")
            message = f"Incorrect API key provided: {sent}. Authorization was 'Bearer {sent}'."
            return await send(
                writer, 401, {"error": {"message": message, "code": "invalid_api_key", "type": sent}}, {"x-echo": sent}
            )
        if path == "/v1/chat/completions" and method == "POST":
            self.active += 1
            self.highest = max(self.highest, self.active)
            try:
                return await self.chat(json.loads(body), writer)
            finally:
                self.active -= 1
        return await self.route(method, path, headers, body, writer)

    async def route(self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        return await send(writer, self.settings.absent, {"detail": "Not Found"})

    def stats(self) -> dict[str, Any]:
        return {
            "valid": dict(self.valid),
            "sent": dict(self.sent),
            "calls": dict(self.calls),
            "highest": self.highest,
            "bodies": list(self.bodies),
        }

    def _fault(self, prompt: str) -> str:
        settings = self.settings
        for part, fault in settings.always.items():
            if part in prompt:
                return fault
        if settings.first:
            return settings.first.pop(0)
        if settings.most_at_once and self.active > settings.most_at_once:
            return "429"
        draw = self.random.random()
        for fault, rate in settings.faults.items():
            draw -= rate
            if draw < 0:
                return fault
        return "ok"

    async def chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        self.bodies.append(body)
        refused = self.refusal(body)
        if refused:
            return await send(writer, *refused)
        prompt = body["messages"][-1]["content"]
        fault = self._fault(prompt)
        self.sent[fault] += 1
        if self.settings.latency_s and fault != "hang":
            await asyncio.sleep(self.settings.latency_s)
        if fault != "ok":
            return await self.spoil(fault, body, writer)
        alive = await send(writer, 200, self.completion(body))
        self.valid[prompt if self.settings.counts else ""] += 1
        return alive

    def refusal(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """A status and body if this request is one that the server refuses."""
        if self.settings.models and body.get("model") not in self.settings.models:
            message = f"The model `{body.get('model')}` does not exist."
            return 404, {"error": {"message": message, "code": "model_not_found"}}
        for name in self.settings.refuses:
            if name in body:
                instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                message = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
                return 400, {"error": {"message": message, "param": name, "code": "unsupported_parameter"}}
        return None

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        settings, prompt = self.settings, body["messages"][-1]["content"]
        n = body.get("n", 1) if settings.knows_n else 1
        choices = []
        for index in range(n):
            text = settings.reply or text_for(prompt, settings.words)
            if body.get("temperature", 0) > 0 and settings.draws != "same":
                self.draws += 1
                text += f" draw {self.draws if settings.draws == 'ignores' or n > 1 else body.get('seed')}"
            words = text.split(" ")
            limit = body.get("max_tokens", body.get("max_completion_tokens", 1 << 30))
            finish = "length" if len(words) > limit else "stop"
            text = " ".join(words[:limit])
            choices.append({"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish})
        tokens = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(choices[0]["message"]["content"].split())}
        usage = {"usage": {**tokens, "total_tokens": sum(tokens.values())}} if settings.usage else {}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": "loopback-1", "choices": choices, **usage}

    async def spoil(self, fault: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Sends anything but a whole, usable reply."""
        good = self.completion(body)
        whole = json.dumps(good).encode()
        choice = good["choices"][0]
        if fault == "hang":
            await asyncio.sleep(self.settings.hang_s)
            return False
        if fault == "trickle":
            writer.write(head(200, len(whole)))
            until = time.monotonic() + self.settings.hang_s
            for i in range(len(whole)):
                writer.write(whole[i : i + 1])
                await writer.drain()
                await asyncio.sleep(0.05)
                if time.monotonic() > until:
                    break
            return False
        if fault == "drop":
            return False
        if fault == "drop-body":
            writer.write(head(200, len(whole)) + whole[: len(whole) // 2])
            await writer.drain()
            return False
        if fault == "malformed":
            return await send_bytes(writer, 200, whole[: len(whole) // 2])
        if fault == "deep":
            return await send_bytes(writer, 200, b"[" * 100_000)
        if fault == "html":
            return await send_bytes(writer, 200, b"<html>welcome</html>")
        if fault == "no-choices":
            return await send(writer, 200, {**good, "choices": []})
        if fault in ("null", "empty", "no-finish", "filter", "refusal", "odd-finish", "surrogate", "surrogate-refusal"):
            message = choice["message"]
            changed = {
                "null": {"message": {**message, "content": None}},
                "empty": {"message": {**message, "content": ""}},
                "no-finish": {"finish_reason": None, "message": {**message, "content": message["content"][:9]}},
                "filter": {"finish_reason": "content_filter", "message": {**message, "content": None}},
                "refusal": {"message": {**message, "content": None, "refusal": "I cannot help with that."}},
                "odd-finish": {"finish_reason": "tool_calls"},
                "surrogate": {"message": {**message, "content": "half \ud83d pair"}},
                "surrogate-refusal": {"message": {**message, "content": None, "refusal": "half \ud83d pair"}},
            }[fault]
            return await send(writer, 200, {**good, "choices": [{**choice, **changed}]})
        if fault == "surrogate-model":
            return await send(writer, 200, {**good, "model": "half \ud83d pair"})
        return await self.spoil_status(fault, writer)

    async def spoil_status(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        status, _, how = fault.partition("-")
        if how == "quota":
            error = {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": "insufficient_quota"}
            return await send(writer, 429, {"error": error})
        if how == "context":
            error = {"message": "This model's maximum context length is 10 tokens.", "code": "context_length_exceeded"}
            return await send(writer, 400, {"error": error})
        extra = {}
        if how == "after":
            extra = {"Retry-After": self.settings.retry_after}
        if how == "date":
            extra = {"Retry-After": email.utils.formatdate(time.time() + float(self.settings.retry_after), usegmt=True)}
        message = "half \ud83d pair" if how == "surrogate" else f"fault {fault}"
        return await send(writer, int(status), {"error": {"message": message, "code": None}}, extra)


def head(status: int, length: int, headers: dict[str, str] | None = None) -> bytes:
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


async def send_bytes(writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None) -> bool:
    writer.write(head(status, len(body), headers) + body)
    await writer.drain()
    return True


async def send(writer: asyncio.StreamWriter, status: int, value: Any, headers: dict[str, str] | None = None) -> bool:
    return await send_bytes(writer, status, json.dumps(value).encode(), headers)


async def serve(server: Server) -> None:
    """Serves on a free port, prints it, and ends when standard input closes."""
    listening = await asyncio.start_server(server.connection, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # connections may be open; nothing is worth closing


if __name__ == "__main__":
    asyncio.run(serve(Server(Settings(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}")))))
