"""Offline segments and W&B's own client, against a stand-in of its server on loopback; no test reaches a real one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb_server
from stores import age

from cft_lab.__main__ import main
from cft_lab.commands.sync import end_of_records, pending
from cft_lab.config import TrackingConfig
from cft_lab.locks import take
from cft_lab.tracking import TRACKING, Tracker

FIRST, SECOND = "a" * 16, "b" * 16  # ids of two runs
STEPS = 1500  # enough that a killed process leaves whole blocks behind

_KILLED = f"""
import os, signal, sys
from cft_lab.config import TrackingConfig
from cft_lab.tracking import Tracker
from pathlib import Path
with Tracker(TrackingConfig(kind="wandb"), Path(sys.argv[1])).train_run({FIRST!r}, {{"lr": 1}}) as log:
    for step in range({STEPS}):
        log({{"step": step, "loss": step / 3}})
    print("logged", flush=True)
    sys.stdin.read()
"""


def segment_files(root: Path) -> list[Path]:
    return sorted(root.glob(f"{TRACKING}/wandb/offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of two segments, the first of a process that was killed, and a run of one; and an empty segment."""
    root = tmp_path_factory.mktemp("store")
    command = [sys.executable, "-c", _KILLED, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as killed:  # type: ignore[call-overload]
        killed.stdout.readline()
        while sum(file.stat().st_size for file in segment_files(root)) < 6 * 32768:
            time.sleep(0.1)
        os.killpg(killed.pid, signal.SIGKILL)
    write = "with Tracker(TrackingConfig(kind='wandb'), Path(sys.argv[1])).train_run(sys.argv[2], {}) as log:\n"
    rest = "    for step in range(int(sys.argv[3])):\n        log({'step': step, 'loss': step / 3})\n"
    script = _KILLED.split("with")[0] + write + rest
    for run, steps in ((FIRST, STEPS + 20), (SECOND, 3)):
        time.sleep(1.1)  # a segment is named by the second of its start
        subprocess.run([sys.executable, "-c", script, str(root), run, str(steps)], check=True)
    pending(root)  # waits until wandb has written everything
    torn = segment_files(root)[0]
    os.truncate(torn, 5 * 32768 + 3)  # as a machine that dies leaves it: within the head of a record, which takes 7 bytes
    empty = root / TRACKING / "wandb" / f"offline-run-20200101_000000-{FIRST}"
    empty.mkdir()
    (empty / f"run-{FIRST}.wandb").write_bytes(segment_files(root)[-1].read_bytes()[:7])
    age(root)
    return root


@pytest.fixture
def root(segments: Path, tmp_path: Path) -> Path:
    return shutil.copytree(segments, tmp_path / "store", symlinks=True)


Serve = Callable[..., Path]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts the server, which refuses one run if told so, and names it to wandb; returns its log."""
    started: list[subprocess.Popen[str]] = []

    def start(refused: str = "") -> Path:
        log = tmp_path / f"log{len(started)}"
        log.touch()
        command = [sys.executable, str(Path(wandb_server.__file__)), str(log), refused]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.stdout.readline().strip()}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        return log

    yield start
    for server in started:
        server.kill()
        server.communicate()


def sync(root: Path, *arguments: str) -> int:
    return main(["sync", "--store", str(root), *arguments])


def histories(log: Path) -> list[tuple[str, int, int]]:
    """(run, first step, last step) of what the server got, upload by upload."""
    found: list[tuple[str, int, int]] = []
    for row in map(json.loads, log.read_text().splitlines()):
        if "steps" in row and row["offset"] == 0:
            found.append((row["run"], row["steps"][0], row["steps"][-1]))
        elif "steps" in row:
            found[-1] = (row["run"], found[-1][1], row["steps"][-1])
    return found


def test_segments_are_found_in_the_order_of_their_starts(root: Path) -> None:
    found = pending(root)
    assert list(found) == [FIRST, SECOND]
    assert [segment.start for segment in found[FIRST]] == sorted(segment.start for segment in found[FIRST])
    assert len(found[FIRST]) == 2, "the empty one holds nothing"
    listed = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", "-v", str(root / TRACKING / "wandb")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"WANDB_SILENT": "false"},
    )
    unsent = {line.split()[-1] for line in (listed.stdout + listed.stderr).splitlines() if line.endswith(".wandb")}
    ours = {segment.file.parent.name for segments in found.values() for segment in segments}
    assert {Path(path).parent.resolve().name for path in unsent} - ours == {f"offline-run-20200101_000000-{FIRST}"}


def test_the_end_of_the_last_whole_record_is_found(root: Path) -> None:
    torn, whole, _ = segment_files(root)[1:]
    assert 32768 < end_of_records(torn) < torn.stat().st_size
    assert end_of_records(whole) == whole.stat().st_size
    for size in (7, 8, 100, 32768, 40000):
        (root / "cut.wandb").write_bytes(whole.read_bytes()[:size])
        assert end_of_records(root / "cut.wandb") <= size
    (root / "cut.wandb").write_bytes(whole.read_bytes()[: 3 * 32768] + bytes(32768))
    assert end_of_records(root / "cut.wandb") <= 3 * 32768, "zeros are no record"


@pytest.mark.slow
def test_segments_are_uploaded_in_order_and_once(root: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    log = serve()
    assert sync(root) == 0
    first, second, third = histories(log)
    assert (first[0], first[1]) == (FIRST, 0)
    assert 0 < first[2] < STEPS, "what the killed process had written"
    assert second == (FIRST, 0, STEPS + 19), "the last segment of a run holds all of it, and comes last"
    assert third == (SECOND, 0, 2)
    sent = log.read_text()
    capsys.readouterr()
    assert sync(root) == 0
    assert capsys.readouterr().out == "There is nothing to upload.\n"
    assert log.read_text() == sent


@pytest.mark.slow
def test_a_refused_segment_stops_its_run_only(root: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    log = serve(FIRST)
    assert sync(root) == 1
    told = capsys.readouterr()
    first = segment_files(root)[1].parent
    assert f"not uploaded: {first} of run {FIRST}: wandb says: wandb: ERROR permission denied; 1 later segments" in told.err
    assert [run for run, _, _ in histories(log)] == [SECOND]
    log = serve()
    assert sync(root) == 0
    assert [run for run, _, _ in histories(log)] == [FIRST, FIRST]


@pytest.mark.slow
def test_an_unreachable_server_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    started = time.monotonic()
    assert sync(root, "--timeout-s", "6") == 1
    assert time.monotonic() - started < 40
    assert capsys.readouterr().err.count("no answer within 6 s") == 2, "once a run"
    time.sleep(0.5)
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if _belongs_to(pid, str(root))], "nothing of wandb is left running"
    assert [segment.is_sent for segments in pending(root).values() for segment in segments] == [False] * 3


def _belongs_to(process: Path, root: str) -> bool:
    try:
        told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    except OSError:  # it is gone, or another user's
        return False
    return f"WANDB_DIR={root}".encode() in told


def test_a_key_is_needed_but_not_for_looking(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert sync(root) == 2
    assert capsys.readouterr().err.startswith("Nothing was uploaded: WANDB_API_KEY is not set")
    assert sync(root, "--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in told] == [str(file.parent) for file in segment_files(root)[1:]]


def test_a_run_that_is_being_written_is_left_for_later(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = take(root / TRACKING / FIRST)
    assert held is not None
    assert list(pending(root)) == [SECOND]
    assert f"left for later: run {FIRST}" in capsys.readouterr().out
    held.release()
    assert list(pending(root)) == [FIRST, SECOND]


@pytest.mark.slow
def test_the_tracker_says_that_it_is_writing_and_sync_waits_for_its_last_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker(TrackingConfig(kind="wandb"), tmp_path).train_run(FIRST, {}) as log:
        log({"step": 1, "loss": 1.0})
        assert pending(tmp_path) == {}
        assert f"left for later: run {FIRST}" in capsys.readouterr().out
    assert list(pending(tmp_path)) == [FIRST]


def test_a_store_without_segments_needs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert sync(tmp_path) == 0
    assert capsys.readouterr().out == "There is nothing to upload.\n"
