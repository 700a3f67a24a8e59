"""What follows from a shape: parameters, FLOP and kept activations, against models that are built and run."""

import json
from pathlib import Path

import pytest
import torch
from tiny import sequences, tiny_model

from cft_lab.config import ConfigError, OptimizationConfig, ShapeConfig
from cft_lab.hydra_config import compose
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import pack
from cft_lab.training.estimate import Setting, block_activation_bytes
from cft_lab.training.loss import SummedLoss
from cft_lab.training.shapes import count_parameters, shape_basis, shape_from, shape_of

ROWS = sequences(12, shortest=30)
TOKENS = sum(len(row.ids) for row in ROWS)
each_model = pytest.mark.parametrize(("architecture", "tied", "kv_heads"), [("qwen2", True, 1), ("llama", False, 2)])


@each_model
def test_parameters_are_those_of_the_real_model(architecture: str, tied: bool, kv_heads: int) -> None:
    model = tiny_model(architecture, tied, kv_heads=kv_heads)
    shape = shape_from(model.config.to_dict())
    assert shape is not None
    assert count_parameters(shape).total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "published"),  # on the models' cards, in billions; of Qwen2.5 also without embeddings: 6.53 and 31.0
    [("qwen2.5-math-7b", 7.62), ("qwen2.5-7b", 7.61), ("deepseek-math-7b", 6.91), ("qwen2.5-32b-instruct", 32.8)],
)
def test_the_shapes_in_conf_have_the_published_number_of_parameters(model: str, published: float) -> None:
    shape = shape_of(compose(f"model={model}").model)
    assert shape is not None
    assert count_parameters(shape).total / 1e9 == pytest.approx(published, rel=2e-3)
    without = {"qwen2.5-7b": 6.53, "qwen2.5-32b-instruct": 31.0}.get(model)
    if without:
        count = count_parameters(shape)
        assert (count.total - count.embedding - count.output) / 1e9 == pytest.approx(without, rel=8e-3)


def test_the_shape_of_a_lab_model_is_that_of_the_model_made_from_it(debug_model: Path) -> None:
    planned = shape_of(compose("model=lab-debug").model)
    assert planned == shape_from(json.loads((debug_model / "config.json").read_text()))


def test_a_models_own_config_comes_before_what_conf_says_of_it(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = compose("model=qwen2.5-math-7b", f"model.hub_id={tmp_path}", "model.shape.layers=9").model
    assert shape_of(model) == shape_from(json.loads((tmp_path / "config.json").read_text()))
    assert shape_basis(model) == "its config.json"
    away = compose("model=qwen2.5-math-7b", "model.hub_id=/nowhere/at/all", "model.shape.layers=9").model
    assert shape_of(away) == away.shape
    assert shape_basis(away) == "model.shape"


def test_a_stated_shape_whose_heads_do_not_divide_its_width_is_refused() -> None:
    from cft_lab import preflight

    preflight.check(compose("model=qwen2.5-math-7b"))
    for wrong in ("model.shape.heads=27", "model.shape.kv_heads=3"):
        with pytest.raises(ConfigError, match=r"model\.shape\.heads=2[78] must divide model\.shape\.hidden_size=3584"):
            preflight.check(compose("model=qwen2.5-math-7b", wrong))


def test_the_shape_of_an_unknown_architecture_is_not_guessed() -> None:
    assert shape_from({"model_type": "mamba"}) is None


def kept_bytes(model: torch.nn.Module, autocast: bool) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, weights and their copies left out."""
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack_hook(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_weight = tuple(tensor.shape) in weights or tuple(reversed(tensor.shape)) in weights
        if storage.data_ptr() not in known and not is_weight:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor stays, so that its place is not given away
        return tensor

    with (
        padding_free(model),  # type: ignore[arg-type]
        torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        SummedLoss(model, 16)(pack(ROWS))  # type: ignore[arg-type]
    return sum(size for size, _ in kept.values())


@each_model
@pytest.mark.parametrize(("weights", "precision"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")])
def test_a_block_keeps_as_many_bytes_as_estimated(
    architecture: str, tied: bool, kv_heads: int, weights: str, precision: str
) -> None:
    def model_of(layers: int) -> torch.nn.Module:
        model = tiny_model(architecture, tied, kv_heads=kv_heads).train()
        model.base_model.layers = model.base_model.layers[:layers]
        return model.to(torch.bfloat16 if weights == "bf16" else torch.float32)

    autocast = precision == "bf16" and weights == "fp32"
    kept = kept_bytes(model_of(2), autocast) - kept_bytes(model_of(1), autocast)
    shape = shape_from(tiny_model(architecture, tied, kv_heads=kv_heads).config.to_dict())
    assert isinstance(shape, ShapeConfig)
    setting = Setting(shape, OptimizationConfig(weights=weights), "cpu", precision, 1, TOKENS, 40, 0.5)
    assert kept == TOKENS * block_activation_bytes(setting)
