"""What `gc` removes and what it leaves alone."""

import argparse
import json
import multiprocessing
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stores import CHECKPOINT, Made, age, interrupted, plan_cell, quiet_store, tree

from cft_lab.__main__ import main
from cft_lab.commands import gc
from cft_lab.locks import take
from cft_lab.store import CLAIMS, PRUNED, Store
from cft_lab.sweeps.plan import PlannedStage


def run(root: Path, *arguments: str) -> int:
    return main(["gc", "--store", str(root), *arguments])


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A finished cell in the store at tmp_path / "store"."""
    cell = plan_cell()
    quiet_store(tmp_path / "store")[0].ensure(cell.result)
    return cell


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_it_only_shows_without_a_yes(made: Made, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(root)
    assert run(root) == gc.NOTHING_REMOVED
    assert tree(root) == before
    told = capsys.readouterr().out
    assert f"{made.candidates.key}" in told
    assert "2.0 kB  candidates" in told, "the selected checkpoint is not freed: its selected stage has it too"
    assert "to have it again: train, which took" in told
    assert "Add --yes" in told


def test_unselected_checkpoints_go_and_the_result_needs_no_making(made: Made, root: Path) -> None:
    store, lines = quiet_store(root)
    assert run(root, "--yes") == 0
    assert (store.folder(made.candidates) / PRUNED).exists()
    assert not list(store.folder(made.candidates).glob("step-*"))
    assert (store.folder(made.candidates) / "metrics.jsonl").exists()
    assert (store.folder(made.selected) / "model" / "model.safetensors").read_bytes() == bytes([2]) * CHECKPOINT
    store.ensure(made.result)
    other = replace(made.generations, config={"temperature": 0.6})
    assert [stage.name for stage in store.unmade(other)] == ["generations"], "the selected model is whole"
    reselected = replace(made.selected, config={"mode": "last"})
    assert [stage.name for stage in store.unmade(reselected)] == ["candidates", "selected"]
    assert lines == []
    assert list(root.glob("removed/*")) == []
    assert not list(root.glob("[!c]*/*.lock"))
    assert run(root, "--yes") == 0


def test_weights_of_results_go_when_asked_and_what_was_measured_stays(made: Made, root: Path) -> None:
    store, lines = quiet_store(root)
    assert run(root, "--yes", "--weights") == 0
    assert not list(root.rglob("*.safetensors"))
    for stage in (made.scores, made.generations, made.result, made.examples):
        assert store.is_done(stage)
    assert (store.folder(made.selected) / "curve.json").exists()
    store.ensure(made.result)
    assert lines == []
    store.ensure(replace(made.generations, config={"temperature": 0.6}))
    assert [line.split()[1] for line in lines if line.split()[0] == "again"] == ["base_model", "candidates", "selected"]
    assert json.loads((store.folder(made.selected) / "manifest.json").read_text())["replaces"]["created"]


def test_the_hub_cache_is_left_alone(tmp_path: Path, root: Path, made: Made) -> None:
    snapshot = tmp_path / "hub" / "snapshot"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(bytes(10))
    model = quiet_store(root)[0].folder(made.base) / "model"
    for file in model.iterdir():
        file.unlink()
    model.rmdir()
    model.symlink_to(snapshot, target_is_directory=True)
    assert run(root, "--yes", "--weights") == 0
    assert model.is_symlink()
    assert (snapshot / "model.safetensors").exists()


def test_what_no_result_stands_on_goes(made: Made, root: Path) -> None:
    store, _ = quiet_store(root)
    other = plan_cell(seed=1)
    store.ensure(other.selected)
    assert run(root, "--yes") == 0
    assert not store.folder(other.candidates).exists()
    assert not store.folder(other.selected).exists()
    assert store.is_done(made.examples), "the finished cell stands on it"
    assert store.is_done(made.result)


@pytest.mark.parametrize("arguments", [["--yes"], ["--yes", "--weights", "--paid"]])
def test_what_an_unfinished_sweep_needs_stays_until_it_is_finished(made: Made, root: Path, arguments: list[str]) -> None:
    store, _ = quiet_store(root)
    other = plan_cell(seed=1)
    store.ensure(other.candidates)
    folder = root / "sweeps" / "20260101-000000-table2"
    folder.mkdir(parents=True)
    stages = [
        PlannedStage(stage.key, stage.name, "data", stage.label, tuple(above.key for above in stage.upstream.values()), 0)
        for cell in (made, other)
        for stage in cell.result.walk()
    ]
    (folder / "plan.json").write_text(json.dumps({"stages": [vars(stage) for stage in stages]}))
    interrupted(root, other.selected)
    age(root)
    assert run(root, *arguments) == 0
    assert len(list(store.folder(other.candidates).glob("step-*"))) == 3
    assert (root / "selected" / f"{other.selected.key}.partial").exists()
    assert store.is_done(other.examples)
    assert not list(store.folder(made.candidates).glob("step-*")), "that cell of the sweep is finished"
    store.ensure(other.result)
    assert run(root, *arguments) == 0
    assert not list(store.folder(other.candidates).glob("step-*"))


def test_old_partial_folders_and_superseded_ones_go(made: Made, root: Path) -> None:
    fresh, old = plan_cell(seed=1), plan_cell(seed=2)
    for cell in (fresh, old):
        interrupted(root, cell.candidates)
    age(root / "candidates" / f"{old.candidates.key}.partial")
    aside = root / "superseded" / "scores" / "0123456789abcdef-20260101-000000"
    aside.mkdir(parents=True)
    (aside / "score.json").write_text("{}")
    assert run(root, "--yes") == 0
    assert (root / "candidates" / f"{fresh.candidates.key}.partial").exists()
    assert not (root / "candidates" / f"{old.candidates.key}.partial").exists()
    assert not aside.exists()


def _hold(path: str, held: object) -> None:
    lock = take(Path(path))
    held.set()  # type: ignore[attr-defined]
    time.sleep(60)
    del lock


def test_what_a_living_process_holds_stays_and_goes_when_it_is_dead(made: Made, root: Path) -> None:
    stage = plan_cell(seed=1).candidates
    partial = interrupted(root, stage)
    age(partial)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(str(partial.with_suffix("")), held))
    holder.start()
    assert held.wait(30)
    assert run(root, "--yes") == 0
    assert partial.exists()
    assert partial.with_suffix(".lock").exists()
    holder.kill()
    holder.join()
    assert run(root, "--yes") == 0
    assert not partial.exists()
    assert not partial.with_suffix(".lock").exists()


def test_what_a_living_process_has_claimed_stays(made: Made, root: Path) -> None:
    store, _ = quiet_store(root)
    other = plan_cell(seed=1)
    store.ensure(other.examples)
    store.ensure(replace(other.base, config={"hidden_size": 16}))
    with store.claim(other.result):  # as while it is being made
        age(root / CLAIMS)
        assert run(root, "--yes") == 0
        assert store.is_done(other.examples)
        assert len(list(store.folder(made.candidates).glob("step-*"))) == 0
    assert not list((root / "base_model").glob("*/metrics.jsonl"))[1:], "the other base model was nobody's"


def test_the_claim_of_a_failed_process_counts_for_a_day(made: Made, root: Path) -> None:
    store, _ = quiet_store(root)
    other = plan_cell(seed=1)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    store.ensure(other.selected)
    with pytest.raises(RuntimeError):
        store.ensure(replace(other.generations, make=fail))
    assert run(root, "--yes") == 0
    assert store.is_done(other.selected)
    age(root / CLAIMS)
    assert run(root, "--yes") == 0
    assert not store.folder(other.selected).exists()
    assert list((root / CLAIMS).glob("*.json")) == []


def test_what_an_api_was_asked_for_stays_unless_it_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = quiet_store(root)
    asked = plan_cell(teacher="openai")
    folder = store.ensure(asked.critiques)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"counts": {"cost_usd": 12.5}}))
    begun = interrupted(root, plan_cell(teacher="openai", seed=3).candidates, {"responses.kind": "openai"})
    age(begun)
    assert run(root, "--yes") == 0
    assert store.is_done(asked.critiques)
    assert begun.exists()
    assert "made through an API at a cost of $12.50 (no recorded result stands on it)" in capsys.readouterr().out
    assert run(root, "--yes", "--paid") == 0
    assert not folder.exists()
    assert not begun.exists()


def test_an_empty_store_has_nothing_to_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    assert capsys.readouterr().out == "There is nothing to remove.\n"
    assert run(tmp_path / "nowhere") == 2


def test_a_store_that_cannot_be_read_is_left_alone(made: Made, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (quiet_store(root)[0].folder(made.scores) / "manifest.json").write_text("{")
    before = tree(root)
    assert run(root, "--yes") == 2
    assert tree(root) == before
    assert "cannot be read whole" in capsys.readouterr().err


def test_a_result_whose_selected_model_is_gone_keeps_its_checkpoints(made: Made, root: Path) -> None:
    store, _ = quiet_store(root)
    store.folder(made.selected).rename(root / "elsewhere")
    assert run(root, "--yes") == 0
    assert len(list(store.folder(made.candidates).glob("step-*"))) == 3


def test_what_begins_after_it_was_shown_is_not_removed(made: Made, root: Path) -> None:
    store, _ = quiet_store(root)
    other = plan_cell(seed=1)
    store.ensure(other.selected)
    shown = {path for waste in gc.find_waste(root, False, False).waste for path in waste.paths}
    assert store.folder(other.candidates) in shown
    options = argparse.Namespace(weights=False, paid=False)
    with store.claim(replace(other.selected, config={"mode": "last"})):
        assert gc._remove_all(root, options, shown) == []
        assert len(list(store.folder(other.candidates).glob("step-*"))) == 3
    gate = take(root / CLAIMS / "gc")
    assert gate is not None
    assert gc._remove_all(root, options, shown) == ["anything, because another gc is at work here"]
    gate.release()


def test_nothing_begins_while_it_removes(made: Made, root: Path) -> None:
    gate = take(root / CLAIMS / "gc")
    assert gate is not None
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_make_another, args=(str(root),))
    worker.start()
    time.sleep(3)
    assert not (root / "candidates" / plan_cell(seed=1).candidates.key).exists()
    gate.release()
    worker.join(30)
    assert worker.exitcode == 0
    assert Store(root).is_done(plan_cell(seed=1).candidates)


def _make_another(root: str) -> None:
    quiet_store(Path(root))[0].ensure(plan_cell(seed=1).candidates)


def test_a_deletion_that_was_cut_short_is_finished(made: Made, root: Path) -> None:
    left = root / "removed" / "0123456789abcdef" / "step-000001"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(5))
    assert run(root, "--yes") == 0
    assert list((root / "removed").iterdir()) == []


@pytest.mark.parametrize(("answer", "code"), [("n", gc.NOTHING_REMOVED), ("y", 0)])
def test_it_asks_at_a_terminal(made: Made, root: Path, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cft_lab", "gc", "--store", str(root)]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.write(ours, f"{answer}\n".encode())
        told = process.communicate(timeout=60)[0]
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code
    assert "Remove all this? [y/N]" in told
    assert bool(list((root / "candidates").glob("*/step-*"))) == (answer == "n")
