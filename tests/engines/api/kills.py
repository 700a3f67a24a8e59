"""A client that is killed with -9 again and again while a faulty server answers it; used by a test and by a benchmark."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from loopback import HERE, Loopback, prompts, serving
from server import text_for

from cft_lab.config import PROJECT_ROOT
from cft_lab.engines.api import client
from cft_lab.engines.api.engine import OpenAIEngine
from cft_lab.engines.journal import JournalEngine
from cft_lab.json_files import Journal
from cft_lab.records import Sampling

#: more than a third of all calls fail, in every way that there is
FAULTS = {
    "429": 0.04,
    "429-after": 0.02,
    "500": 0.04,
    "502": 0.03,
    "503": 0.03,
    "hang": 0.02,
    "trickle": 0.01,
    "drop": 0.04,
    "drop-body": 0.03,
    "malformed": 0.04,
    "no-choices": 0.03,
    "null": 0.02,
    "no-finish": 0.02,
    "filter": 0.01,
}
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Figures:
    """What came out: rows by how they ended, what the server sent, and how often the client was killed."""

    rows: int
    finishes: dict[str, int]
    wrong_texts: int
    unexplained: int  # failed rows without a reason
    kills: int
    calls: int
    spoiled: dict[str, int]
    valid_replies: int
    seconds: float


def survive(rows: int, in_flight: int, kills: int, folder: Path, seed: int = 0) -> Figures:
    """Runs the client until it ends by itself, killing it `kills` times at even distances of its journal's growth."""
    started = time.monotonic()
    with serving(seed=seed, latency_s=0.03, faults=FAULTS, hang_s=5.0, retry_after="0.1") as server:
        for kill in range(kills):
            process = start_client(server, folder, rows, in_flight)
            while lines(folder / JOURNAL) < rows * (kill + 1) / (kills + 1):
                assert process.poll() is None, "the client ended by itself"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert start_client(server, folder, rows, in_flight).wait() == 0
        stats = server.stats()
    results = json.loads((folder / "results.json").read_text())
    assert sorted(index for index, _, _ in results) == list(range(rows))
    texts = [text_for(prompt.messages[-1].content) for prompt in prompts(rows)]
    return Figures(
        rows=rows,
        finishes=dict(Counter(finish for _, finish, _ in results)),
        wrong_texts=sum(finish == "stop" and text != texts[index] for index, finish, text in results),
        unexplained=sum(finish != "stop" and "(tried" not in text for _, finish, text in results),
        kills=kills,
        calls=sum(stats["sent"].values()),
        spoiled={fault: count for fault, count in stats["sent"].items() if fault != "ok"},
        valid_replies=sum(stats["valid"].values()),
        seconds=time.monotonic() - started,
    )


def start_client(server: Loopback, folder: Path, rows: int, in_flight: int) -> subprocess.Popen[bytes]:
    """The client in a process of its own."""
    call = f"be_the_client({server.port}, {str(folder)!r}, {rows}, {in_flight})"
    script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import kills; kills.{call}"
    return subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT_ROOT)


def lines(path: Path) -> int:
    """Whole lines of a file that somebody else is writing."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def be_the_client(port: int, folder_name: str, rows: int, in_flight: int) -> None:
    """Answers all prompts through a journal, and writes what came out."""
    client.FIRST_WAIT_S = 0.02
    folder = Path(folder_name)
    api = Loopback(port).api(max_in_flight=in_flight, timeout_s=0.6, max_retries=6)
    with Journal(folder / JOURNAL) as journal:
        engine = OpenAIEngine("loopback-1", api, owner="teacher", price=None, folder=folder, say=print, progress=False)
        rows_out = JournalEngine(engine, journal).generate(prompts(rows), Sampling(100))
        results = [(index, completion.finish, completion.text) for index, completion in rows_out]
    (folder / "results.json").write_text(json.dumps(results))
