"""A hub on loopback that serves folders as data sets: enough of its HTTP interface for `datasets` to download and to stream.

python tests/data/hub_server.py FOLDER    serves FOLDER/<owner>/<name> at every revision; prints its port

Folders in FOLDER/models/ are served as models. A folder that holds a file named .gated is refused, as the hub does without a token.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = Path(".")

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(404, b"{}")

    def do_GET(self) -> None:
        match [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]:
            case ["api", "datasets", owner, name, *_] | ["datasets", owner, name, *_] if self.is_gated(self.root / owner / name):
                self.answer(403, b'{"error": "Access to this repository is restricted"}', {"X-Error-Code": "GatedRepo"})
            case ["api", "datasets", owner, name, *_] if not (self.root / owner / name).is_dir():
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            case ["api", "datasets", owner, name, "tree", _, *below]:
                self.tree(self.root / owner / name, below)
            case ["api", "datasets", owner, name, *_]:
                about = {"id": f"{owner}/{name}", "sha": COMMIT, "private": False, "downloads": 0, "likes": 0, "tags": []}
                self.answer(200, json.dumps(about | {"siblings": []}).encode())
            case ["datasets", owner, name, "resolve", _, *path]:
                self.file(self.root / owner / name / Path(*path))
            case ["api", "models", owner, name, *_] if not (self.root / "models" / owner / name).is_dir():
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            case ["api", "models", owner, name, "tree", _, *below]:
                self.tree(self.root / "models" / owner / name, below)
            case ["api", "models", owner, name, *_]:
                about = {"id": f"{owner}/{name}", "sha": COMMIT, "private": False, "downloads": 0, "likes": 0, "tags": []}
                self.answer(200, json.dumps(about | {"siblings": []}).encode())
            case [owner, name, "resolve", _, *path]:
                self.file(self.root / "models" / owner / name / Path(*path))
            case _:
                self.answer(404, b"{}")

    def is_gated(self, repository: Path) -> bool:
        return (repository / ".gated").exists()

    def tree(self, repository: Path, below: list[str]) -> None:
        folder = repository.joinpath(*below)
        if not folder.is_dir():
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        entries = []
        for path in sorted(folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()):
            kind = {"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory", "size": 0}
            entries.append(
                kind | {"oid": hashlib.sha256(str(path).encode()).hexdigest()[:40], "path": str(path.relative_to(repository))}
            )
        self.answer(200, json.dumps(entries).encode())

    def file(self, path: Path) -> None:
        if not path.is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:40]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not wanted[1]:
            self.answer(200, content, headers)
            return
        first, last = int(wanted[0] or 0), min(int(wanted[2] or len(content)), len(content) - 1)
        self.answer(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
