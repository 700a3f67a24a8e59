"""Candidates: whole folders with the right stop tokens; damaged model folders are refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cells import small_disk
from tiny import tiny_model

from cft_lab.config import DataError
from cft_lab.lab.tokenizer import EOS, TURN_END
from cft_lab.training.candidates import candidate_folder, check_model_folder, list_candidates, save_candidate
from cft_lab.training.faults import TrainingError
from cft_lab.training.ranks import one_rank


@pytest.fixture(scope="module")
def tokenizer(debug_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(debug_model)


def save(model: Any, tokenizer: Any, folder: Path, dtype: str = "float32") -> None:
    import torch

    save_candidate(model, tokenizer, TURN_END, folder, one_rank(), getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_candidate_is_loaded_with_the_weights_and_dtype_it_was_saved_with(
    tokenizer: Any, tmp_path: Path, dtype: str, tied: bool
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = tiny_model(tied=tied)
    save(model, tokenizer, candidate_folder(tmp_path, 4), dtype)
    check_model_folder(tmp_path / "step-000004")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"], "nothing is left of the making"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "step-000004", dtype="auto")
    assert str(again.dtype) == f"torch.{dtype}"
    assert json.loads((tmp_path / "step-000004" / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    assert next(model.parameters()).dtype == torch.float32, "the model that is trained stays as it is"
    for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours.to(theirs.dtype), theirs)


def test_generation_stops_at_the_turn_end_and_at_every_eos_of_the_base_model(tokenizer: Any, tmp_path: Path) -> None:
    """As with Qwen2.5: base models end documents with 151643, turns end with 151645; instruct models name both."""
    model = tiny_model()
    model.generation_config.eos_token_id = [7, 11]
    save(model, tokenizer, tmp_path / "step-000001")
    written = json.loads((tmp_path / "step-000001" / "generation_config.json").read_text())
    named = {tokenizer.convert_tokens_to_ids(token) for token in (EOS, TURN_END)}
    assert len(named) == 2
    assert set(written["eos_token_id"]) == named | {0, 7, 11}
    assert written["pad_token_id"] == tokenizer.pad_token_id


def test_a_candidate_that_is_made_again_replaces_the_old_one(tokenizer: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = tiny_model()
    (tmp_path / ".step-000002.tmp").mkdir()  # killed while it was made
    (tmp_path / ".step-000002.tmp" / "left.safetensors").touch()
    for scale in (1.0, 2.0):
        model.lm_head.weight.data.mul_(scale)
        save(model, tokenizer, tmp_path / "step-000002")
    assert list_candidates(tmp_path) == [tmp_path / "step-000002"]
    assert not (tmp_path / "step-000002" / "left.safetensors").exists()
    written = load_file(tmp_path / "step-000002" / "model.safetensors")
    assert (written["model.embed_tokens.weight"] == model.lm_head.weight).all()


@pytest.mark.parametrize("room_kb", [0, 8, 40])
def test_a_full_disk_leaves_nothing_of_a_candidate_and_the_others_whole(tokenizer: Any, tmp_path: Path, room_kb: int) -> None:
    model = tiny_model()
    with small_disk(tmp_path / "disk", "1m") as disk:
        save(model, tokenizer, disk / "step-000001")
        (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - room_kb * 1024))
        with pytest.raises(TrainingError, match="step-000002 could not be written: the disk is full. It needs 0") as error:
            save(model, tokenizer, disk / "step-000002")
        assert f"{room_kb * 1024 / 1e6:.2f} MB are free" in str(error.value)
        assert "train.keep_candidates" in str(error.value)
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "step-000001"]
        check_model_folder(disk / "step-000001")
        (disk / "filler").unlink()
        save(model, tokenizer, disk / "step-000002")
        check_model_folder(disk / "step-000002")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of several shards."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny_model(tied=False).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) >= 2
    return folder


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def misplace_a_tensor(index: Path) -> None:
    told = json.loads(index.read_text())
    files = told["weight_map"]
    files["model.norm.weight"] = next(file for file in files.values() if file != files["model.norm.weight"])
    index.write_text(json.dumps(told))


SHARD = "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        (SHARD, Path.unlink, f"{SHARD} is missing"),
        (SHARD, lambda file: cut(file, -1), f"{SHARD} has "),
        (SHARD, lambda file: cut(file, 100), f"{SHARD} is truncated"),
        (SHARD, lambda file: cut(file, 5), f"{SHARD} is truncated"),
        (SHARD, lambda file: cut(file, 0), f"{SHARD} is truncated"),
        (SHARD, lambda file: file.write_bytes(b"x" * 5000), f"{SHARD} is truncated"),
        (SHARD, lambda file: file.write_bytes((16).to_bytes(8, "little") + b"x" * 5000), f"{SHARD} has no readable header"),
        ("model.safetensors.index.json", lambda file: cut(file, 30), "model.safetensors.index.json cannot be read"),
        ("model.safetensors.index.json", misplace_a_tensor, "lacks model.norm.weight"),
        ("model.safetensors.index.json", Path.unlink, "model.safetensors is missing"),
        ("config.json", Path.unlink, "config.json is missing"),
    ],
)
def test_a_damaged_model_folder_is_refused_by_name(sharded: Path, tmp_path: Path, name: str, spoil: Any, told: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sharded, folder)
    check_model_folder(folder)
    spoil(folder / name)
    with pytest.raises(DataError, match="copy or download the folder again") as error:
        check_model_folder(folder)
    assert str(folder) in str(error.value)
    assert told in str(error.value)
