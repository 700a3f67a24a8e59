"""A stand-in for W&B's server on loopback: it answers the few requests that `wandb sync` makes, or refuses all of them.

python tests/commands/wandb_server.py LOG [REFUSED_RUN]    prints its port; LOG gets a JSON line for each history line and file
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log = Path("log")
    refused = ""

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self.do_POST()

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/graphql":
            asked = json.loads(body)
            self.answer(*self.graphql(asked["query"], asked.get("variables") or {}))
            return
        if self.path.endswith("/file_stream"):
            files = json.loads(body).get("files") or {}
            history = files.get("wandb-history.jsonl")
            if history:
                rows = [json.loads(line) for line in history["content"]]
                self.note({"run": self.path.split("/")[-2], "offset": history["offset"], "steps": [row["_step"] for row in rows]})
        self.answer(200, {})

    def graphql(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "upsertBucket" in query:
            if self.refused in (variables["name"], "all"):
                self.note({"refused": variables["name"]})
                return 403, {"errors": [{"message": "permission denied"}]}
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
            told = dict.fromkeys(("description", "sweepName")) | {"config": "{}", "historyLineCount": 0}
            bucket = {"id": "b", "name": variables["name"], "displayName": variables["displayName"], "project": project, **told}
            self.note({"run": variables["name"], "group": variables["groupName"], "tags": variables["tags"]})
            return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "createRunFiles" in query:
            host = self.headers["Host"]
            files = [{"name": name, "uploadUrl": f"http://{host}/upload/{name}"} for name in variables["files"]]
            return 200, {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return 200, {"data": {}}

    def note(self, row: dict[str, Any]) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    Server.log, Server.refused = Path(sys.argv[1]), (sys.argv[2:] or [""])[0]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that is killed
    print(server.server_address[1], flush=True)
    server.serve_forever()
