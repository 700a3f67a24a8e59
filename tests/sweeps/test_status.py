"""The state of sweeps that run on this machine, and the commands that show, repair and end them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cells import AS_TYPED
from conftest import FreezeSweep
from filelock import FileLock

from cft_lab import pipeline
from cft_lab.__main__ import main
from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.json_files import read_json, write_json
from cft_lab.store import Stage, Store, Work
from cft_lab.sweeps import presence, repair, slurm_queue, stage_job
from cft_lab.sweeps.plan import PlannedStage
from cft_lab.sweeps.progress import Progress, progress_of
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.slurm_queue import QueueError
from cft_lab.sweeps.status import EXIT_BROKEN, EXIT_DONE, EXIT_UNDER_WAY, status_of
from cft_lab.sweeps.submitted import Submitted, note

LOCAL = ("cluster=local", "~cluster.options.licenses", "benchmarks.names=[lab-basic]", "train.selection.mode=last")


@pytest.fixture
def folder(freeze_sweep: FreezeSweep) -> RunFolder:
    """A frozen sweep of one cell, nothing made."""
    return freeze_sweep(*LOCAL)


def stage(folder: RunFolder, name: str) -> PlannedStage:
    return next(stage for stage in folder.plan.stages if stage.name == name)


def states(folder: RunFolder) -> dict[str, str]:
    return {one.stage.name: one.state for one in status_of(folder).stages.values()}


def store(folder: RunFolder) -> list[str]:
    return ["--store", str(folder.store_root)]


def test_a_sweep_that_nobody_runs_is_orphaned(folder: RunFolder) -> None:
    status = status_of(folder)
    assert status.exit_code == EXIT_BROKEN
    assert states(folder)["problems"] == "orphaned"
    assert states(folder)["responses"] == "blocked"
    assert status.counts() == {"orphaned": 2, "blocked": 8}  # problems and the base model stand on nothing


def test_a_sweep_that_a_process_runs_is_queued(folder: RunFolder) -> None:
    with presence.present(folder.path, "runs"):
        status = status_of(folder)
        assert status.counts() == {"queued": 10}
        assert status.exit_code == EXIT_UNDER_WAY
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* runs {folder.path.name}"):
            repair.retry(folder, print)
    assert presence.who(folder.path) is None


def test_done_failed_and_what_stands_on_it(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage_job.make(folder, stage(folder, "problems").key)
    stage_job.note_failure(folder, stage(folder, "responses").key, ConfigError("the disk is full"), folder.path / "logs" / "it.log")
    assert states(folder)["problems"] == "done"
    assert states(folder)["responses"] == "failed"
    assert states(folder)["critiques"] == "blocked"
    capsys.readouterr()
    assert main(["status", *store(folder)]) == EXIT_BROKEN
    told = capsys.readouterr().out
    assert "1 done, 1 failed" in told
    assert "the disk is full" in told
    assert f"log: {folder.path / 'logs' / 'it.log'}" in told
    assert f"python -m cft_lab retry {folder.path.name}" in told


def test_json_tells_everything(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    stage_job.make(folder, stage(folder, "problems").key)
    capsys.readouterr()
    assert main(["status", folder.path.name, *store(folder), "--json"]) == EXIT_BROKEN
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == EXIT_BROKEN
    assert told["counts"] == status_of(folder).counts()
    (cell,) = told["cells"]
    assert cell["state"] == "orphaned"
    assert cell["stages"] == [row["key"] for row in told["stages"]]
    assert {row["name"]: row["state"] for row in told["stages"]} == states(folder)


def test_a_held_lock_is_a_running_stage(folder: RunFolder) -> None:
    problems = stage(folder, "problems")
    place = folder.store_root / "problems"
    (place / f"{problems.key}.partial").mkdir(parents=True)
    assert states(folder)["problems"] == "orphaned"  # somebody began it and is gone
    with FileLock(place / f"{problems.key}.lock"):
        assert states(folder)["problems"] == "running"
    assert states(folder)["problems"] == "orphaned"


def test_a_stage_that_a_finished_one_stood_on_is_not_missed(folder: RunFolder, before_training: Path) -> None:
    shutil.copytree(before_training, folder.store_root, dirs_exist_ok=True)
    assert states(folder)["examples"] == "done"
    critiques = stage(folder, "critiques")
    (folder.store_root / "critiques" / critiques.key / "DONE").unlink()  # left its manifest: pruned, or imported without texts
    assert "critiques" not in states(folder)
    shutil.rmtree(folder.store_root / "critiques" / critiques.key)
    assert states(folder)["critiques"] == "orphaned"  # deleted behind our back: made again by retry


def test_retry_makes_what_is_missing_and_nothing_else(
    folder: RunFolder, before_training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(before_training, folder.store_root, dirs_exist_ok=True)
    stage_job.note_failure(folder, stage(folder, "candidates").key, RuntimeError("killed"))
    assert main(["retry", *store(folder)]) == EXIT_DONE
    told = capsys.readouterr().err
    made = [line.split()[1] for line in told.splitlines() if line.split()[:1] == ["make"]]
    assert made == ["candidates", "selected", "generations", "scores", "result"]
    assert not folder.failure(stage(folder, "candidates").key).exists()
    assert main(["status", *store(folder)]) == EXIT_DONE
    assert "10 done" in capsys.readouterr().out


def test_cancel_ends_the_process_that_runs_the_sweep(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom cft_lab.sweeps.presence import present\n"
        "with present(Path(sys.argv[1]), 'runs'):\n    print('there', flush=True)\n    time.sleep(60)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", holder, str(folder.path)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=AS_TYPED,
    )
    assert running.stdout is not None
    running.stdout.readline()
    assert status_of(folder).exit_code == EXIT_UNDER_WAY
    assert main(["cancel", *store(folder)]) == EXIT_DONE
    assert f"interrupted process {running.pid}" in capsys.readouterr().err
    assert running.wait(10) == -signal.SIGINT
    running.stdout.close()
    assert status_of(folder).exit_code == EXIT_BROKEN
    assert main(["cancel", *store(folder)]) == EXIT_DONE
    assert "nothing of it is under way" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "code", "said"), [("elsewhere", 2, "on elsewhere runs"), (None, 1, "did not end within 0 s")])
def test_a_process_that_cannot_be_ended_from_here_is_said_and_no_job_is_cancelled(
    folder: RunFolder,
    host: str | None,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    note(folder, [Submitted("7", "data", (stage(folder, "problems").key,), "7.log")])
    monkeypatch.setenv("PATH", str(tmp_path))  # without SLURM's commands: none is called
    monkeypatch.setattr(repair, "_END_S", 0.3)
    monkeypatch.setattr(repair.signal, "SIGINT", 0)  # deaf to it
    with presence.present(folder.path, "runs"):
        about = read_json(folder.path / "owner.json")
        write_json(folder.path / "owner.json", about | ({"host": host} if host else {}))
        assert main(["cancel", *store(folder)]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "retry", "cancel"])
def test_an_unknown_sweep_is_bad_input(command: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "no-such-sweep", *store(folder)]) == 2
    assert "no sweep whose name holds 'no-such-sweep'" in capsys.readouterr().err


def test_progress_of_a_training_and_of_rows(folder: RunFolder, before_training: Path) -> None:
    shutil.copytree(before_training, folder.store_root, dirs_exist_ok=True)
    training, examples = stage(folder, "candidates"), stage(folder, "examples")
    partial = folder.store_root / "candidates" / f"{training.key}.partial"
    partial.mkdir(parents=True)
    write_json(partial / "owner.json", {"config": {"train.global_batch_size": 8, "train.epochs": 2}})
    rows = [{"step": step, "loss": 1.0, "tokens": 500, "tokens_per_s": 100.0} for step in (1, 2)] + [{"step": 2, "candidate": 1}]
    (partial / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')  # being written
    assert progress_of(training, [examples], folder.store_root) == Progress(2, 6, "steps", 20.0)  # 24 examples; 4 steps of 5 s

    evaluation = stage(folder, "generations")
    partial = folder.store_root / "generations" / f"{evaluation.key}.partial"
    partial.mkdir(parents=True)
    write_json(partial / "owner.json", {"config": {"limit": 4, "inference": {"protocol": "direct", "samples": 3}}})
    (partial / "journal.jsonl").write_text("{}\n{}\n{")
    assert progress_of(evaluation, [], folder.store_root) == Progress(2, 12, "rows")
    assert str(Progress(2, None, "steps", 5400.0)) == "2 steps, 1.5 h to go"


def begun(folder: RunFolder, planned: PlannedStage, already: dict[str, int], config: dict[str, object]) -> Path:
    """The partial folder of a stage that was started (again) 100 seconds ago."""
    partial = folder.store_root / planned.name / f"{planned.key}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 100))
    write_json(partial / "owner.json", {"config": config, "since": since, "already": already})
    return partial


def test_time_to_go_is_judged_by_what_this_start_has_made(folder: RunFolder, before_training: Path) -> None:
    """Ten rows were there, ten more were made in 100 s: 70 more take 700 s."""
    shutil.copytree(before_training, folder.store_root, dirs_exist_ok=True)
    critiques, problems, evaluation, selected = (
        stage(folder, name) for name in ("critiques", "problems", "generations", "selected")
    )
    partial = begun(folder, critiques, {"journal.jsonl": 10}, {})
    (partial / "journal.jsonl").write_text("{}\n" * 20)
    progress = progress_of(critiques, [problems], folder.store_root)
    assert progress is not None
    assert (progress.done, progress.of) == (20, 90)
    assert progress.eta_s == pytest.approx(700, abs=20)
    begun(folder, critiques, {"journal.jsonl": 20}, {})
    progress = progress_of(critiques, [problems], folder.store_root)
    assert progress == Progress(20, 90, "rows"), "nothing made yet"

    two_stage = {"protocol": "two-stage", "samples": 1, "max_rounds": 4}
    partial = begun(folder, evaluation, {}, {"limit": 4, "inference": two_stage, "sampling": {"temperature": 0.0}})
    (partial / "journal.jsonl").write_text("{}\n" * 4)
    progress = progress_of(evaluation, [], folder.store_root)
    assert progress is not None
    assert (progress.done, progress.of) == (4, 8)  # a solution and a critique of each
    assert progress.eta_s == pytest.approx(100, abs=5)
    begun(folder, evaluation, {}, {"limit": 4, "inference": two_stage, "sampling": {"temperature": 0.5}})
    assert progress_of(evaluation, [], folder.store_root) == Progress(4, None, "rows")

    training = stage(folder, "candidates")
    for step in range(1, 5):
        (folder.store_root / "candidates" / training.key / f"step-{step}").mkdir(parents=True)
    partial = begun(folder, selected, {"step-1.jsonl": 3}, {})
    for step in (1, 2, 3):
        (partial / f"step-{step}.jsonl").touch()
    progress = progress_of(selected, [training], folder.store_root)
    assert progress is not None
    assert (progress.done, progress.of) == (2, 4)  # the third is being scored
    assert progress.eta_s == pytest.approx(100, abs=5)


def test_a_resumed_stage_notes_what_was_there(tmp_path: Path) -> None:
    told: list[dict[str, int]] = []

    def make(work: Work) -> dict[str, int]:
        told.append(read_json(work.folder / "owner.json")["already"])
        return {}

    resumed = Stage("problems", "resumed", {}, make)
    partial = tmp_path / "problems" / f"{resumed.key}.partial"
    partial.mkdir(parents=True)
    (partial / "journal.jsonl").write_text("{}\n{}\n")
    Store(tmp_path, lambda line: None).ensure(resumed)
    assert told == [{"journal.jsonl": 2}]


def test_pretraining_tells_its_tokens_to_go(folder: RunFolder) -> None:
    base = stage(folder, "base_model")
    config: dict[str, object] = {"model.lab.pretrain.tokens": 20_000, "model.lab.pretrain.optimization.epochs": 2}
    assert config.keys() <= pipeline.plan(folder.plan.configs[0]).trained.upstream["base"].config.keys()  # type: ignore[union-attr]
    partial = begun(folder, base, {}, config)
    rows = [{"step": step, "loss": 1.0, "tokens": 500, "tokens_per_s": 100.0} for step in (1, 2)]
    (partial / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert progress_of(base, [], folder.store_root) == Progress(1000, 40_000, "tokens", 390.0)


def test_a_queue_that_does_not_answer_is_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note(folder, [Submitted("7", "data", (stage(folder, "problems").key,), "7.log")])
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_queue, "PAUSE_S", 0.01)
    with pytest.raises(QueueError, match="Unable to contact"):
        status_of(folder)
    assert main(["status", *store(folder)]) == 1
    assert "Stopped: squeue: " in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(QueueError, match="squeue is not on this machine"):
        status_of(folder)


def test_only_the_holder_of_a_lock_counts_as_present(folder: RunFolder) -> None:
    holder = "import sys\nfrom pathlib import Path\nfrom cft_lab.sweeps.presence import present\nimport time\n"
    code = holder + "with present(Path(sys.argv[1]), 'runs'):\n    print('there', flush=True)\n    time.sleep(60)"
    running = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], cwd=PROJECT_ROOT, stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    about = presence.who(folder.path)
    assert about is not None
    assert about["pid"] == running.pid
    running.kill()
    running.wait()
    running.stdout.close()
    time.sleep(0.01)
    assert presence.who(folder.path) is None
