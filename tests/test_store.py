import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cft_lab.config import PROJECT_ROOT
from cft_lab.json_files import Journal
from cft_lab.locks import is_held
from cft_lab.provenance import source_hash
from cft_lab.store import CLAIMS, DONE, PRUNED, Stage, Store, Work, prune


def stage(name: str = "s", config: Mapping[str, Any] | None = None, make: Any = None, **more: Any) -> Stage:
    def default(work: Work) -> Mapping[str, Any]:
        (work.folder / "out.txt").write_text("made")
        return {"rows": 1}

    return Stage(name, "label", config or {"a": 1}, make or default, **more)


def quiet(root: Path) -> tuple[Store, list[str]]:
    lines: list[str] = []
    return Store(root, lines.append), lines


def test_a_stage_is_made_once_and_recorded(tmp_path: Path) -> None:
    store, lines = quiet(tmp_path)
    upstream = stage("up")
    made = stage("down", upstream={"role": upstream}, prompts={"p": "text"})
    folder = store.ensure(made)
    assert (folder / "out.txt").read_text() == "made"
    manifest = store.manifest(made)
    assert manifest["upstream"] == {"role": upstream.key}
    assert manifest["config"] == {"a": 1}
    assert manifest["counts"] == {"rows": 1}
    assert {"commit", "packages", "python", "seconds", "created", "source_hash", "prompts"} <= manifest.keys()
    count = len(lines)
    assert store.ensure(made) == folder
    assert len(lines) == count


def test_a_finished_stage_needs_nothing_upstream(tmp_path: Path) -> None:
    store, _ = quiet(tmp_path)
    upstream = stage("up")
    made = stage("down", upstream={"role": upstream})
    store.ensure(made)
    for file in store.folder(upstream).iterdir():
        file.unlink()
    store.folder(upstream).rmdir()
    store.ensure(made)
    assert not store.folder(upstream).exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "t"},
        {"config": {"a": 2}},
        {"config": {"a": 1, "b": None}},
        {"prompts": {"p": "x"}},
        {"version": 2},
        {"upstream": {"r": Stage("u", "", {}, lambda work: {})}},
    ],
)
def test_everything_that_matters_changes_the_key(changed: dict[str, Any]) -> None:
    assert replace(stage(), **changed).key != stage().key


@pytest.mark.parametrize("changed", [{"label": "other"}, {"modules": ("store.py",)}, {"config": {"a": 1}}])
def test_labels_do_not_change_the_key(changed: dict[str, Any]) -> None:
    assert replace(stage(), **changed).key == stage().key


def test_the_order_of_a_config_does_not_change_the_key() -> None:
    assert stage(config={"a": 1, "b": 2}).key == stage(config={"b": 2, "a": 1}).key


def test_a_failed_stage_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    def fail(work: Work) -> Mapping[str, Any]:
        (work.folder / "half").write_text("half")
        raise RuntimeError("disk full")

    store, lines = quiet(tmp_path)
    with pytest.raises(RuntimeError, match="disk full"):
        store.ensure(stage(make=fail))
    assert not store.is_done(stage())
    folder = store.ensure(stage())
    assert (folder / "half").exists(), "what a killed run left is there to resume from"
    assert any(line.strip().startswith("resume") for line in lines)


def test_the_time_of_all_starts_counts(tmp_path: Path) -> None:
    """Of one that fails, of one that is killed until it last wrote, and of a finished one that is opened again."""

    def slow(work: Work) -> Mapping[str, Any]:
        time.sleep(0.3)
        if not (work.folder / "out").exists():
            (work.folder / "out").touch()
            raise RuntimeError("no network")
        return {}

    store, _ = quiet(tmp_path)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="no network"):
        store.ensure(stage(make=slow))
    time.sleep(1)  # in between nobody works
    store.ensure(stage(make=slow))
    assert 0.6 <= store.manifest(stage())["seconds"] <= time.monotonic() - began - 1

    context = multiprocessing.get_context("spawn")
    began = time.monotonic()
    worker = context.Process(target=_write_slowly, args=(str(tmp_path),))
    worker.start()
    partial = store.folder(stage("killed")).with_suffix(".partial")
    while not (partial / "rows" / "5").exists():
        time.sleep(0.02)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    time.sleep(1)
    store.ensure(stage("killed"))
    assert 0.5 <= store.manifest(stage("killed"))["seconds"] <= time.monotonic() - began - 1

    before = store.manifest(stage())["seconds"]
    store.reopen(stage())
    store.ensure(stage(make=slow))
    assert store.manifest(stage())["seconds"] >= before + 0.3


def _write_slowly(root: str) -> None:
    def make(work: Work) -> Mapping[str, Any]:
        (work.folder / "rows").mkdir()
        for place in range(100):
            time.sleep(0.1)
            (work.folder / "rows" / str(place)).touch()
        return {}

    Store(Path(root), lambda line: None).ensure(stage("killed", make=make))


def test_a_stage_killed_before_its_done_mark_is_made_again(tmp_path: Path) -> None:
    store, _ = quiet(tmp_path)
    folder = store.ensure(stage())
    (folder / DONE).unlink()
    (folder / "out.txt").write_text("torn")
    assert not store.is_done(stage())
    assert (store.ensure(stage()) / "out.txt").read_text() == "made"


def test_changed_source_code_warns_on_reuse(tmp_path: Path) -> None:
    store, lines = quiet(tmp_path)
    made = stage(modules=("verdicts.py",))
    store.ensure(made)
    store.ensure(made)
    assert not any("warning" in line for line in lines)
    path = store.folder(made) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source_hash": "0" * 16}))
    below = stage("down", upstream={"role": made})
    store.ensure(below)
    store.ensure(below)
    assert sum("warning" in line and "verdicts.py" in line for line in lines) == 1
    assert source_hash(("lab",)) != source_hash(("lab/world.py",))


def _slow(root: str, log: str) -> None:
    def make(work: Work) -> Mapping[str, Any]:
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(1.0)
        return {}

    Store(Path(root), lambda line: None).ensure(stage(make=make))


def test_two_processes_make_a_stage_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [context.Process(target=_slow, args=(str(tmp_path / "store"), str(log))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert log.read_text() == "made\n"


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    worker = context.Process(target=_slow, args=(str(tmp_path / "store"), str(log)))
    worker.start()
    while not log.exists():
        time.sleep(0.02)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    started = time.monotonic()
    _slow(str(tmp_path / "store"), str(log))
    assert time.monotonic() - started < 5
    assert log.read_text() == "made\nmade\n"


def test_a_waiting_process_says_who_it_waits_for(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    worker = context.Process(target=_slow, args=(str(tmp_path / "store"), str(log)))
    worker.start()
    while not log.exists():
        time.sleep(0.02)
    store, lines = quiet(tmp_path / "store")
    store.ensure(stage())
    worker.join()
    assert any("wait" in line and f"process {worker.pid}" in line for line in lines)


def test_the_journal_keeps_whole_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append({"a": "é"})
        journal.append({"b": 2})
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    with Journal(path) as journal:
        assert [row for _, row in journal.rows()] == [{"a": "é"}, {"b": 2}]
        journal.append({"c": 3})
    with Journal(path) as journal:
        assert [journal.read(place) for place, _ in journal.rows()] == [{"a": "é"}, {"b": 2}, {"c": 3}]


def test_a_spoiled_line_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a": 1}\n\x00\x00\xff\n{"b": 2}\n')
    with Journal(path) as journal:
        assert [row for _, row in journal.rows()] == [{"a": 1}, {"b": 2}]
        assert [journal.read(place) for place, _ in journal.rows()] == [{"a": 1}, {"b": 2}]


def test_what_is_unmade_is_told_upstream_first_and_ends_at_finished_stages(tmp_path: Path) -> None:
    store, _ = quiet(tmp_path)
    first = stage("first")
    second = stage("second", upstream={"of": first})
    last = stage("last", upstream={"a": first, "b": second})
    assert [made.name for made in store.unmade(last)] == ["first", "second", "last"]
    store.ensure(second)
    shutil.rmtree(store.folder(first))
    assert [made.name for made in store.unmade(stage("other", upstream={"b": second}))] == ["other"]


def test_a_reopened_stage_is_completed_and_what_stood_on_it_is_kept_aside(tmp_path: Path) -> None:
    def made(work: Work) -> Mapping[str, Any]:
        with Journal(work.folder / "journal.jsonl") as journal:
            journal.append({"row": len(list(journal.rows()))})
            return {"rows": len(list(journal.rows()))}

    store, lines = quiet(tmp_path)
    first = stage("first", make=made)
    second = stage("second", upstream={"of": first})
    third = stage("third", upstream={"of": second})
    beside = stage("beside")
    for wanted in (third, beside):
        store.ensure(wanted)
    partial = store.reopen(first)
    assert (partial / "journal.jsonl").exists()
    assert [unmade.name for unmade in store.unmade(third)] == ["first", "second", "third"]
    assert store.is_done(beside)
    moved = sorted(path.parent.name for path in (tmp_path / "superseded").glob(f"*/*/{DONE}"))
    assert [name.split("-")[0] for name in moved] == sorted([second.key, third.key])
    assert sum("superseded" in line for line in lines) == 2
    store.ensure(third)
    assert store.manifest(first)["counts"] == {"rows": 2}


def test_a_pruned_stage_is_a_record_that_nothing_new_is_built_on(tmp_path: Path) -> None:
    def make(work: Work) -> Mapping[str, Any]:
        (work.folder / "weights").mkdir()
        (work.folder / "weights" / "model").write_text("heavy")
        (work.folder / "curve").write_text("light")
        return {"rows": 1}

    store, lines = quiet(tmp_path)
    heavy = stage("heavy", make=make)
    result = stage("result", upstream={"of": heavy})
    folder = store.ensure(heavy)
    store.ensure(result)
    aside = prune(tmp_path, folder, [folder / "weights"], "gc")
    assert [path.name for path in aside.iterdir()] == ["weights"]
    assert sorted(path.name for path in folder.iterdir()) == ["curve", "manifest.json", PRUNED]
    assert not store.is_done(heavy)
    assert list(store.unmade(result)) == []
    assert {manifest["stage"] for _, manifest in store.finished()} == {"heavy", "result"}
    created = store.manifest(heavy)["created"]
    lines.clear()
    store.ensure(result)
    assert lines == [], "a result needs nothing of what it stood on"

    other = stage("other", upstream={"of": heavy})
    assert [made.name for made in store.unmade(other)] == ["heavy", "other"]
    store.ensure(other)
    assert any("again" in line and "without weights (gc)" in line for line in lines)
    assert (folder / "weights" / "model").read_text() == "heavy"
    assert (folder / DONE).exists()
    assert not (folder / PRUNED).exists()
    assert store.manifest(heavy)["replaces"] == {"created": created}


def test_a_pruned_stage_stays_a_record_until_it_is_whole_again(tmp_path: Path) -> None:
    def fail(work: Work) -> Mapping[str, Any]:
        raise RuntimeError("no GPU")

    store, _ = quiet(tmp_path)
    folder = store.ensure(stage())
    prune(tmp_path, folder, [folder / "out.txt"], "gc")
    (folder / "more").touch()
    prune(tmp_path, folder, [folder / "more"], "gc again")
    assert json.loads((folder / PRUNED).read_text())["files"] == ["more", "out.txt"]
    with pytest.raises(RuntimeError, match="no GPU"):
        store.ensure(stage(make=fail))
    assert store.manifest(stage())["counts"] == {"rows": 1}
    assert (folder / PRUNED).exists()


def claims_of(root: Path) -> list[tuple[list[str], bool]]:
    """What is claimed in a store, and whether the claimant lives."""
    return [(json.loads(path.read_text())["keys"], is_held(path.with_suffix(""))) for path in (root / CLAIMS).glob("*.json")]


def test_what_a_running_process_needs_is_claimed_and_a_failure_leaves_the_claim(tmp_path: Path) -> None:
    seen: list[tuple[list[str], bool]] = []

    def look(work: Work) -> Mapping[str, Any]:
        seen.extend(claims_of(tmp_path))
        raise RuntimeError("stop")

    store, _ = quiet(tmp_path)
    above = stage("above", upstream={"of": stage("far")})
    below = stage("below", make=look, upstream={"of": above})
    store.ensure(above)
    assert claims_of(tmp_path) == []
    with pytest.raises(RuntimeError, match="stop"):
        store.ensure(below)
    assert seen == [([below.key, above.key], True)], "what a finished stage stood on is not needed again"
    assert claims_of(tmp_path) == [([below.key, above.key], False)]
    store.ensure(stage("fine"))
    assert len(claims_of(tmp_path)) == 1, "a stage that was made leaves no claim"


_ON_ANOTHER_MACHINE = """
import errno, fcntl, sys, time
from pathlib import Path
def flock(*arguments):
    raise OSError(errno.ENOSYS, "no flock here")
fcntl.flock = flock
from cft_lab import locks
locks._LEASE_S = 2.0
held = locks.take(Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(60)
"""


def test_without_kernel_locks_a_lease_is_free_when_its_holder_on_another_machine_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A soft lock of a dead process of another host name would be held for ever."""
    import fcntl

    from cft_lab import locks

    elsewhere = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    if subprocess.run([*elsewhere, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process may not choose a host name for a child")

    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "no flock here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_LEASE_S", 2.0)
    path = tmp_path / "one.with.dots"
    with subprocess.Popen(
        [*elsewhere, sys.executable, "-c", _ON_ANOTHER_MACHINE, str(path)], stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        time.sleep(3)  # longer than a lease: it is renewed
        assert locks.is_held(path)
        assert locks.take(path) is None
        holder.kill()
    end = time.monotonic() + 20
    while locks.is_held(path):
        assert time.monotonic() < end
        time.sleep(0.2)
    taken = locks.take(path)
    assert taken is not None
    assert locks.take(path) is None
    taken.release()
    assert not locks.is_held(path)


def test_a_waiter_on_a_removed_lock_file_does_not_share_it(tmp_path: Path) -> None:
    from cft_lab.locks import open_lock, remove, take

    first = take(tmp_path / "one.with.dots")
    waiter = open_lock(tmp_path / "one.with.dots")
    assert take(tmp_path / "one.with.dots") is None
    remove(tmp_path / "one.with.dots", first)
    waiter.acquire(timeout=5)
    assert is_held(tmp_path / "one.with.dots")
    assert take(tmp_path / "one.with.dots") is None
    waiter.release()
    assert not is_held(tmp_path / "one.with.dots")
    assert not is_held(tmp_path / "never")
    assert not (tmp_path / "never.lock").exists()
