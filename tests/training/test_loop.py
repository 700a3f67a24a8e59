"""The loop's exactness: batch shapes do not matter, kills do not matter, padding does not matter."""

import itertools
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cft_lab.config import OptimizationConfig
from cft_lab.training.encode import IGNORED, Encoded
from cft_lab.training.loop import StepMetrics, TrainingError, batch_at, learning_rate, resume_step, summed_loss, total_steps, train

CONFIG = OptimizationConfig(
    lr=1e-3, global_batch_size=8, micro_batch_tokens=1024, save_every_steps=3, resume_every_steps=1, cpu_threads=1
)


def sequences(count: int = 44) -> list[Encoded]:
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        length = rng.randint(5, 40)
        rows.append(Encoded(tuple(rng.randrange(5, 300) for _ in range(length)), rng.randint(0, length - 2)))
    return rows


def tiny_model():  # type: ignore[no-untyped-def]
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def run(  # type: ignore[no-untyped-def]
    folder: Path,
    config: OptimizationConfig = CONFIG,
    rows: list[Encoded] | None = None,
    stop_at: int | None = None,
    announce: bool = False,
):
    """Trains a fresh tiny model; `stop_at` raises after that step, as a crash would. Returns (weights, metrics)."""
    model = tiny_model()
    metrics: list[StepMetrics] = []

    def report(row: StepMetrics) -> None:
        if stop_at is not None and row.step > stop_at:
            raise InterruptedError
        metrics.append(row)
        if announce:
            print(f"step {row.step}", flush=True)

    options = {"seed": 3, "folder": folder, "pad_id": 0, "progress": False}
    train(model, rows or sequences(), config, save=lambda step: None, report=report, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}, metrics


def equal_weights(a, b) -> bool:  # type: ignore[no-untyped-def]
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_batch_of_eight_equals_micro_batches(tmp_path: Path) -> None:
    golden = [m.loss for m in run(tmp_path)[1]]
    assert len(golden) == 6
    for size in (4, 3, 1):
        (tmp_path / str(size)).mkdir()
        other = [m.loss for m in run(tmp_path / str(size), replace(CONFIG, micro_batch_tokens=128 * size))[1]]
        assert other == pytest.approx(golden, rel=1e-5)
    assert golden[-1] < golden[0]


def test_the_loss_is_the_plain_cross_entropy_of_targets(tmp_path: Path) -> None:
    import torch

    model = tiny_model()
    row = sequences(1)[0]
    ids = torch.tensor([row.ids])
    labels = torch.full_like(ids, IGNORED)
    labels[0, row.start :] = ids[0, row.start :]
    logits = model(ids).logits[0, :-1].log_softmax(-1).detach()
    expected = -sum(float(logits[t - 1, row.ids[t]]) for t in range(max(row.start, 1), len(row.ids)))
    assert float(summed_loss(model, ids, labels).detach()) == pytest.approx(expected, rel=1e-5)


def test_padding_changes_nothing(tmp_path: Path) -> None:
    from cft_lab.training.encode import collate

    model = tiny_model()
    rows = sequences(6)
    together = float(summed_loss(model, *collate(rows, 0)).detach())
    apart = sum(float(summed_loss(model, *collate([row], 0)).detach()) for row in rows)
    assert together == pytest.approx(apart, rel=1e-5)
    other_pad = float(summed_loss(model, *collate(rows, 17)).detach())
    assert together == pytest.approx(other_pad, rel=1e-6)


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


@pytest.mark.slow
def test_kill_9_at_any_moment_then_resume_gives_the_same_bits(tmp_path: Path) -> None:
    """A child process trains and is killed four times, a random moment after a random step."""
    script = textwrap.dedent(
        """
        import sys
        from dataclasses import replace
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        import test_loop
        from safetensors.torch import save_file
        folder = Path(sys.argv[1])
        weights, _ = test_loop.run(folder, replace(test_loop.CONFIG, epochs=60), announce=True)
        save_file(weights, folder / "final.safetensors")
        """
    )
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    golden, _ = run(whole, replace(CONFIG, epochs=60))
    rng = random.Random(1)
    command = [sys.executable, "-c", script, str(folder), str(Path(__file__).parent)]
    resumed_from = [0]
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            steps = 0
            wanted = rng.randint(10, 60)
            while steps < wanted and child.stdout.readline():
                steps += 1
            time.sleep(rng.uniform(0.0, 0.02))
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL, "it must die in the middle of training"
        resumed_from.append(resume_step(folder))
    assert sorted(set(resumed_from)) == resumed_from, "every attempt must get further"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    from safetensors.torch import load_file

    final = load_file(folder / "final.safetensors")
    assert equal_weights({name: golden[name] for name in final}, final)


def test_every_sequence_is_seen_once_an_epoch_in_another_order() -> None:
    config = replace(CONFIG, epochs=2)
    steps = total_steps(44, config)
    assert steps == 12
    epochs = [[i for step in range(e * 6, e * 6 + 6) for i in batch_at(step, 44, config, 3)] for e in (0, 1)]
    assert all(sorted(epoch) == list(range(44)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert batch_at(0, 44, config, 3) != batch_at(0, 44, config, 4)


def test_learning_rate_warms_up_and_decays() -> None:
    config = replace(CONFIG, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(5e-4)
    assert rates[-1] < 1e-6
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training sequences"):
        train(tiny_model(), [], CONFIG, seed=0, folder=tmp_path, pad_id=0, save=lambda s: None, report=lambda m: None)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    import torch

    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")
    with pytest.raises(TrainingError, match="optimizer step 1: loss nan"):
        train(model, sequences(), CONFIG, seed=0, folder=tmp_path, pad_id=0, save=lambda s: None, report=lambda m: None)
