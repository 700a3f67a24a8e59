"""Optimizers: what is refused, what low-bit ones keep, and that they train as the plain one does."""

import tomllib
from dataclasses import replace

import pytest
import torch
from tiny import sequences, tiny_model

from cft_lab.config import PROJECT_ROOT, OptimizationConfig
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import pack
from cft_lab.training.levers import keep_weights_in
from cft_lab.training.loss import SummedLoss
from cft_lab.training.optimizers import conflicting_levers, make_optimizer, missing_optimizer, update

CONFIG = OptimizationConfig(lr=4e-3)
LOW_BIT = [("fp32", "adamw-8bit"), ("bf16", "adamw-8bit"), ("bf16", "adamw-bf16")]


def curve(config: OptimizationConfig, steps: int = 30) -> list[float]:
    """Losses per token of one batch over and over."""
    model = tiny_model()
    keep_weights_in(model, config.weights)
    optimizer = make_optimizer(model.parameters(), config)
    packed = pack(sequences(16))
    losses = []
    with padding_free(model):
        for _ in range(steps):
            loss = SummedLoss(model, 4096)(packed) / len(packed.targets)
            loss.backward()
            losses.append(float(loss.detach()))
            update(optimizer, config.lr)
            optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(("weights", "optimizer"), LOW_BIT)
def test_low_bit_optimizers_train_as_the_plain_one(weights: str, optimizer: str) -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    plain = curve(CONFIG)
    assert plain[-1] < 0.7 * plain[0]
    assert curve(replace(CONFIG, weights=weights, optimizer=optimizer)) == pytest.approx(plain, rel=0.02)


def test_moments_of_large_matrices_take_a_byte() -> None:
    pytest.importorskip("torchao")
    parameter = torch.nn.Parameter(torch.ones(64, 256, dtype=torch.bfloat16))
    optimizer = make_optimizer([parameter], replace(CONFIG, weights="bf16", optimizer="adamw-8bit"))
    parameter.grad = torch.ones_like(parameter)
    update(optimizer, 1e-3)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state[parameter][moment].codes.dtype == torch.uint8


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "adamw-bf16"])
def test_steps_too_small_for_bf16_are_taken_on_average(optimizer: str) -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    moved = {}
    for name in (optimizer, "adamw"):
        parameter = torch.nn.Parameter(torch.ones(64, 256, dtype=torch.bfloat16))
        stepping = make_optimizer([parameter], replace(CONFIG, weights="bf16", optimizer=name))
        for _ in range(50):
            parameter.grad = torch.ones_like(parameter)
            update(stepping, 1e-4)
        moved[name] = float((1 - parameter.detach().double()).mean())
    assert moved["adamw"] == 0.0, "rounded to nearest, a step of 1e-4 leaves 1 where it is"
    assert moved[optimizer] == pytest.approx(50 * 1e-4, rel=0.05)


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit"])
def test_the_learning_rate_is_that_of_the_step(name: str) -> None:
    if name != "adamw":
        pytest.importorskip("torchao")
    parameter = torch.nn.Parameter(torch.zeros(64, 256))
    optimizer = make_optimizer([parameter], replace(CONFIG, optimizer=name))
    for lr in (1e-3, 1e-2):
        before = parameter.detach().clone()
        parameter.grad = torch.ones_like(parameter)
        update(optimizer, lr)
        assert float((before - parameter.detach()).mean()) == pytest.approx(lr, rel=0.01)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_optimizer(CONFIG) is None
    low_bit = replace(CONFIG, optimizer="adamw-8bit")
    said = missing_optimizer(low_bit)
    assert said is not None
    assert 'pip install "cft_lab[lowbit]"' in said
    with pytest.raises(ModuleNotFoundError, match="needs the package torchao"):
        make_optimizer([], low_bit)
    extras = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(package.startswith("torchao") for package in extras["lowbit"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"precision": "bf16"}, None),
        ({"optimizer": "adamw-8bit"}, None),
        ({"weights": "bf16", "precision": "bf16", "optimizer": "adamw-8bit"}, None),
        ({"weights": "bf16", "precision": "bf16", "optimizer": "adamw-bf16"}, None),
        ({"weights": "bf16", "precision": "bf16"}, "rounds most updates away"),
        ({"optimizer": "adamw-bf16"}, "choose weights=bf16"),
        ({"weights": "bf16", "precision": "auto", "optimizer": "adamw-8bit"}, "not in precision=auto"),
    ],
)
def test_settings_that_do_not_go_together(change: dict[str, str], said: str | None) -> None:
    found = conflicting_levers(replace(CONFIG, **change))
    assert (said is None) == (not found)
    assert said is None or said in found[0]
