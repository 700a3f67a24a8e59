"""Kills at any moment, dead ranks, schedulers' signals: the training goes on, to the same losses."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from cells import small_disk
from tiny_training import losses, make_base, make_job, rank_pids, start, wait_for

from cft_lab.training.candidates import candidate_folder
from cft_lab.training.job import TrainingJob
from cft_lab.training.launch import run_job
from cft_lab.training.resume import resume_step

STEPS = 18
pytestmark = pytest.mark.slow  # real processes, started again and again


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def run_here(job: TrainingJob) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        run_job(job, report=lambda row: None, say=lambda line: None, progress=False)


@pytest.fixture(scope="module")
def golden(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a whole training in one process."""
    job = make_job(base, tmp_path_factory.mktemp("golden"))
    run_here(job)
    return losses(job.folder)


def weights(folder: Path) -> bytes:
    """The very bytes of the last candidate."""
    return (folder / "model.safetensors").read_bytes()


def test_kill_9_at_20_random_moments_ends_with_the_same_bits(base: Path, tmp_path: Path) -> None:
    """A run of 60 steps that saves a state after each and a candidate after every second, so that many kills hit a save.

    One process trains in one go. The other is killed within four steps' time of its first step, again and again.
    """
    long = {"epochs": 10, "resume_every_steps": 1, "save_every_steps": 2}
    whole, killed = make_job(base, tmp_path / "whole", **long), make_job(base, tmp_path / "killed", **long)
    with start(whole) as parent:
        assert parent.stdout is not None
        told = [time.monotonic() for _ in parent.stdout]
        assert parent.wait() == 0
    assert len(losses(whole.folder)) == 60
    step_s = (told[-1] - told[0]) / 59
    rng = random.Random(5)
    reached, in_save = [0], 0
    while len(reached) <= 20:
        with start(killed) as parent:
            assert parent.stdout is not None
            assert "row" in parent.stdout.readline(), "it must be killed before it is through"
            time.sleep(rng.uniform(0.0, 4 * step_s))
            parent.kill()
            assert parent.wait() == -signal.SIGKILL
        in_save += any((killed.folder / "resume").glob("*.tmp")) or any(killed.folder.glob(".step-*.tmp"))
        reached.append(resume_step(killed.folder))
    print(f"{in_save} of 20 kills hit a save; the last one left step {reached[-1]} of 60")
    assert reached == sorted(reached)
    assert 0 < reached[-1] < 60, "the last kill was in the middle of the training"
    assert in_save >= 1, "some kills must hit a save"
    with start(killed) as parent:
        _, errors = parent.communicate(timeout=100)
    assert parent.returncode == 0, errors[-3000:]
    assert losses(killed.folder) == losses(whole.folder)
    assert weights(candidate_folder(killed.folder, 60)) == weights(candidate_folder(whole.folder, 60))


def said(out: str, what: str) -> list[Any]:
    return [row[what] for row in map(json.loads, out.splitlines()) if what in row]


def restarts(out: str) -> list[str]:
    """The restarts that a training said it made by itself."""
    return re.findall(r"restarts by itself \((restart \d+)\)", "\n".join(said(out, "said")))


def steps_done(job: TrainingJob, number: int) -> Any:
    """Waits until a training has done so many steps."""
    file = job.folder / "metrics.jsonl"
    wait_for(lambda: file.exists() and file.read_text().count('"loss"') >= number)


def test_a_rank_that_is_killed_is_replaced_and_training_goes_on(base: Path, golden: list[float], tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "run", processes=2, epochs=3)
    with start(job) as parent:
        steps_done(job, 7)
        ranks = rank_pids(job.folder)
        os.kill(ranks[1], signal.SIGKILL)
        out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, (out + errors)[-3000:]
    assert restarts(out) == ["restart 1"], "the first must do: no start may meet what is left of an earlier one"
    assert losses(job.folder) == pytest.approx(golden, rel=1e-5)
    assert [row["step"] for row in said(out, "row") if "loss" in row] == list(range(1, STEPS + 1)), "each row is reported once"


def test_a_rank_that_is_killed_during_a_save_is_replaced_and_no_disk_is_blamed(
    base: Path, golden: list[float], tmp_path: Path
) -> None:
    job = make_job(base, tmp_path / "run", processes=2, resume_every_steps=1)
    with start(job) as parent:
        steps_done(job, 6)
        ranks = rank_pids(job.folder)
        wait_for(lambda: any((job.folder / "resume").glob("*.tmp")))
        os.kill(ranks[1], signal.SIGKILL)
        out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, (out + errors)[-3000:]
    assert restarts(out) == ["restart 1"]
    assert losses(job.folder) == pytest.approx(golden, rel=1e-5)


def test_a_node_that_is_lost_ends_the_training_and_the_next_start_resumes(base: Path, golden: list[float], tmp_path: Path) -> None:
    """Launcher and process of one of two nodes are killed as soon as a state is whole."""
    job = make_job(base, tmp_path / "run", processes=1, nodes=2)
    with start(job, "nodes") as parent:
        wait_for(lambda: any((job.folder / "resume").glob("step-*[0-9]")))
        rank = rank_pids(job.folder)[1]
        lost = time.monotonic()
        for pid in (parent_of(rank), rank):
            os.kill(pid, signal.SIGKILL)
        out, errors = parent.communicate(timeout=120)
    assert time.monotonic() - lost < 60
    assert parent.returncode == 1, (out + errors)[-3000:]
    (error,) = said(out, "error")
    assert "was ended by SIGKILL, and the training with it: run the same command again to go on from step" in error
    assert not rank_pids(job.folder)
    with start(job, "nodes") as parent:
        out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, (out + errors)[-3000:]
    assert losses(job.folder) == pytest.approx(golden, rel=1e-5)


def parent_of(pid: int) -> int:
    """The process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_disk_that_is_full_is_said_with_two_processes_too_and_nothing_is_tried_again(base: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        job = make_job(base, disk / "run", processes=2, resume_every_steps=2, epochs=1000, save_every_steps=1_000_000)
        with start(job) as parent:
            wait_for(lambda: any((job.folder / "resume").glob("step-*4")))
            (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 300_000))  # room for metrics, not for a state
            out, errors = parent.communicate(timeout=120)
        assert parent.returncode == 1, (out + errors)[-3000:]
        (error,) = said(out, "error")
        assert "the disk is full" in error
        assert not any("restart" in line for line in said(out, "said"))
        assert resume_step(job.folder) >= 4


def test_when_restarts_are_used_up_the_dead_rank_is_named_and_the_next_start_resumes(
    base: Path, golden: list[float], tmp_path: Path
) -> None:
    job = make_job(base, tmp_path / "run", processes=2, max_restarts=0)
    with start(job) as parent:
        steps_done(job, 7)
        ranks = rank_pids(job.folder)
        killed = time.monotonic()
        os.kill(ranks[1], signal.SIGKILL)
        out, _ = parent.communicate(timeout=120)
    assert time.monotonic() - killed < 60, "the others must be taken down within a minute"
    assert parent.returncode == 1
    (error,) = said(out, "error")
    assert "training process 1 was ended by SIGKILL" in error
    assert f"go on from step {resume_step(job.folder)}" in error
    assert resume_step(job.folder) >= 6
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    with start(job) as parent:
        parent.communicate(timeout=120)
    assert parent.returncode == 0
    assert losses(job.folder) == pytest.approx(golden, rel=1e-5)


def test_a_rank_that_fails_is_quoted(base: Path, tmp_path: Path) -> None:
    """Metrics cannot be written: an error nobody foresaw, in the first process."""
    job = make_job(base, tmp_path / "run", processes=2, max_restarts=0)
    (job.folder / "metrics.tmp").mkdir()  # where the first process writes the file anew
    with start(job) as parent:
        out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 1, errors
    (error,) = said(out, "error")
    assert "training process 0 ended with exit code 1" in error
    assert "IsADirectoryError" in error


@pytest.mark.parametrize(
    ("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGUSR2, 1), (signal.SIGTERM, 2), (signal.SIGUSR2, 2)]
)
def test_a_schedulers_signal_saves_and_asks_to_be_started_again(
    base: Path, golden: list[float], tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    """With two processes the whole tree gets the signal, as schedulers do it, and the parent hands it on besides."""
    job = make_job(base, tmp_path / "run", processes=processes, resume_every_steps=1000)
    with start(job) as parent:
        steps_done(job, 5)
        for pid in [parent.pid, *children(parent.pid), *rank_pids(job.folder).values()]:
            os.kill(pid, number)
        out, errors = parent.communicate(timeout=60)
    assert parent.returncode == 75, (out + errors)[-3000:]
    done = resume_step(job.folder)
    assert 5 <= done < STEPS
    assert f"saved at step {done} of {STEPS}" in said(out, "said")[-1]
    assert len(losses(job.folder)) == done
    assert not rank_pids(job.folder)
    with start(job) as parent:
        parent.communicate(timeout=120)
    assert parent.returncode == 0
    assert losses(job.folder) == (golden if processes == 1 else pytest.approx(golden, rel=1e-5))


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ranks_end_with_their_parent(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "run", processes=2, epochs=1000, max_restarts=1)
    with start(job) as parent:
        steps_done(job, 2)
        launchers, ranks = children(parent.pid), rank_pids(job.folder)
        assert len(ranks) == 2
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(alive(pid) for pid in ranks.values()), timeout_s=5)
        wait_for(lambda: not any(alive(pid) for pid in launchers) and not rank_pids(job.folder), timeout_s=90)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
