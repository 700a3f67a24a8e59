"""A training is the same training in one process and in two."""

import json
from pathlib import Path
from typing import Any

import pytest
from lever_ranks import STEPS, losses_with
from tiny import sequences, tiny_model
from tiny_training import CONFIG, SEED, child, finished, torchrun

from cft_lab.runtime import load_model
from cft_lab.training.loop import train
from cft_lab.training.ranks import empty_model, fill, one_rank
from cft_lab.training.resume import resume_step


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder


def alone(folder: Path, model: Any = None) -> list[tuple[float, float]]:
    """Trains in this process; gives loss and gradient norm of each step."""
    rows: list[tuple[float, float]] = []
    train(
        model or tiny_model(),
        sequences(80),
        CONFIG,
        seed=SEED,
        folder=folder,
        save=lambda step: None,
        report=lambda row: rows.append((row.loss, row.grad_norm)),
        progress=False,
        say=lambda line: None,
    )
    return rows


def rows_of(folder: Path) -> list[tuple[float, float]]:
    steps = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert [step for step, _, _ in steps] == list(range(1, len(steps) + 1))
    return [(loss, norm) for _, loss, norm in steps]


def assert_same(rows: list[tuple[float, float]], golden: list[tuple[float, float]]) -> None:
    assert len(rows) == len(golden) == 30
    for part in (0, 1):
        assert [row[part] for row in rows] == pytest.approx([row[part] for row in golden], rel=1e-5)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, float]]:
    """30 steps in one process."""
    rows = alone(tmp_path_factory.mktemp("golden"))
    assert rows[-1][0] < rows[0][0]
    return rows


def test_two_processes_train_as_one_does(base: Path, golden: list[tuple[float, float]], tmp_path: Path) -> None:
    finished(torchrun("golden.py", base, tmp_path))
    assert_same(rows_of(tmp_path), golden)


def test_processes_give_up_a_step_together_when_one_is_asked_to_end(base: Path, tmp_path: Path) -> None:
    said = finished(torchrun("stop_ranks.py", base, tmp_path)).splitlines()
    assert sorted(line for line in said if "Stopped" in line) == [
        f"{rank} Stopped as asked: the training is saved at step 2 of 30. 2" for rank in (0, 1)
    ]
    assert resume_step(tmp_path) == 2


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_as_one(base: Path, golden: list[tuple[float, float]], tmp_path: Path) -> None:
    with child(torchrun("golden.py", base, tmp_path, 12)) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGKILL" in errors
    done = resume_step(tmp_path)
    assert done in (11, 12), "killed after step 12, before or after its state was saved"
    assert_same(rows_of(tmp_path)[:done] + alone(tmp_path), golden)


@pytest.mark.parametrize(("architecture", "tied"), [("qwen2", True), ("llama", False)])
@pytest.mark.parametrize(("saved", "wanted"), [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")])
def test_an_empty_model_is_filled_from_its_folder(architecture: str, tied: bool, saved: str, wanted: str, tmp_path: Path) -> None:
    import torch

    tiny_model(architecture, tied).to(getattr(torch, saved)).save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    filled = empty_model(tmp_path, getattr(torch, wanted))
    assert all(parameter.is_meta for parameter in filled.parameters())
    fill(filled, tmp_path, one_rank())
    ids = torch.arange(5, 25)[None]
    expected = load_model(tmp_path, wanted)
    assert (filled.lm_head.weight is filled.get_input_embeddings().weight) == tied
    assert torch.equal(filled(ids).logits, expected(ids).logits)


def test_an_empty_model_knows_every_token_that_its_folder_stops_at(tmp_path: Path) -> None:
    """Instruct models name more tokens in generation_config.json than in config.json."""
    import torch

    model = tiny_model()
    model.generation_config.eos_token_id = [7, 11]
    model.save_pretrained(tmp_path)
    assert empty_model(tmp_path, torch.float32).generation_config.eos_token_id == [7, 11]
    (tmp_path / "generation_config.json").unlink()
    assert empty_model(tmp_path, torch.float32).generation_config.eos_token_id == 0


#: how far losses of two processes may lie from those of one: rounding in bf16 and in 8 bits depends on how things are cut
TOLERANCE = {"plain": 1e-5, "selective": 1e-5, "full": 1e-5, "bf16": 1e-2, "bf16-full": 1e-2}
LOW_BIT_TOLERANCE = {"8bit": 2e-3, "bf16-weights": 1e-2}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model so wide that half of a matrix is still kept in 8 bits, which torchao does from 4096 elements on."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=512, num_key_value_heads=1, bos_token_id=None, eos_token_id=0, pad_token_id=0, **shape)
    folder = tmp_path_factory.mktemp("wide")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [TOLERANCE, LOW_BIT_TOLERANCE], ids=["torch", "torchao"])
def test_every_lever_works_in_two_processes_and_resumes(wide: Path, tmp_path: Path, tolerance: dict[str, float]) -> None:
    if tolerance is LOW_BIT_TOLERANCE:
        pytest.importorskip("torchao")
    out = finished(torchrun("lever_ranks.py", wide, tmp_path / "two", *tolerance))
    two = json.loads(out.split("LOSSES", 1)[1])
    one = {name: losses_with(name, wide, tmp_path / "one" / name, one_rank()) for name in tolerance}
    for name in tolerance:
        assert len(one[name]) == len(two[name]) == STEPS
        assert two[name] == pytest.approx(one[name], rel=tolerance[name]), name
        assert one[name][-1] < 0.98 * one[name][0]
        assert one[name] == losses_with(name, wide, tmp_path / "straight" / name, one_rank(), stops=()), "resuming changes no bit"
