"""Candidates that the disk cannot hold all at once: scored as they appear, the best kept, and the same one evaluated."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cft_lab import pipeline, stages
from cft_lab.config import Config, DataError
from cft_lab.json_files import read_json
from cft_lab.records import Result
from cft_lab.store import Store

Compose = Callable[..., Config]
EVERY = "train.save_every_steps=1"


def run(config: Config) -> Result:
    return pipeline.run(config, lambda line: None)


def weights(store: Path, result: Result) -> bytes:
    return (store / "selected" / result.keys["selected"] / "model" / "model.safetensors").read_bytes()


def test_bounded_candidates_are_scored_as_they_appear_and_the_same_one_is_taken(cell: Compose, shared_store: Path) -> None:
    """Six candidates, of which two may be on the disk: same curve, same choice, same weights as with all six kept."""
    live = ("method=cft", EVERY, "train.epochs=3")
    whole, bounded = run(cell(*live)), run(cell(*live, "train.keep_candidates=2"))
    curves = [read_json(shared_store / "selected" / result.keys["selected"] / "curve.json") for result in (whole, bounded)]
    assert len(curves[0]) > 4
    assert curves[0] == curves[1]
    assert weights(shared_store, whole) == weights(shared_store, bounded)
    held = [path for path in (shared_store / "candidates" / bounded.keys["candidates"]).glob("step-*") if path.is_dir()]
    assert len(held) == 2
    assert not list((shared_store / "candidates" / bounded.keys["candidates"]).glob("resume*"))


def test_the_last_candidates_are_kept_where_none_is_scored(cell: Compose, shared_store: Path) -> None:
    result = run(cell("method=cft", EVERY, "train.epochs=3", "train.keep_candidates=2", "train.selection.mode=last"))
    counts = read_json(shared_store / "candidates" / result.keys["candidates"] / "manifest.json")["counts"]
    held = sorted(path.name for path in (shared_store / "candidates" / result.keys["candidates"]).glob("step-*") if path.is_dir())
    assert held == [f"step-{counts['steps'] - 1:06d}", f"step-{counts['steps']:06d}"]


def test_without_selection_only_the_end_is_saved_and_it_is_the_last_candidate(cell: Compose, shared_store: Path) -> None:
    none = run(cell("method=cft", EVERY, "train.selection.mode=none"))
    last = run(cell("method=cft", EVERY, "train.selection.mode=last"))
    assert len([path for path in (shared_store / "candidates" / none.keys["candidates"]).glob("step-*") if path.is_dir()]) == 1
    assert weights(shared_store, none) == weights(shared_store, last)


def test_a_training_in_turns_that_was_interrupted_ends_as_if_it_had_not_been(
    cell: Compose, shared_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the second turn's training, before its candidates were scored."""
    from cft_lab.stages import training

    live = ("method=cft", EVERY, "train.epochs=3", "train.keep_candidates=2", "seed=3")
    real, turns = training.run_job, []

    def third_fails(*args: object, **kwargs: object) -> dict[str, object]:
        turns.append(1)
        if len(turns) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "run_job", third_fails)
    with pytest.raises(KeyboardInterrupt):
        run(cell(*live))
    monkeypatch.undo()
    resumed = run(cell(*live))
    undisturbed = run(cell("method=cft", EVERY, "train.epochs=3", "seed=3"))
    curves = [read_json(shared_store / "selected" / result.keys["selected"] / "curve.json") for result in (resumed, undisturbed)]
    assert curves[0] == curves[1]
    assert weights(shared_store, resumed) == weights(shared_store, undisturbed)


def test_a_candidate_that_is_not_whole_is_not_selected(cell: Compose, tmp_path: Path) -> None:
    config = cell("method=cft", "train.selection.mode=last", f"output_root={tmp_path}")
    store = Store(tmp_path, lambda line: None)
    trained = pipeline.plan(config).trained
    assert trained is not None
    folder = store.ensure(trained)
    weights = max(folder.glob("step-*")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"step-\d+: model.safetensors has "):
        store.ensure(stages.selected(config, trained))
