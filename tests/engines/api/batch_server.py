"""The loopback server with the files and batches of the Batch API. `settings.batch` says how it misbehaves (shares of rows):

polls (before a batch is over), outcome (completed, expired, failed, cancelled), duplicates, malformed, missing, failed (500 in the
error file), refused (content filter), drop (connections dropped AFTER the upload or creation happened), slow (never over), absent
(paths that are not served: "POST batches", "GET files/content").
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from server import Server, Settings, send, send_bytes, serve


class BatchServer(Server):
    """Runs each batch whole when it is created, so what is paid is counted once per creation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.left: dict[str, int] = {}

    def stats(self) -> dict[str, Any]:
        names = [name for name, _ in self.files.values() if name.endswith(".jsonl")]
        return {**super().stats(), "uploaded": names, "batches": list(self.batches.values())}

    async def route(self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        parts = path.strip("/").split("/")[1:]
        if f"{method} {'/'.join([parts[0], *parts[2:]])}" in self.settings.batch.get("absent", ()):
            return await super().route(method, path, headers, body, writer)
        if parts == ["files"]:
            return await self._files(method, headers, body, writer)
        if parts[0] == "files" and parts[-1] == "content" and parts[1] in self.files:
            return await send_bytes(writer, 200, self.files[parts[1]][1])
        if parts == ["batches"]:
            return await self._batches(method, body, writer)
        if parts[0] == "batches" and parts[1] in self.batches:
            return await send(writer, 200, self._poll(parts[1]))
        return await send(writer, 404, {"error": {"message": "no such thing"}})

    async def _files(self, method: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        if method == "GET":
            entries = [{"id": file_id, "filename": name} for file_id, (name, _) in self.files.items()]
            return await send(writer, 200, {"data": entries[::-1]})
        boundary = b"--" + headers["content-type"].partition("boundary=")[2].encode()
        part = next(piece for piece in body.split(boundary) if b"filename=" in piece)
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.partition(b'filename="')[2].partition(b'"')[0].decode()
        file_id = self._keep(name, content.removesuffix(b"\r\n"))
        return await self._made(writer, {"id": file_id, "filename": name})

    async def _batches(self, method: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if method == "GET":
            return await send(writer, 200, {"data": list(self.batches.values())[::-1]})
        batch_id = f"batch_{len(self.batches) + 1}"
        asked = json.loads(body)
        self.batches[batch_id] = {"id": batch_id, "status": "validating", "input_file_id": asked["input_file_id"]}
        self.left[batch_id] = self.settings.batch.get("polls", 1)
        self._work_off(batch_id)
        return await self._made(writer, self.batches[batch_id])

    async def _made(self, writer: asyncio.StreamWriter, what: dict[str, Any]) -> bool:
        if self.settings.batch.get("drop", 0) > 0:
            self.settings.batch["drop"] -= 1
            return False
        return await send(writer, 200, what)

    def _keep(self, name: str, content: bytes) -> str:
        file_id = f"file_{len(self.files) + 1}"
        self.files[file_id] = (name, content)
        return file_id

    def _poll(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        self.left[batch_id] -= 1
        if self.settings.batch.get("slow") or self.left[batch_id] > 0:
            return {**batch, "status": "in_progress", "output_file_id": None, "request_counts": {"completed": 1, "failed": 0}}
        return batch

    def _work_off(self, batch_id: str) -> None:
        how, batch = self.settings.batch, self.batches[batch_id]
        batch["status"] = how.get("outcome", "completed")
        if batch["status"] == "failed":
            batch["errors"] = {"data": [{"message": "Enqueued token limit reached.", "code": "token_limit_exceeded"}]}
            return
        chance = random.Random(f"{self.settings.seed}/{batch_id}")
        output, errors = [], []
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]][1].splitlines()]
        for line in lines if batch["status"] == "completed" else lines[: len(lines) // 2]:
            name, prompt = line["custom_id"], line["body"]["messages"][-1]["content"]
            refused = self.refusal(line["body"])
            if refused:
                errors.append({"custom_id": name, "response": {"status_code": refused[0], "body": refused[1]}, "error": None})
            elif chance.random() < how.get("failed", 0):
                answer = {"status_code": 500, "body": {"error": {"message": "server error"}}}
                errors.append({"custom_id": name, "response": answer, "error": None})
            elif chance.random() < how.get("missing", 0):
                continue
            else:
                self.valid[prompt] += 1
                answer = {"status_code": 200, "body": self.completion(line["body"])}
                output.append({"id": "r", "custom_id": name, "response": answer, "error": None})
                if chance.random() < how.get("duplicates", 0):
                    output.append(output[-1])
        texts = [json.dumps(row, ensure_ascii=False) for row in output]
        texts += ['{"custom_id": "row', "[1]", '{"custom_id": "somebody-else", "response": null, "error": null}'] * how.get(
            "malformed", 0
        )
        chance.shuffle(texts)
        batch["output_file_id"] = self._keep("output", "\n".join(texts).encode())
        if errors:
            batch["error_file_id"] = self._keep("errors", "\n".join(map(json.dumps, errors)).encode())


if __name__ == "__main__":
    asyncio.run(serve(BatchServer(Settings(**json.loads(sys.argv[1])))))
