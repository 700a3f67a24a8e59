"""FLOPs against torch's own count, peaks, and what a training reports."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG, run
from tiny import sequences, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from cft_lab.config import LabModelConfig, ShapeConfig, TrainConfig
from cft_lab.lab.base_models import new_model
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import pack
from cft_lab.training.loss import SummedLoss
from cft_lab.training.meters import Bar, Meter, ModelFlops, flops_of_model, flops_of_shape, peak_flops, peak_memory_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("tied", [True, False])
def test_model_flops_are_the_products_that_torch_counts(tied: bool) -> None:
    """Attention is left out on both sides: torch counts the whole square of it, which a causal kernel does not compute."""
    model = tiny_model(tied=tied, kv_heads=2)
    rows = sequences(6)
    packed = pack(rows)
    counter = FlopCounterMode(display=False)
    with padding_free(model), counter:
        SummedLoss(model, 4096)(packed).backward()
    products = sum(
        count for operation, count in counter.get_flop_counts()["Global"].items() if re.search(r"aten\.(mm|addmm)", str(operation))
    )
    ours = dataclasses.replace(flops_of_model(model), attention_width=0).of(packed.lengths, len(packed.targets))
    assert ours == products


def test_attention_flops_are_half_of_the_square() -> None:
    assert ModelFlops(0, 10, 0).of([3, 4], 0) == 6 * 10 * (9 + 16)


def test_shape_and_model_give_the_same_flops(debug_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    for kv_heads, architecture in ((4, "llama"), (2, "qwen2")):
        lab = LabModelConfig(architecture=architecture, heads=4, kv_heads=kv_heads, layers=3)
        model = new_model(lab, tokenizer)
        lab.vocab_size = len(tokenizer)
        assert flops_of_shape(lab) == flops_of_model(model)


def test_seven_billion_parameters_take_what_everyone_says_they_take() -> None:
    shape = ShapeConfig(
        hidden_size=3584, intermediate_size=18944, layers=28, heads=28, kv_heads=4, vocab_size=152064
    )  # Qwen2.5-7B: 6.53 billion parameters outside the embeddings, by its model card
    flops = flops_of_shape(shape)
    assert flops.block_parameters == pytest.approx(6.53e9, rel=0.01)
    assert flops.of([2048], 2048) / 2048 == pytest.approx(6 * 7.07e9, rel=0.05)


@pytest.mark.parametrize(
    ("config", "precision", "name", "peak"),
    [
        (TrainConfig(), "bf16", "NVIDIA H200", 989.5e12),
        (TrainConfig(), "bf16", "NVIDIA H100 80GB HBM3", 989.5e12),
        (TrainConfig(), "bf16", "NVIDIA H100 PCIe", 756e12),
        (TrainConfig(), "bf16", "NVIDIA L40S", 362e12),
        (TrainConfig(), "bf16", "NVIDIA L40", 181e12),
        (TrainConfig(), "bf16", "NVIDIA L4", 121e12),
        (TrainConfig(), "bf16", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        (TrainConfig(), "bf16", "Some Other GPU", None),
        (TrainConfig(), "fp32", "NVIDIA H200", None),
        (TrainConfig(), "fp32", "cpu", None),
        (TrainConfig(device_tflops=2.5), "fp32", "cpu", 2.5e12),
        (TrainConfig(device_tflops=700), "bf16", "NVIDIA H200", 700e12),
        (CONFIG, "bf16", "NVIDIA A100-SXM4-80GB", 312e12),
    ],
)
def test_peaks(config: TrainConfig, precision: str, name: str, peak: float | None) -> None:
    assert peak_flops(config, precision, name) == peak


def test_what_a_step_reports() -> None:
    meter = Meter(ModelFlops(1000, 0, 0), peak=1e6, devices=2, steps=10, device=CPU)
    row = meter.measure(3, loss=1.5, lr=0.1, grad_norm=2.0, lengths=[30, 20], targets=10, seconds=0.5)
    assert (row.step, row.loss, row.lr, row.grad_norm) == (3, 1.5, 0.1, 2.0)
    assert (row.sequences, row.tokens, row.target_tokens) == (2, 50, 10)
    assert (row.tokens_per_s, row.target_tokens_per_s, row.sequences_per_s) == (100, 20, 4)
    assert row.mfu == pytest.approx(6 * 1000 * 50 / 0.5 / 2e6)
    assert row.eta_s > 0
    assert meter.measure(10, 1.5, 0.1, 2.0, [30], 10, 0.5).eta_s == 0


def test_a_step_that_is_no_number_is_null_in_strict_json() -> None:
    meter = Meter(ModelFlops(1, 0, 0), peak=None, devices=1, steps=2, device=CPU)
    row = meter.measure(1, float("nan"), 0.1, float("inf"), [3], 1, 0.5)
    read = json.loads(json.dumps(dataclasses.asdict(row), allow_nan=False))
    assert (read["loss"], read["grad_norm"], read["mfu"]) == (None, None, None)


def test_the_peak_of_memory_counts_what_was_there_and_is_gone() -> None:
    before = peak_memory_bytes(CPU)
    big = torch.ones(before // 4 + 50_000_000)  # 4 bytes each
    del big
    assert peak_memory_bytes(CPU) > before + 100_000_000


def test_a_training_reports_every_step(tmp_path: Path) -> None:
    rows = sequences(44)
    metrics = run(tmp_path, TrainConfig(**{**dataclasses.asdict(CONFIG), "device_tflops": 1.0}), rows)[1]
    assert [row.step for row in metrics] == list(range(1, 7))
    assert sum(row.tokens for row in metrics) == sum(len(row.ids) for row in rows)
    assert sum(row.target_tokens for row in metrics) == sum(row.num_targets for row in rows)
    assert sum(row.sequences for row in metrics) == 44
    assert all(row.mfu is not None and 0 < row.mfu < 1 for row in metrics)
    assert metrics[-1].eta_s == 0


def test_the_bar_shows_loss_rate_speed_and_mfu() -> None:
    meter = Meter(ModelFlops(1000, 0, 0), peak=1e6, devices=1, steps=2, device=CPU)
    with Bar(2, 0, shown=True) as bar:
        bar.show(meter.measure(1, 1.25, 5e-6, 2.0, [500], 10, 5.0))
        assert bar._bar.postfix == "loss=1.250, lr=5.0e-06, tok_s=100, mfu=60%"
        bar.show(meter.measure(2, 1.25, 5e-6, float("nan"), [500], 10, 5.0))
        assert bar._bar.postfix.startswith("loss=1.250 (skipped)")
        assert bar._bar.n == 2


def test_nothing_is_imported_for_the_counting(tmp_path: Path) -> None:
    """Plans are made before anything heavy is imported."""
    import subprocess
    import sys

    script = (
        "import sys, cft_lab.training.meters, cft_lab.training.faults, cft_lab.training.optimizers; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
