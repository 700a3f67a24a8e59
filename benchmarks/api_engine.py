"""The OpenAI-compatible engine against a loopback server that answers after 200 ms: rows/s as a share of what the requests in
flight allow, CPU time per call, and resident memory over 50,000 rows.

    python benchmarks/api_engine.py [speed] [memory]

The server runs in a process of its own. Prompts have the length of a critique prompt, replies that of a critique.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/engines/api")]

from loopback import Loopback, serving  # noqa: E402 - lies beside the tests

from cft_lab.engines.api.engine import OpenAIEngine  # noqa: E402
from cft_lab.engines.base import Prompt  # noqa: E402
from cft_lab.records import Message, Sampling  # noqa: E402

LATENCY_S = 0.2
IN_FLIGHT = (1, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 50  # each slot answers so many rows: the first and the last of them weigh 2 % each
ROWS_FOR_MEMORY = 50_000
PROMPT_WORDS, REPLY_WORDS = 400, 250


def prompts(count: int) -> list[Prompt]:
    filler = "word " * PROMPT_WORDS  # one string for all: only what the engine keeps shall grow
    return [Prompt(str(i), (Message("system", filler), Message("user", f"row {i}"))) for i in range(count)]


def run(server: Loopback, in_flight: int, rows: list[Prompt], at_row) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Wall and CPU seconds (of this process) for all rows."""
    api = server.api(max_in_flight=in_flight, timeout_s=60)
    engine = OpenAIEngine("m", api, owner="teacher", price=None, say=print, progress=False)
    wall, cpu = time.perf_counter(), time.process_time()
    for done, (_, completion) in enumerate(engine.generate(rows, Sampling(3200)), 1):
        assert completion.finish == "stop", completion.text
        at_row(done)
    return time.perf_counter() - wall, time.process_time() - cpu


def speed() -> None:
    with serving(latency_s=LATENCY_S, words=REPLY_WORDS) as server:
        run(server, 1, prompts(2), lambda done: None)  # imports
        print(f"{'in flight':>9} {'rows':>7} {'rows/s':>8} {'of in flight / latency':>23} {'CPU ms per call':>16}")
        for in_flight in IN_FLIGHT:
            rows = prompts(in_flight * ROUNDS)
            wall, cpu = run(server, in_flight, rows, lambda done: None)
            rate = len(rows) / wall
            share = rate * LATENCY_S / in_flight
            print(f"{in_flight:>9} {len(rows):>7,} {rate:>8.1f} {share:>22.1%} {cpu / len(rows) * 1e3:>16.2f}", flush=True)


def memory() -> None:
    process = psutil.Process()

    def at_row(done: int) -> None:
        if done in (1, 1000) or done % 10_000 == 0:
            print(f"row {done:>7,}: {process.memory_info().rss / 2**20:>7.1f} MiB resident", flush=True)

    rows = prompts(ROWS_FOR_MEMORY)
    with serving(words=REPLY_WORDS, counts=False) as server:
        run(server, 1, rows[:2], lambda done: None)
        wall, cpu = run(server, 32, rows, at_row)
    print(f"no latency, 32 in flight: {len(rows) / wall:.0f} rows/s, {cpu / len(rows) * 1e3:.2f} ms CPU per call")


def main() -> None:
    for name in sys.argv[1:] or ("speed", "memory"):
        {"speed": speed, "memory": memory}[name]()


if __name__ == "__main__":
    main()
