"""The vLLM engine for real, on the CPU (`make test-vllm`). tests/engines/test_conformance.py compares engines on more prompts."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from cft_lab.config import EngineConfig
from cft_lab.engines.base import Prompt
from cft_lab.engines.sharding import ModelFolder, open_model
from cft_lab.engines.texts import Texts
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Sampling

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]

PROMPTS = [Prompt(p.id, eval_solve(FORMATS["lab"], p.question)) for p in LAB_SETS["lab-long"].problems("lab-long")[:30]]
GREEDY = Sampling(max_new_tokens=40)
SAMPLED = Sampling(max_new_tokens=40, temperature=0.8, top_p=0.9, seed=5)
VLLM = EngineConfig(kind="vllm", batch_size=8, cpu_threads=2)
TRANSFORMERS = EngineConfig(batch_size=8, cpu_threads=2)


def variant(source: Path, folder: Path, *, tied: bool, seed: int) -> Path:
    """The tiny model with noise on its weights, and with or without an output layer of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from cft_lab.runtime import load_model, save_model

    config = AutoConfig.from_pretrained(source)
    config.tie_word_embeddings = tied
    weights = load_model(source, "float32").state_dict()
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * weight.std() * torch.randn(weight.shape, generator=noise)
    save_model(model, AutoTokenizer.from_pretrained(source), TURN_END, folder)
    path = folder / "generation_config.json"  # what a hub model may ship; greedy must mean greedy all the same
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 3.0, "top_k": 1}))
    return folder


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = {"first": (False, 1), "second": (False, 2), "tied": (True, 3)}
    return {name: variant(tiny_model, tmp_path_factory.mktemp(name), tied=tied, seed=seed) for name, (tied, seed) in kinds.items()}


def in_order(rows: Iterator[tuple[int, Completion]]) -> list[Completion]:
    found = dict(rows)
    return [found[i] for i in range(len(found))]


def by_transformers(folder: Path, sampling: Sampling) -> list[Completion]:
    with open_model(ModelFolder(folder, "chat", TURN_END), TRANSFORMERS) as engine:
        return in_order(engine.generate(PROMPTS, sampling))


def test_one_engine_through_its_life(models: dict[str, Path]) -> None:
    """In one test, because a start takes half a minute: greedy, seeds, another model in place, a tied one, and the end."""
    expected = {name: by_transformers(folder, GREEDY) for name, folder in models.items()}
    assert len({tuple(c.text for c in completions) for completions in expected.values()}) == len(models)
    with open_model(ModelFolder(models["first"], "chat", TURN_END), VLLM) as engine:
        assert in_order(engine.generate(PROMPTS, GREEDY)) == expected["first"]

        drawn = in_order(engine.generate(PROMPTS, SAMPLED))
        assert in_order(engine.generate(PROMPTS, SAMPLED)) == drawn
        assert in_order(engine.generate(PROMPTS[::-1], SAMPLED)) == drawn[::-1], "whatever the order"
        assert in_order(engine.generate(PROMPTS, Sampling(40, 0.8, 0.9, seed=6))) != drawn
        renamed = [Prompt(f"{p.id}/again", p.messages) for p in PROMPTS]
        assert in_order(engine.generate(renamed, SAMPLED)) != drawn

        (process,) = multiprocessing.active_children()
        engine.swap(models["second"])
        assert in_order(engine.generate(PROMPTS, GREEDY)) == expected["second"], "no trace of the first, cached prefixes included"
        assert multiprocessing.active_children() == [process], "no restart"
        engine.swap(models["first"])
        assert in_order(engine.generate(PROMPTS, GREEDY)) == expected["first"]

        engine.swap(models["tied"])
        assert in_order(engine.generate(PROMPTS, GREEDY)) == expected["tied"]
        assert multiprocessing.active_children() != [process], "vLLM cannot swap tied weights"
    assert not multiprocessing.active_children(), "the process, and with it its memory, must be gone"


def test_the_length_limit_is_that_of_the_transformers_engine(models: dict[str, Path]) -> None:
    texts = Texts(models["first"], "chat", TURN_END)
    limit = sorted(len(texts.encode(prompt)) for prompt in PROMPTS)[len(PROMPTS) // 2]
    found = []
    for config in (TRANSFORMERS, VLLM):
        with open_model(ModelFolder(models["first"], "chat", TURN_END), dataclasses.replace(config, max_model_len=limit)) as engine:
            found.append(in_order(engine.generate(PROMPTS, GREEDY)))
    assert found[0] == found[1]
    assert {"refused", "length"} <= {completion.finish for completion in found[0]}
