"""Starts a server of this folder in a process of its own and talks to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cft_lab.config import ApiConfig
from cft_lab.engines.base import Prompt
from cft_lab.records import Message

HERE = Path(__file__).resolve().parent


class Loopback:
    """A running server, as a test sees it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"

    def stats(self) -> dict[str, Any]:
        """What the server did so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_stats") as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def change(self, **settings: Any) -> None:
        """Changes settings of the running server."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/_settings", data=json.dumps(settings).encode(), method="POST"
        )
        urllib.request.urlopen(request).close()  # noqa: S310

    def api(self, **changes: Any) -> ApiConfig:
        """A config that calls this server, with short waits."""
        return ApiConfig(**{"base_url": self.url, "api_key_env": None, "timeout_s": 5.0, "max_in_flight": 8, **changes})


@contextlib.contextmanager
def serving(script: str = "server.py", **settings: Any) -> Iterator[Loopback]:
    """A server with these settings for as long as the context is open."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Loopback(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


def prompts(count: int, start: int = 0) -> list[Prompt]:
    """Distinct prompts in the form of a conversation."""
    return [
        Prompt(f"row{i}", (Message("system", "be brief"), Message("user", f"is answer number {i} right?")))
        for i in range(start, start + count)
    ]
