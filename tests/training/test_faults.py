"""What goes wrong in a training is said by name, and leaves what was reached."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG, equal_weights
from tiny import sequences, tiny_model

from cft_lab.config import OptimizationConfig
from cft_lab.training.batches import batch_at, pack
from cft_lab.training.encode import Encoded
from cft_lab.training.faults import TrainingError, explain_out_of_memory
from cft_lab.training.loop import train
from cft_lab.training.meters import StepMetrics

POISON = 7  # a token whose input embedding is no number


def fit(
    folder: Path,
    rows: list[Encoded],
    config: OptimizationConfig = CONFIG,
    spoil: Callable[[torch.nn.Module], object] = lambda model: None,
) -> tuple[torch.nn.Module, list[StepMetrics]]:
    model = tiny_model(tied=False)
    spoil(model)
    metrics: list[StepMetrics] = []
    train(model, rows, config, seed=3, folder=folder, save=lambda step: None, report=metrics.append, progress=False)
    return model, metrics


def poison(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = float("nan")  # type: ignore[operator]


def healthy_rows() -> list[Encoded]:
    return [Encoded(tuple(i if i != POISON else 8 for i in row.ids), row.start, f"p{n}") for n, row in enumerate(sequences(40))]


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training sequences"):
        fit(tmp_path, [])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Encoded(tuple(range(5, 75)), 3, "p9"), "training sequence 40 (example p9) has 70 tokens, more than max_length=64"),
        (Encoded((5, 6, 7), 3, "p9"), "training sequence 40 (example p9) has no target tokens"),
        (Encoded((5,), 0), "training sequence 40 has no target tokens"),
    ],
)
def test_unusable_sequences_are_refused_by_name(tmp_path: Path, bad: Encoded, said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, [*healthy_rows(), bad], replace(CONFIG, max_length=64))
    assert said in str(caught.value)


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_its_batch(tmp_path: Path) -> None:
    rows = healthy_rows()
    bad = batch_at(1, len(rows), CONFIG, 3)[2]  # in the second step
    rows[bad] = replace(rows[bad], ids=(POISON, *rows[bad].ids[1:]))
    with pytest.raises(TrainingError, match="optimizer step 2: loss nan, gradient norm nan; 1 such steps") as caught:
        fit(tmp_path, rows, spoil=poison)
    file = tmp_path / "nonfinite-step-000002.json"
    assert str(file) in str(caught.value)
    saved = json.loads(file.read_text())
    assert [row["sequence"] for row in saved["sequences"]] == batch_at(1, len(rows), CONFIG, 3)
    assert f"p{bad}" in [row["example"] for row in saved["sequences"]]


def test_bad_steps_are_skipped_until_there_are_too_many(tmp_path: Path) -> None:
    """Of five steps the second and the fourth are bad: their batches change nothing, the others count."""
    rows = healthy_rows()
    for step in (1, 3):
        bad = batch_at(step, len(rows), CONFIG, 3)[0]
        rows[bad] = replace(rows[bad], ids=(POISON, *rows[bad].ids[1:]))
    for name in ("three", "two"):
        (tmp_path / name).mkdir()
    model, metrics = fit(tmp_path / "three", rows, replace(CONFIG, max_nonfinite_steps=3), poison)
    assert [row.loss is None for row in metrics] == [False, True, False, True, False]
    assert [row.grad_norm is None for row in metrics] == [False, True, False, True, False]
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    assert bool(torch.isfinite(embedding[POISON + 1 :]).all())
    with pytest.raises(TrainingError, match="optimizer step 4: loss nan, gradient norm nan; 2 such steps"):
        fit(tmp_path / "two", rows, replace(CONFIG, max_nonfinite_steps=2), poison)


def test_a_bad_gradient_alone_skips_the_step_too(tmp_path: Path) -> None:
    """The loss is a number; a hook makes one gradient infinite, as an overflow in the backward pass would."""

    def spoil(model: torch.nn.Module) -> None:
        next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    fresh = {name: value.clone() for name, value in tiny_model(tied=False).state_dict().items()}
    config = replace(CONFIG, max_nonfinite_steps=99)
    model, metrics = fit(tmp_path, healthy_rows(), config, spoil)
    assert all(row.loss is not None and row.grad_norm is None for row in metrics)
    assert equal_weights(fresh, model.state_dict())
    assert len(list(tmp_path.glob("nonfinite-step-*.json"))) == len(metrics)


def test_steps_skipped_before_a_kill_are_counted_after_it(tmp_path: Path) -> None:
    rows = healthy_rows()
    for step in (1, 3):
        bad = batch_at(step, len(rows), CONFIG, 3)[0]
        rows[bad] = replace(rows[bad], ids=(POISON, *rows[bad].ids[1:]))
    config = replace(CONFIG, max_nonfinite_steps=2)

    def killed(row: StepMetrics) -> None:
        if row.step == 3:
            raise InterruptedError

    for report, error in ((killed, InterruptedError), (lambda row: None, TrainingError)):
        model = tiny_model(tied=False)
        poison(model)
        with pytest.raises(error):
            train(model, rows, config, seed=3, folder=tmp_path, save=lambda step: None, report=report, progress=False)


def test_out_of_memory_names_the_micro_batch_and_the_levers_left(tmp_path: Path) -> None:
    def full(model: torch.nn.Module) -> None:
        def forward(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        model.get_input_embeddings().register_forward_pre_hook(forward)  # type: ignore[operator]

    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, [Encoded(tuple(range(5, 45)), 10)] * 8, spoil=full)
    said = str(caught.value)
    assert "largest micro-batch has 320 tokens in 8 sequences (the longest 40), 240 of them supervised" in said
    assert "Tried to allocate 2.00 GiB" in said
    for lever in ("micro_batch_tokens=40", "loss_chunk_tokens=512", "activation_checkpointing=selective", "optimizer=adamw-8bit"):
        assert lever in said


def test_the_machines_own_memory_runs_out_in_the_same_words(tmp_path: Path) -> None:
    def full(model: torch.nn.Module) -> None:
        model.get_input_embeddings().register_forward_pre_hook(lambda *_: torch.empty(1 << 50) and None)  # type: ignore[operator]

    with pytest.raises(TrainingError, match="out of memory in an optimizer step") as caught:
        fit(tmp_path, [Encoded(tuple(range(5, 45)), 10)] * 8, spoil=full)
    assert "DefaultCPUAllocator" in str(caught.value)


def test_memory_that_runs_out_outside_of_a_step_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, in loading, in saving a candidate or a resume state: what is put in their way wants a petabyte."""
    from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

    def ravenous(*_: object, **__: object) -> None:
        torch.empty(1 << 50)

    def run(folder: str) -> str:
        with pytest.raises(TrainingError) as caught:
            train(tiny_model(), sequences(20), CONFIG, seed=1, folder=tmp_path / folder, save=saving, report=print, progress=False)
        said = str(caught.value)
        assert "what can still be changed: weights=bf16" in said
        assert "DefaultCPUAllocator" in said
        return said.splitlines()[0]

    def saving(step: int) -> None:
        if step == 3:
            ravenous()

    assert run("here") == "out of memory while the candidate of step 3 was saved"
    with monkeypatch.context() as patch:
        patch.setattr(state_dict_loader, "load", ravenous)
        assert run("here") == "out of memory while the resume state was loaded"
    with monkeypatch.context() as patch:
        patch.setattr(state_dict_saver, "save", ravenous)
        assert run("fresh") == "out of memory while the resume state of step 1 was saved"
    with monkeypatch.context() as patch:
        patch.setattr("cft_lab.training.loop.make_optimizer", ravenous)
        assert run("fresh") == "out of memory while the model was put on its device"


def test_levers_that_are_spent_are_not_offered() -> None:
    config = OptimizationConfig(
        micro_batch_tokens=40, loss_chunk_tokens=256, activation_checkpointing="full", optimizer="adamw-8bit", weights="bf16"
    )
    said = explain_out_of_memory(config, [pack([Encoded(tuple(range(40)), 10)])], "", estimate="estimated 70 GB of 80 GB")
    assert said.endswith("can still be changed: more GPUs (with optimizer=adamw-bf16), which share weights, gradients and moments")
    assert "estimated 70 GB of 80 GB" in said
    several = explain_out_of_memory(OptimizationConfig(), [pack([Encoded(tuple(range(40)), 10)])], "", ranks=2)
    assert "optimizer=adamw-bf16, with 8 instead of 16 bytes" in several
    assert "adamw-8bit" not in several
