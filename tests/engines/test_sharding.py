"""Prompts shared by processes: two of them on the CPU, with the transformers engine."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cft_lab.config import DataError, EngineConfig
from cft_lab.engines.base import Prompt
from cft_lab.engines.local import TransformersEngine
from cft_lab.engines.sharding import ModelFolder, ShardError, Shards, gpu_groups, open_model, visible_gpus
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Sampling

PROMPTS = [
    Prompt(p.id, eval_solve(FORMATS["lab"], p.question))
    for name in ("lab-basic", "lab-long")
    for p in LAB_SETS[name].problems(name)[:15]
]
GREEDY = Sampling(max_new_tokens=24)
SAMPLED = Sampling(max_new_tokens=24, temperature=0.8, top_p=0.9, seed=5)
CONFIG = EngineConfig(batch_size=4, cpu_threads=1, shards=2)


@pytest.fixture(scope="module")
def other_model(debug_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug model with other weights."""
    import torch
    from transformers import AutoTokenizer

    from cft_lab.runtime import load_model, save_model

    folder = tmp_path_factory.mktemp("other")
    model = load_model(debug_model, "float32")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=noise)
    save_model(model, AutoTokenizer.from_pretrained(debug_model), TURN_END, folder)
    return folder


def model_in(folder: Path) -> ModelFolder:
    return ModelFolder(folder, "chat", TURN_END)


@pytest.fixture(scope="module")
def shards(debug_model: Path) -> Iterator[Shards]:
    with open_model(model_in(debug_model), CONFIG) as opened:
        assert isinstance(opened, Shards)
        yield opened
    assert not multiprocessing.active_children(), "the processes must be gone"


def alone(folder: Path, sampling: Sampling) -> list[Completion]:
    with open_model(model_in(folder), dataclasses.replace(CONFIG, shards=1)) as opened:
        assert isinstance(opened, TransformersEngine)
        found = dict(opened.generate(PROMPTS, sampling))
    return [found[i] for i in range(len(PROMPTS))]


def together(shards: Shards, sampling: Sampling, prompts: list[Prompt] = PROMPTS) -> list[Completion]:
    rows = list(shards.generate(prompts, sampling))
    assert sorted(i for i, _ in rows) == list(range(len(prompts))), "each prompt has one completion"
    return [dict(rows)[i] for i in range(len(prompts))]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_texts_do_not_depend_on_the_number_of_processes(shards: Shards, debug_model: Path, sampling: Sampling) -> None:
    assert together(shards, sampling) == alone(debug_model, sampling)


def test_fewer_prompts_than_processes(shards: Shards, debug_model: Path) -> None:
    assert together(shards, GREEDY, PROMPTS[:1]) == alone(debug_model, GREEDY)[:1]
    assert together(shards, GREEDY, []) == []


def test_all_processes_go_on_with_another_model(shards: Shards, debug_model: Path, other_model: Path) -> None:
    there, back = alone(other_model, GREEDY), alone(debug_model, GREEDY)
    assert there != back
    shards.swap(other_model)
    assert together(shards, GREEDY) == there
    shards.swap(debug_model)
    assert together(shards, GREEDY) == back


def test_a_call_that_is_given_up_leaves_nothing_behind(shards: Shards, debug_model: Path) -> None:
    rows = shards.generate(PROMPTS, GREEDY)
    next(rows)
    rows.close()  # what Ctrl-C in the consumer comes to
    assert not multiprocessing.active_children()
    assert together(shards, SAMPLED) == alone(debug_model, SAMPLED), "the next call starts anew"


def test_a_process_that_dies_is_an_error_that_names_it(shards: Shards, debug_model: Path) -> None:
    together(shards, GREEDY)
    victim = next(process for process in multiprocessing.active_children() if process.name == "shard 1")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGSTOP)  # so that it is in the middle of the call when it is killed
    rows = shards.generate(PROMPTS, GREEDY)
    index, completion = next(rows)
    assert completion == alone(debug_model, GREEDY)[index]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(ShardError, match=rf"shard 2 of 2 \(CPU, process {victim.pid}\) died with signal SIGKILL"):
        list(rows)
    assert not multiprocessing.active_children(), "the other process was ended too"


def test_a_model_that_cannot_be_loaded_is_an_error_that_says_why(debug_model: Path, tmp_path: Path) -> None:
    shutil.copytree(debug_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with Shards(model_in(tmp_path / "model"), CONFIG, [""]) as opened:
        with pytest.raises(ShardError, match=r"shard 1 of 1 .*failed") as told:
            list(opened.generate(PROMPTS, GREEDY))
        assert "model.safetensors" in str(told.value)
    unending = ModelFolder(debug_model, "chat", "<nothing>")
    with Shards(unending, CONFIG, [""]) as opened, pytest.raises(DataError, match="end_of_turn='<nothing>'"):
        list(opened.generate(PROMPTS, GREEDY))


@pytest.mark.parametrize(
    ("gpus", "kind", "tensor_parallel", "shards", "groups"),
    [
        ([], "transformers", 1, None, [""]),
        ([], "transformers", 1, 3, ["", "", ""]),
        ([], "vllm", 1, None, [""]),
        (["0"], "vllm", 1, None, ["0"]),
        (["4", "5", "6"], "transformers", 1, None, ["4", "5", "6"]),
        (["4", "5", "6"], "vllm", 2, None, ["4,5"]),
        (list("01234567"), "vllm", 4, None, ["0,1,2,3", "4,5,6,7"]),
        (list("01234567"), "vllm", 2, 3, ["0,1", "2,3", "4,5"]),
        (list("01"), "transformers", 2, None, ["0", "1"]),  # tensor_parallel is vLLM's
    ],
)
def test_groups_of_gpus(gpus: list[str], kind: str, tensor_parallel: int, shards: int | None, groups: list[str]) -> None:
    assert gpu_groups(gpus, EngineConfig(kind=kind, tensor_parallel=tensor_parallel, shards=shards)) == groups


@pytest.mark.parametrize(
    ("named", "count", "gpus"),
    [(None, 2, ["0", "1"]), ("4,GPU-8f", 2, ["4", "GPU-8f"]), ("", 0, []), ("-1", 0, []), ("3,9", 1, ["3"])],
)
def test_gpus_keep_the_names_that_the_scheduler_gave_them(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, gpus: list[str]
) -> None:
    """`count` is what CUDA would find: there is no GPU where the tests run."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(("gpus", "tensor_parallel", "shards"), [([], 2, None), (["0"], 2, None), (["0", "1", "2"], 2, 2)])
def test_too_few_gpus_are_refused(gpus: list[str], tensor_parallel: int, shards: int | None) -> None:
    config = EngineConfig(kind="vllm", tensor_parallel=tensor_parallel, shards=shards)
    with pytest.raises(DataError, match=f"engine.tensor_parallel={tensor_parallel}.*{len(gpus)} are visible"):
        gpu_groups(gpus, config)
