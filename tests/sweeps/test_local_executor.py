"""The local executor: what a failure blocks, several processes, kills, Ctrl-C, deleted folders, what it costs when all is there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cells import AS_TYPED, DEBUG
from sweep_tools import planned

from cft_lab import pipeline
from cft_lab.config import PROJECT_ROOT, ConfigError
from cft_lab.json_files import read_records
from cft_lab.records import Grade, Result
from cft_lab.sweeps import local
from cft_lab.sweeps.local import Board, deal_gpus
from cft_lab.sweeps.outcomes import outcomes, print_tables
from cft_lab.sweeps.plan import PlannedStage, to_make
from cft_lab.sweeps.run_folder import RunFolder, freeze

SMALL = (*DEBUG, "benchmarks.names=[lab-long]")


def frozen(root: Path, *overrides: str) -> RunFolder:
    return freeze(planned(*SMALL, *overrides, f"output_root={root}"), "test", [])


def stage(key: str, *upstream: str) -> PlannedStage:
    return PlannedStage(key, "scores", "record", f"stage {key}", upstream, 0)


DIAMOND = [stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c"), stage("e"), stage("f", "b")]


def test_stages_are_handed_out_in_order_once_what_they_stand_on_is_there() -> None:
    board = Board(DIAMOND, lambda line: None)
    a, e = board.take(), board.take()
    assert (a, e) == (DIAMOND[0], DIAMOND[4])
    assert a is not None
    assert e is not None
    board.finish(a, made=True)
    b, c = board.take(), board.take()
    assert (b, c) == (DIAMOND[1], DIAMOND[2])


def test_a_failure_blocks_what_stands_on_it_and_nothing_else() -> None:
    said: list[str] = []
    board = Board(DIAMOND, said.append)
    taken = []
    while (found := board.take()) is not None:
        taken.append(found.key)
        board.finish(found, made=found.key != "b")
    assert taken == ["a", "b", "c", "e"]
    assert [line.split()[:3] for line in said] == [["blocked", "scores", "d"], ["blocked", "scores", "f"]]


def test_who_waits_for_a_stage_wakes_up_when_it_is_made_or_failed() -> None:
    for made, expected in ((True, ["b"]), (False, [])):
        board = Board([stage("a"), stage("b", "a")], lambda line: None)
        first = board.take()
        assert first is not None
        later: list[str] = []

        def wait(board: Board = board, later: list[str] = later) -> None:
            while (found := board.take()) is not None:
                later.append(found.key)
                board.finish(found, made=True)

        thread = threading.Thread(target=wait)
        thread.start()
        board.finish(first, made)
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert later == expected


def test_a_failed_cell_has_its_reason_and_the_others_their_results(
    debug_model: Path, shared_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = frozen(shared_store, "method=sft-verified,base", "data.examples=90", "benchmarks.items=3")
    local.run(folder, lambda line: None)
    (failed, why), (_, result) = outcomes(folder)
    assert failed.label == "method=sft-verified"
    assert isinstance(why, str)
    assert why.startswith("DataError: data.examples=90 are wanted")
    assert "(in examples " in why
    assert isinstance(result, Result)
    assert not print_tables(folder, {})
    printed = capsys.readouterr().out
    assert "FAILED method=sft-verified: DataError: data.examples=90" in printed
    assert "method=base" in printed


def test_several_processes_make_the_same_as_one(debug_model: Path, shared_store: Path, tmp_path: Path) -> None:
    overrides = ("method=base,sft", "benchmarks.names=[lab-long,lab-basic]", "seed=11", "temperature=0.5")
    one = frozen(shared_store, *overrides)
    local.run(one, lambda line: None)
    shutil.copytree(debug_model.parent, tmp_path / "base_model" / debug_model.parent.name)
    said: list[str] = []
    two = frozen(tmp_path, *overrides, "cluster.workers=2")
    local.run(two, said.append)
    assert {line.split("worker ")[1][0] for line in said if "worker " in line} == {"1", "2"}
    for (_, first), (_, second) in zip(outcomes(one), outcomes(two), strict=True):
        assert isinstance(first, Result)
        assert isinstance(second, Result)
        assert first.scores == second.scores
        for name in ("scores/lab-long", "scores/lab-basic"):
            rows = [read_records(root / "scores" / first.keys[name] / "grades.jsonl", Grade) for root in (shared_store, tmp_path)]
            assert rows[0] == rows[1]
    log = two.log(next(stage.key for stage in two.plan.stages if stage.name == "candidates")).read_text()
    assert "        a micro-batch of" in log


def test_a_killed_worker_costs_one_stage_and_is_replaced(
    debug_model: Path, shared_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(debug_model.parent, tmp_path / "base_model" / debug_model.parent.name)
    folder = frozen(tmp_path, "method=base", "temperature=0.1,0.2,0.3", "cluster.workers=2")
    victims: list[str] = []
    kept = local.Worker._start

    def start(worker: local.Worker) -> "subprocess.Popen[str]":
        process = kept(worker)
        if not victims:
            victims.append(str(process.pid))
            os.kill(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(local.Worker, "_start", start)
    local.run(folder, lambda line: None)
    found = [what for _, what in outcomes(folder)]
    (why,) = [what for what in found if isinstance(what, str)]
    assert "was ended by SIGKILL: perhaps the machine ran out of memory" in why
    assert sum(isinstance(what, Result) for what in found) == 2
    again = freeze(folder.plan, "again", [])
    local.run(again, lambda line: None)
    assert all(isinstance(what, Result) for _, what in outcomes(again))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_no_process_and_says_how_to_go_on(number: int, shared_store: Path, tmp_path: Path) -> None:
    overrides = ["-m", "method=sft", "seed=0,1", *SMALL, "model.lab.pretrain.tokens=40000000", "progress=true", "cluster.workers=2"]
    line = [sys.executable, str(PROJECT_ROOT / "run.py"), *overrides, f"output_root={tmp_path}"]
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, preexec_fn=AS_TYPED
    )
    assert process.stderr is not None
    for said in process.stderr:
        if "start base_model" in said:
            break
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("base_model/*.partial/owner.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    (owner,) = tmp_path.glob("base_model/*.partial/owner.json")
    worker = json.loads(owner.read_text())["pid"]
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "run the same command again" in rest
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_deleted_stage_folder_is_noticed_and_made_again(debug_model: Path, shared_store: Path) -> None:
    overrides = ("method=sft", "data.seed=21")
    first = frozen(shared_store, *overrides)
    local.run(first, lambda line: None)
    before = outcomes(first)[0][1]
    for name in ("selected", "generations", "candidates"):
        key = next(stage.key for stage in first.plan.stages if stage.name == name)
        shutil.rmtree(shared_store / name / key)
        said: list[str] = []
        again = frozen(shared_store, *overrides)
        local.run(again, said.append)
        assert any(line.startswith(f"   gone {name:<12} {key}  its folder was deleted") for line in said), said
        assert (shared_store / name / key / "DONE").exists()
        assert outcomes(again)[0][1] == before
        assert to_make(again.plan, shared_store) == []


def test_a_sweep_that_is_all_there_costs_next_to_nothing(debug_model: Path, shared_store: Path, tmp_path: Path) -> None:
    """100 cells with all stages present: at most 0.2 s a cell, composition excluded. One cell is made, the others copied."""
    one = frozen(shared_store, "method=sft", "temperature=0.5")
    local.run(one, lambda line: None)
    grid = ("method=sft", "temperature=0.5", "seed=range(20)", "train.lr=1e-4,2e-4,3e-4,4e-4,5e-4")
    plan = planned(*SMALL, *grid, f"output_root={tmp_path}")
    assert len(plan.configs) == 100
    first = [stage.key for stage in one.plan.stages]
    for config in plan.configs:
        own = {stage.name: stage.key for stage in pipeline.plan(config).result.walk()}
        for old, stage in zip(first, one.plan.stages, strict=True):
            target = tmp_path / stage.name / own[stage.name]
            if not target.exists():
                shutil.copytree(shared_store / stage.name / old, target, copy_function=os.link)
        record = tmp_path / "result" / own["result"] / "result.json"
        text = record.read_text()
        for old, stage in zip(first, one.plan.stages, strict=True):
            text = text.replace(old, own[stage.name])
        record.unlink()
        record.write_text(text)
    started = time.process_time()
    folder = freeze(plan, "again", [])
    local.run(folder, lambda line: None)
    print_tables(folder, {})
    assert time.process_time() - started <= 0.2 * len(plan.cells)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({stage.name for stage in plan.stages} | {"sweeps"})


def test_gpus_are_dealt_out_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "has_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-5,2,3")
    (config,) = planned(*SMALL, "cluster.workers=2", "cluster.gpus_per_worker=2").configs
    assert deal_gpus(config) == ["0,GPU-5", "2,3"]
    (config,) = planned(*SMALL, "cluster.workers=2", "cluster.gpus_per_worker=0").configs
    assert deal_gpus(config) == ["", ""]
    (config,) = planned(*SMALL, "cluster.workers=5").configs
    with pytest.raises(ConfigError, match="cluster.workers=5 with cluster.gpus_per_worker=1 need 5 GPUs, and there are 4 here"):
        deal_gpus(config)
    monkeypatch.setattr(local, "has_gpu", lambda: False)
    assert deal_gpus(config) == [None] * 5


def test_too_many_threads_are_told(shared_store: Path) -> None:
    said: list[str] = []
    config = planned(*SMALL, "cluster.workers=64", "engine.cpu_threads=3").configs[0]
    local._warn_of_threads([config], said.append)
    assert "cluster.workers=64 with 3 threads each share" in said[0]
    config = planned(*SMALL, "cluster.workers=1", "engine.cpu_threads=1", "train.cpu_threads=1").configs[0]
    local._warn_of_threads([config], said.append)
    assert len(said) == 1
