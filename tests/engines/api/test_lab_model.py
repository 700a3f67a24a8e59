"""The project's own model behind `transformers serve`, spoken to by the engine: a server that nobody here wrote."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cft_lab import pipeline
from cft_lab.config import ApiConfig, Config
from cft_lab.engines.api.engine import OpenAIEngine
from cft_lab.engines.base import Prompt
from cft_lab.engines.local import TransformersEngine
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Sampling

pytest.importorskip("uvicorn", reason="transformers[serving] is not installed")

PROMPTS = [Prompt(p.id, eval_solve(FORMATS["lab"], p.question)) for p in LAB_SETS["lab-basic"].problems("lab-basic")[:8]]
START_S = 60


@pytest.fixture(scope="module")
def served_url(debug_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the debug model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(debug_model)]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path_factory.mktemp("hub")), "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=output, stderr=output
        )
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def engine(url: str, model: Path, say: list[str]) -> OpenAIEngine:
    api = ApiConfig(base_url=url, api_key_env=None, max_in_flight=4, timeout_s=60)
    return OpenAIEngine(str(model), api, owner="engine", price=None, say=say.append, progress=False)


def test_served_and_local_texts_are_the_same(served_url: str, debug_model: Path) -> None:
    sampling = Sampling(max_new_tokens=24)
    with engine(served_url, debug_model, []) as opened:
        served = dict(opened.generate(PROMPTS, sampling))
    with TransformersEngine(
        debug_model, style="chat", end_of_turn=TURN_END, batch_size=8, precision="fp32", cpu_threads=1
    ) as local_engine:
        local = dict(local_engine.generate(PROMPTS, sampling))
    assert {i: (c.text, c.finish) for i, c in served.items()} == {i: (c.text, c.finish) for i, c in local.items()}
    assert all((completion.prompt_tokens or 0) > 20 for completion in served.values())


def test_what_this_server_ignores_is_noticed(served_url: str, debug_model: Path) -> None:
    said: list[str] = []
    with engine(served_url, debug_model, said) as opened:
        found = dict(opened.generate(PROMPTS[:2], Sampling(8, temperature=0.8)))
    assert {completion.finish for completion in found.values()} <= {"stop", "length"}
    assert opened.observations()["n"] == "ignores n"
    assert opened.observations()["seed"] != "not probed"
    assert len(said) == 1


def test_a_cell_on_own_data_taught_by_the_served_model_runs_whole(
    served_url: str, debug_model: Path, cell: Callable[..., Config], tmp_path: Path
) -> None:
    rows = [{"question": f"What is {i} plus 1?", "solution": f"\\boxed{{{i + 1}}}", "answer": str(i + 1)} for i in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = ("teacher=openai-compatible", f"teacher.base_url={served_url}", f"teacher.model={debug_model}")
    # long enough for this model to end by itself: what is cut off is not imitated
    short = ("teacher.max_new_tokens=250", "data.pool=6", "data.examples=null", "benchmarks.names=[lab-basic]")
    config = cell("data=local", f"data.path={tmp_path / 'mine.jsonl'}", *teacher, *short)
    pipeline.check(config)
    result = pipeline.run(config, lambda line: None)
    assert result.examples is not None
    assert 0 < result.examples <= 6
    assert [(score.n, score.errors) for score in result.scores] == [(4, 0)]
