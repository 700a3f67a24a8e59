"""Every engine that is installed, on one tiny model: greedy texts in float32 and how they end are the same.

The transformers engine is what the others are compared with; tests/engines/test_local.py compares it with model.generate.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cft_lab.config import ApiConfig, EngineConfig, TrainConfig
from cft_lab.engines.api.engine import OpenAIEngine
from cft_lab.engines.base import Engine, Prompt
from cft_lab.engines.sharding import ModelFolder, open_model
from cft_lab.json_files import write_records
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import EOS, TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Example, Sampling
from cft_lab.runtime import render_prompt
from cft_lab.training.candidates import candidate_folder
from cft_lab.training.job import TrainingJob
from cft_lab.training.launch import run_job

PROMPTS = [
    Prompt(p.id, eval_solve(FORMATS["lab"], p.question))
    for name in ("lab-basic", "lab-long")
    for p in LAB_SETS[name].problems(name)[:50]
]
#: what is asked: some texts end by themselves and some at the limit; stop strings within a token and over several
CASES = {
    "greedy": Sampling(max_new_tokens=48),
    "stop strings": Sampling(max_new_tokens=48, stop=("28.\nStep 2: T", "= 12")),
}
THREADS = 2
START_S = 120
SERVERS = {
    "transformers serve": ["-m", "transformers.cli.transformers", "serve", "{model}", "--device", "cpu"],
    "vllm server": ["-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--dtype", "float32", "--enforce-eager"],
}
NEEDS = {"transformers serve": "uvicorn", "vllm": "vllm", "vllm server": "vllm"}


def needing(name: str) -> object:
    """A parameter that is skipped where what the engine needs is not installed."""
    missing = importlib.util.find_spec(NEEDS[name]) is None
    marks = [pytest.mark.skipif(missing, reason=f"{NEEDS[name]} is not installed")]
    return pytest.param(name, marks=[*marks, pytest.mark.vllm] if "vllm" in name else marks)


def ask(engine: Engine) -> dict[str, list[Completion]]:
    """The completions of every case, in the order of the prompts."""
    found = {case: dict(engine.generate(PROMPTS, sampling)) for case, sampling in CASES.items()}
    return {case: [rows[i] for i in range(len(PROMPTS))] for case, rows in found.items()}


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> dict[str, list[Completion]]:
    with open_model(ModelFolder(tiny_model, "chat", TURN_END), EngineConfig(batch_size=16, cpu_threads=THREADS)) as engine:
        return ask(engine)


@contextlib.contextmanager
def opened(name: str, model: Path, folder: Path) -> Iterator[Engine]:
    if name in ("transformers", "vllm"):
        config = EngineConfig(kind=name, batch_size=16, cpu_threads=THREADS)
        with open_model(ModelFolder(model, "chat", TURN_END), config) as engine:
            yield engine
        return
    with served(name, model, folder) as url:
        api = ApiConfig(base_url=url, api_key_env=None, max_in_flight=8, timeout_s=60)
        yield OpenAIEngine(str(model), api, owner="engine", price=None, say=lambda line: None, progress=False)


@contextlib.contextmanager
def served(name: str, model: Path, folder: Path) -> Iterator[str]:
    """The address of a server that nobody here wrote, with the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *(part.format(model=model) for part in SERVERS[name])]
    environment = os.environ | {"HF_HUB_CACHE": str(folder), "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment | {"VLLM_NO_USAGE_STATS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                time.sleep(0.2)
            else:
                break
        else:
            pytest.fail(f"{name} did not start: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def test_the_cases_are_worth_comparing(expected: dict[str, list[Completion]]) -> None:
    for case, completions in expected.items():
        assert {completion.finish for completion in completions} == {"stop", "length"}, case
        assert len({completion.text for completion in completions}) > 5, case
    cut = [whole.text != part.text for whole, part in zip(expected["greedy"], expected["stop strings"], strict=True)]
    assert any(cut)
    assert not all(cut)


@pytest.mark.parametrize("name", [needing(name) for name in NEEDS])
def test_engines_agree(name: str, tiny_model: Path, expected: dict[str, list[Completion]], tmp_path: Path) -> None:
    with opened(name, tiny_model, tmp_path) as engine:
        found = ask(engine)
    for case, completions in expected.items():
        assert [(c.text, c.finish) for c in found[case]] == [(c.text, c.finish) for c in completions], case
        if name == "vllm":  # a server's count may include the end of the turn
            assert [c.num_tokens for c in found[case]] == [c.num_tokens for c in completions], case


#: a base model whose own generation_config names both ends, as the lab saves it; and one that knows the end of a document alone, as
#: Qwen2.5's base models do: <|endoftext|>, and not the <|im_end|> that ends a turn
BASES = ("both ends", "the end of a document alone")


@pytest.fixture(scope="module", params=BASES)
def finetuned(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The candidate of a training on short answers, long enough that the model ends them by itself."""
    folder = tmp_path_factory.mktemp("finetuned")
    base = shutil.copytree(tiny_model, folder / "base")
    if request.param == BASES[1]:
        from transformers import AutoTokenizer

        (end,) = AutoTokenizer.from_pretrained(base).encode(EOS)
        for name in ("config.json", "generation_config.json"):
            told = json.loads((base / name).read_text())
            (base / name).write_text(json.dumps(told | {"eos_token_id": end}))
    examples = [Example(prompt.id, prompt.messages, "The answer is \\boxed{3}.") for prompt in PROMPTS[:8]] * 10
    write_records(folder / "examples.jsonl", examples)
    settings = {"lr": 1e-2, "global_batch_size": 8, "micro_batch_tokens": 2048, "epochs": 4, "cpu_threads": THREADS}
    train = TrainConfig(**settings, save_every_steps=1000, resume_every_steps=1000)  # type: ignore[arg-type]
    job = TrainingJob(base, folder / "examples.jsonl", folder / "run", train, 0, TURN_END, "chat")
    job.folder.mkdir()
    counts = run_job(job, report=lambda row: None, say=lambda line: None, progress=False)
    return candidate_folder(job.folder, counts["steps"])


ENDING = Sampling(max_new_tokens=60)


@pytest.mark.parametrize("name", ["transformers", *(needing(name) for name in NEEDS)])
def test_a_finetuned_model_ends_its_texts_by_itself_in_every_engine(finetuned: Path, name: str, tmp_path: Path) -> None:
    with opened(name, finetuned, tmp_path) as engine:
        found = dict(engine.generate(PROMPTS[:8], ENDING))
    assert {(completion.text, completion.finish) for completion in found.values()} == {("The answer is \\boxed{3}.", "stop")}


def test_a_finetuned_model_ends_its_texts_by_its_own_generation_config(finetuned: Path) -> None:
    """As whoever takes the folder elsewhere would use it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(finetuned), AutoModelForCausalLM.from_pretrained(finetuned)
    ends = {tokenizer.convert_tokens_to_ids(token) for token in (EOS, TURN_END)}
    assert len(ends) == 2
    assert set(json.loads((finetuned / "generation_config.json").read_text())["eos_token_id"]) == ends
    for prompt in PROMPTS[:8]:
        text = render_prompt(tokenizer, "chat", prompt.messages)
        asked = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        (ids,) = model.generate(**asked, max_new_tokens=ENDING.max_new_tokens, do_sample=False)
        answer = ids[asked["input_ids"].shape[1] :].tolist()
        assert tokenizer.decode(answer) == "The answer is \\boxed{3}." + TURN_END
