"""Resume states: what is restored, what is refused, and what a full disk leaves behind."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import small_disk
from tiny import tiny_model
from tiny_training import finished, torchrun, trained_optimizer

from cft_lab.training.faults import TrainingError
from cft_lab.training.ranks import one_rank
from cft_lab.training.resume import discard_resume, load_resume, resume_step, save_resume


def saved(folder: Path, *steps: int) -> tuple[Any, Any]:
    model = tiny_model()
    optimizer = trained_optimizer(model)
    for step in steps:
        save_resume(folder, model, optimizer, one_rank(), step)
    return model, optimizer


def loaded(folder: Path) -> tuple[Any, Any, int, list[str]]:
    model = tiny_model()
    optimizer = trained_optimizer(model, 0)
    said: list[str] = []
    step = load_resume(folder, model, optimizer, one_rank(), 7, said.append)
    return model, optimizer, step, said


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "resume").iterdir())


def test_a_state_restores_weights_moments_and_random_numbers(tmp_path: Path) -> None:
    import numpy as np
    import torch

    for draw in (random.random, np.random.rand, lambda: torch.randn(1)):
        draw()
    model, optimizer = saved(tmp_path, 3)
    drawn = (random.random(), np.random.rand(), float(torch.randn(1)), float(torch.randn(1)))
    again, fresh, step, said = loaded(tmp_path)
    assert (random.random(), np.random.rand(), float(torch.randn(1)), float(torch.randn(1))) == drawn
    assert (step, said) == (3, [])
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert optimizer.state[a].keys() == fresh.state[b].keys()
        assert all(torch.equal(optimizer.state[a][name], fresh.state[b][name]) for name in optimizer.state[a])


def test_a_state_before_the_first_update_makes_no_moments(tmp_path: Path) -> None:
    """Every step so far was skipped: saving must not count as an update, in the run that goes on or in the one that resumes."""
    model = tiny_model()
    optimizer = trained_optimizer(model, 0)
    save_resume(tmp_path, model, optimizer, one_rank(), 1)
    assert not optimizer.state
    _, fresh, step, _ = loaded(tmp_path)
    assert step == 1
    assert not fresh.state


def test_without_a_state_training_starts_from_the_beginning(tmp_path: Path) -> None:
    assert resume_step(tmp_path) == 0
    (tmp_path / "resume" / "step-00000001.tmp").mkdir(parents=True)  # killed in the middle of the first save
    assert resume_step(tmp_path) == 0
    assert loaded(tmp_path)[2] == 0
    assert states(tmp_path) == []


def test_the_last_two_are_kept_and_discarded_in_the_end(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 10)
    assert states(tmp_path) == ["step-00000002", "step-00000010"]
    assert resume_step(tmp_path) == 10
    discard_resume(tmp_path)
    assert resume_step(tmp_path) == 0


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("__0_0.distcp", Path.unlink, "__0_0.distcp is missing"),
        ("__0_0.distcp", truncate, "__0_0.distcp has "),
        (".metadata", truncate, ".metadata has "),
        ("rng-0.json", Path.unlink, "rng-0.json is missing"),
        ("index.json", Path.unlink, "index.json is missing"),
        ("index.json", truncate, "index.json cannot be read"),
    ],
)
def test_a_damaged_state_is_named_and_the_older_one_taken(tmp_path: Path, name: str, spoil: Any, told: str) -> None:
    saved(tmp_path, 4, 5)
    spoil(tmp_path / "resume" / "step-00000005" / name)
    assert resume_step(tmp_path) == 4
    _, _, step, said = loaded(tmp_path)
    assert step == 4
    assert len(said) == 1
    assert f"step-00000005 is not whole: {told}" in said[0]
    assert said[0].endswith("training goes on from the state of step 4")
    assert states(tmp_path) == ["step-00000004"], "a damaged state must not count among the two that are kept"


def test_no_whole_state_is_an_error_that_names_the_files_and_the_remedy(tmp_path: Path) -> None:
    saved(tmp_path, 4, 5)
    for step in (4, 5):
        (tmp_path / "resume" / f"step-0000000{step}" / "__0_0.distcp").unlink()
    for ask in (resume_step, loaded):
        with pytest.raises(TrainingError, match="No whole state is left") as error:
            ask(tmp_path)
        for part in ("step-00000004", "step-00000005", "__0_0.distcp is missing", f"delete {tmp_path / 'resume'}"):
            assert part in str(error.value)
    assert states(tmp_path) == ["step-00000004", "step-00000005"], "nothing is deleted that somebody might mend"


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    other = tiny_model(tied=False)
    with pytest.raises(TrainingError, match="saved by 1 processes, could not be loaded by 1"):
        load_resume(tmp_path, other, trained_optimizer(other, 0), one_rank(), 7, lambda line: None)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.mark.parametrize("room_kb", [0, 4, 60, 300, 560])
def test_a_full_disk_leaves_the_previous_state_whole(disk: Path, room_kb: int) -> None:
    model, optimizer = saved(disk, 1)
    before = {file.name: file.read_bytes() for file in (disk / "resume" / "step-00000001").iterdir()}
    needed = sum(map(len, before.values()))
    (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - room_kb * 1024))
    with pytest.raises(TrainingError, match="the disk is full") as error:
        save_resume(disk, model, optimizer, one_rank(), 2)
    assert "the state of step 1 stays" in str(error.value)
    assert f"It needs {needed / 1e6:.2f} MB, and {room_kb * 1024 / 1e6:.2f} MB are free" in str(error.value)
    assert states(disk) == ["step-00000001"]
    assert {file.name: file.read_bytes() for file in (disk / "resume" / "step-00000001").iterdir()} == before
    (disk / "filler").unlink()
    assert loaded(disk)[2] == 1
    save_resume(disk, model, optimizer, one_rank(), 2)
    assert resume_step(disk) == 2


def test_a_state_of_two_processes_goes_on_in_one_and_the_other_way_round(tmp_path: Path) -> None:
    import torch

    model, optimizer = saved(tmp_path / "one", 3)
    finished(torchrun("reshard.py", tmp_path / "one", tmp_path / "two"))
    again, fresh, step, said = loaded(tmp_path / "two")
    assert step == 4
    assert said == [
        "the resume state of step 4 was saved by 2 processes and goes on in 1: their random numbers are drawn anew from the seed"
    ]
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["exp_avg_sq"], fresh.state[b]["exp_avg_sq"])
        assert optimizer.state[a]["step"] == fresh.state[b]["step"]
    index = json.loads((tmp_path / "two" / "resume" / "step-00000004" / "index.json").read_text())
    assert {"__0_0.distcp", "__1_0.distcp", "rng-0.json", "rng-1.json"} <= index["sizes"].keys()
