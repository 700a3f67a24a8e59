"""The transformers engine on a real (tiny) model."""

from pathlib import Path

import pytest

from cft_lab.engines.base import Prompt
from cft_lab.engines.local import TransformersEngine
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Sampling

PROMPTS = [Prompt(p.id, eval_solve(FORMATS["lab"], p.question)) for p in LAB_SETS["lab-basic"].problems("lab-basic")[:12]]
SAMPLED = Sampling(max_new_tokens=24, temperature=0.8, top_p=0.9, seed=5)


def engine(folder: Path, batch_size: int) -> TransformersEngine:
    return TransformersEngine(folder, style="chat", end_of_turn=TURN_END, batch_size=batch_size, precision="fp32", cpu_threads=1)


def complete(folder: Path, batch_size: int, prompts: list[Prompt], sampling: Sampling) -> list[Completion]:
    with engine(folder, batch_size) as opened:
        found = dict(opened.generate(prompts, sampling))
    return [found[i] for i in range(len(prompts))]


@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=24), SAMPLED], ids=["greedy", "sampled"])
def test_texts_do_not_depend_on_batch_composition(debug_model: Path, sampling: Sampling) -> None:
    alone = complete(debug_model, 1, PROMPTS, sampling)
    assert complete(debug_model, 12, PROMPTS, sampling) == alone
    assert complete(debug_model, 5, PROMPTS[::-1], sampling) == alone[::-1]


def test_sampling_repeats_and_follows_its_seed_and_id(debug_model: Path) -> None:
    first = complete(debug_model, 12, PROMPTS, SAMPLED)
    assert complete(debug_model, 12, PROMPTS, SAMPLED) == first
    other_seed = Sampling(max_new_tokens=24, temperature=0.8, top_p=0.9, seed=6)
    assert complete(debug_model, 12, PROMPTS, other_seed) != first
    renamed = [Prompt(f"{p.id}/again", p.messages) for p in PROMPTS]
    assert complete(debug_model, 12, renamed, SAMPLED) != first


def test_gumbel_max_draws_from_the_softmax() -> None:
    import torch

    from cft_lab.engines.local import seeded_sampler

    scores = torch.tensor([[1.0, 0.0, -1.0, -30.0]])
    expected = (scores / 0.7).softmax(-1)[0]
    draws = 4000
    sampler = seeded_sampler(list(range(draws)), Sampling(1, temperature=0.7), torch.device("cpu"))
    picked = sampler(torch.zeros(draws, 1, dtype=torch.long), scores.repeat(draws, 1)).argmax(-1)
    observed = torch.bincount(picked, minlength=4) / draws
    assert torch.allclose(observed, expected, atol=4 * (0.25 / draws) ** 0.5)


def test_length_limit_and_stop_strings(debug_model: Path) -> None:
    cut = complete(debug_model, 12, PROMPTS, Sampling(max_new_tokens=3))
    assert {c.finish for c in cut} <= {"length", "stop"}
    assert all(c.num_tokens == 3 for c in cut if c.finish == "length")
    plain = complete(debug_model, 12, PROMPTS, Sampling(max_new_tokens=24))
    stop = next(c.text[3:5] for c in plain if len(c.text) > 8)
    stopped = complete(debug_model, 12, PROMPTS, Sampling(max_new_tokens=24, stop=(stop,)))
    assert any(c.finish == "stop" for c in stopped)
    for whole, part in zip(plain, stopped, strict=True):
        assert part.text == whole.text.split(stop)[0]
    assert complete(debug_model, 1, PROMPTS, Sampling(max_new_tokens=24, stop=(stop,))) == stopped


def test_defaults_that_a_model_ships_do_not_leak_in(debug_model: Path, tmp_path: Path) -> None:
    """Some hub models ship a repetition penalty: greedy must mean greedy for them too."""
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(debug_model, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 3.0, "max_length": 5}))
    greedy = Sampling(max_new_tokens=24)
    assert complete(folder, 12, PROMPTS, greedy) == complete(debug_model, 12, PROMPTS, greedy)


def test_weights_are_loaded_in_the_precision_asked_for(debug_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    from cft_lab.runtime import load_model, save_model

    half = load_model(debug_model, "bfloat16")
    save_model(half, AutoTokenizer.from_pretrained(debug_model), TURN_END, tmp_path)
    assert {p.dtype for p in load_model(tmp_path, "float32").parameters()} == {torch.float32}


def test_a_model_that_learned_to_stop_stops(debug_model: Path, tmp_path: Path) -> None:
    """Overfits one example in a few steps and finds the end of the turn where it was taught."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cft_lab.config import OptimizationConfig
    from cft_lab.records import Example
    from cft_lab.runtime import save_model
    from cft_lab.training.encode import encode_examples
    from cft_lab.training.loop import train

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    model = AutoModelForCausalLM.from_pretrained(debug_model)
    example = Example("x", PROMPTS[0].messages, "The answer is \\boxed{3}.")
    encoded = encode_examples([example] * 40, tokenizer, "chat", TURN_END, 512)
    config = OptimizationConfig(lr=1e-2, global_batch_size=1, device_batch_size=1, save_every_steps=99, cpu_threads=1)
    train(
        model,
        encoded.sequences,
        config,
        seed=0,
        folder=tmp_path,
        pad_id=tokenizer.pad_token_id,
        save=lambda s: None,
        report=lambda m: None,
        progress=False,
    )
    save_model(model, tokenizer, TURN_END, tmp_path / "model")
    completion = complete(tmp_path / "model", 1, PROMPTS[:1], Sampling(max_new_tokens=60))[0]
    assert completion == Completion(example.target, len(tokenizer(example.target).input_ids), "stop")
