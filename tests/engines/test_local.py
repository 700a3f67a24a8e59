"""The transformers engine on a real (tiny) model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cft_lab.config import DataError
from cft_lab.engines.base import Prompt
from cft_lab.engines.local import TransformersEngine, gumbel_max
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Sampling

PROMPTS = [Prompt(p.id, eval_solve(FORMATS["lab"], p.question)) for p in LAB_SETS["lab-basic"].problems("lab-basic")[:12]]
#: prompts of many lengths
MIXED = [
    Prompt(p.id, eval_solve(FORMATS["lab"], p.question))
    for name in ("lab-long", "lab-basic")
    for p in LAB_SETS[name].problems(name)[:15]
]
LONG = Sampling(max_new_tokens=48)
SAMPLED = Sampling(max_new_tokens=24, temperature=0.8, top_p=0.9, seed=5)


def engine(folder: Path, batch_size: int, **other: Any) -> TransformersEngine:
    settings = {"style": "chat", "end_of_turn": TURN_END, "precision": "fp32", "cpu_threads": 1} | other
    return TransformersEngine(folder, batch_size=batch_size, **settings)


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

    from cft_lab.engines.decode import Row

    scores = torch.tensor([[1.0, 0.0, -1.0, -30.0]])
    expected = (scores / 0.7).softmax(-1)[0]
    draws = 4000
    rows = [Row(i, [0], 1, torch.Generator().manual_seed(i)) for i in range(draws)]
    picked = gumbel_max(Sampling(1, temperature=0.7))(scores.repeat(draws, 1), rows)
    observed = torch.bincount(picked, minlength=4) / draws
    assert torch.allclose(observed, expected, atol=4 * (0.25 / draws) ** 0.5)


def test_greedy_texts_are_those_of_model_generate(debug_model: Path) -> None:
    """Rows that join and leave, against the library's own decoding of one prompt at a time."""
    import torch
    from transformers import AutoTokenizer

    from cft_lab.runtime import load_model, render_prompt

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    model = load_model(debug_model, "float32").eval()
    expected = []
    for prompt in MIXED:
        ids = tokenizer(render_prompt(tokenizer, "chat", prompt.messages), add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**ids, max_new_tokens=LONG.max_new_tokens, do_sample=False)
        expected.append(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    found = complete(debug_model, 7, MIXED, LONG)
    assert [completion.text for completion in found] == expected
    assert {completion.finish for completion in found} == {"stop", "length"}, "the test needs texts of both kinds"
    assert len({completion.num_tokens for completion in found}) > 2, "the test needs texts of several lengths"


def test_a_text_is_handed_out_before_all_have_ended(debug_model: Path) -> None:
    with engine(debug_model, 2) as opened:
        index, completion = next(opened.generate(MIXED, LONG))
    assert completion == complete(debug_model, 1, [MIXED[index]], LONG)[0]


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


def test_a_text_ends_at_the_token_that_completes_its_first_stop_string(debug_model: Path) -> None:
    """Wherever the engine looks for stop strings, and whatever it wrote past one."""
    from transformers import AutoTokenizer

    from cft_lab.engines.texts import Texts

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    texts = Texts(debug_model, "chat", TURN_END)
    ids = tokenizer("Step 1: Monday drops 2, so 28 - 2 = 26. The answer is").input_ids
    until = [tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]
    for stop in (("Monday",), ("2, so", "28"), ("26. The", "so"), (" answer", "never")):
        count = next(n + 1 for n, text in enumerate(until) if any(string in text for string in stop))
        cut = min(place for string in stop if (place := until[count - 1].find(string)) >= 0)
        assert texts.completion(ids, stop) == Completion(until[count - 1][:cut], count, "stop")
    assert texts.completion([*ids, texts.stop_ids[0], *ids], ()) == Completion(until[-1], len(ids), "stop")
    assert texts.completion(ids, ("never",)) == Completion(until[-1], len(ids), "length")


def test_the_models_own_length_is_a_limit(debug_model: Path) -> None:
    """A text ends where prompt and text fill it; a prompt that fills it alone costs that row."""
    from transformers import AutoTokenizer

    from cft_lab.runtime import render_prompt

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    lengths = [len(tokenizer(render_prompt(tokenizer, "chat", p.messages)).input_ids) for p in PROMPTS]
    limit = sorted(lengths)[len(lengths) // 2]
    with engine(debug_model, 12, max_model_len=limit) as opened:
        found = dict(opened.generate(PROMPTS, LONG))
    whole = complete(debug_model, 12, PROMPTS, LONG)
    assert {found[i].finish == "refused" for i in found} == {True, False}
    for i, length in enumerate(lengths):
        if length >= limit:
            assert found[i] == Completion(
                f"the prompt has {length} tokens and the model takes {limit} with its answer", 0, "refused", length
            )
        else:
            assert found[i].num_tokens <= limit - length
            assert whole[i].text.startswith(found[i].text)


def test_an_unknown_end_of_turn_is_refused(debug_model: Path) -> None:
    with pytest.raises(DataError, match="end_of_turn='</s>' is not a token of .*its EOS is '<|endoftext|>'"):
        engine(debug_model, 1, end_of_turn="</s>")


def test_a_model_with_a_sliding_window_is_refused(debug_model: Path, tmp_path: Path) -> None:
    shutil.copytree(debug_model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    changes = {
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match="sliding_attention.*use engine=vllm"):
        engine(tmp_path / "model", 1)


def test_defaults_that_a_model_ships_do_not_leak_in(debug_model: Path, tmp_path: Path) -> None:
    """Some hub models ship a repetition penalty: greedy must mean greedy for them too."""
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
    config = OptimizationConfig(lr=1e-2, global_batch_size=1, save_every_steps=99, cpu_threads=1)
    train(
        model,
        encoded.sequences,
        config,
        seed=0,
        folder=tmp_path,
        save=lambda s: None,
        report=lambda m: None,
        progress=False,
    )
    save_model(model, tokenizer, TURN_END, tmp_path / "model")
    completion = complete(tmp_path / "model", 1, PROMPTS[:1], Sampling(max_new_tokens=60))[0]
    assert completion == Completion(example.target, len(tokenizer(example.target).input_ids), "stop")


def test_the_end_of_a_document_stops_a_model_whose_eos_is_the_end_of_a_turn(debug_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from cft_lab.engines.texts import Texts

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    ids = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")}
    tokenizer.eos_token = "<|im_end|>"  # noqa: S105
    tokenizer.save_pretrained(tmp_path)
    assert set(Texts(tmp_path, "chat", "<|im_end|>").stop_ids) == ids
