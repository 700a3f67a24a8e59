"""The loop's exactness: batch shapes do not matter, kills do not matter, padding does not matter."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import padded_loss, sequences, tiny_model

from cft_lab.config import OptimizationConfig
from cft_lab.training.batches import batch_at, split_step
from cft_lab.training.encode import Encoded
from cft_lab.training.loop import learning_rate, train
from cft_lab.training.meters import StepMetrics
from cft_lab.training.signals import Requeue, StopRequest

CONFIG = OptimizationConfig(
    lr=1e-3, global_batch_size=8, micro_batch_tokens=1024, save_every_steps=3, resume_every_steps=1, cpu_threads=1
)


def run(  # type: ignore[no-untyped-def]
    folder: Path,
    config: OptimizationConfig = CONFIG,
    rows: list[Encoded] | None = None,
    stop_at: int | None = None,
    announce: bool = False,
    architecture: str = "qwen2",
):
    """Trains a fresh tiny model; `stop_at` raises after that step, as a crash would. Returns (weights, metrics)."""
    model = tiny_model(architecture)
    metrics: list[StepMetrics] = []

    def report(row: StepMetrics) -> None:
        if stop_at is not None and row.step > stop_at:
            raise InterruptedError
        metrics.append(row)
        if announce:
            print(f"step {row.step}", flush=True)

    options = {"seed": 3, "folder": folder, "progress": False}
    train(model, rows or sequences(), config, save=lambda step: None, report=report, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}, metrics


def equal_weights(a, b) -> bool:  # type: ignore[no-untyped-def]
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_eight_by_one_equals_four_by_two_equals_two_by_four(tmp_path: Path) -> None:
    """The same 30 steps of 8 sequences of 20 tokens each, in micro-batches of 8, 4, 2 and 1."""
    rows = sequences(48, shortest=20, longest=20)
    curves = {}
    for size in (8, 4, 2, 1):
        assert len(split_step([20] * 8, 1, 20 * size)[0]) == 8 // size
        (tmp_path / str(size)).mkdir()
        metrics = run(tmp_path / str(size), replace(CONFIG, lr=4e-3, epochs=5, micro_batch_tokens=20 * size), rows)[1]
        curves[size] = [m.loss for m in metrics]
    assert len(curves[8]) == 30
    assert curves[8][-1] < 0.95 * curves[8][0]
    for size in (4, 2, 1):
        assert curves[size] == pytest.approx(curves[8], rel=1e-5)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_thirty_steps_equal_those_of_padded_batches(tmp_path: Path, architecture: str) -> None:
    """A plain loop: padded rows, a mask, transformers' own attention and loss, and all of a step's rows in one batch."""
    import torch

    rows, config = sequences(48), replace(CONFIG, lr=4e-3, epochs=5, micro_batch_tokens=64)
    model = tiny_model(architecture).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(config.beta1, config.beta2), weight_decay=0.0)
    plain = []
    for step in range(30):
        batch = [rows[i] for i in batch_at(step, len(rows), config, 3)]
        loss = padded_loss(model, batch) / sum(row.num_targets for row in batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.param_groups[0]["lr"] = learning_rate(step, 30, config)
        optimizer.step()
        optimizer.zero_grad()
        plain.append(float(loss.detach()))
    assert [row.loss for row in run(tmp_path, config, rows, architecture=architecture)[1]] == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, golden = run(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "killed", stop_at=stop_at)
    resumed, rest = run(tmp_path / "killed")
    assert len(rest) == len(golden) - stop_at
    assert equal_weights(whole, resumed)


def test_a_wish_to_end_is_heard_between_micro_batches_and_the_step_is_dropped_exactly(tmp_path: Path) -> None:
    """Asked in the second of many micro-batches of step 3: that one is finished, and the state is that of step 2."""
    import torch

    config = replace(CONFIG, micro_batch_tokens=40)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole, _ = run(tmp_path / "whole", config)
    model, stop, seen = tiny_model(), StopRequest(), []
    count = len(split_step([len(sequences()[i].ids) for i in batch_at(2, 44, config, 3)], 1, 40)[0])
    assert count > 3

    def note(*_: object) -> None:
        if (tmp_path / "stopped" / "resume" / "step-00000002").exists():
            seen.append(torch.is_grad_enabled())
            if len(seen) == 2:
                stop.ask()

    model.get_input_embeddings().register_forward_pre_hook(note)
    with pytest.raises(Requeue, match="saved at step 2 of 6"):
        train(
            model,
            sequences(),
            config,
            seed=3,
            folder=tmp_path / "stopped",
            save=lambda step: None,
            report=lambda row: None,
            stop=stop,
            progress=False,
        )
    assert len(seen) == 2
    resumed, rest = run(tmp_path / "stopped", config)
    assert [row.step for row in rest] == [3, 4, 5, 6]
    assert equal_weights(whole, resumed)


def test_learning_rate_warms_up_and_decays() -> None:
    config = replace(CONFIG, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(5e-4)
    assert rates[-1] < 1e-6
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
