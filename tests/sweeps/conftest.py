"""Fixtures of sweeps on SLURM: one throw-away cluster for the session, and debug cells that run on it in seconds."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from cells import DEBUG
from slurm_cluster import SlurmCluster
from sweep_tools import ON_SLURM, FreezeSweep, PlanSweep, planned

from cft_lab import pipeline
from cft_lab.hydra_config import compose
from cft_lab.store import Store
from cft_lab.sweeps import run_folder
from cft_lab.sweeps.run_folder import RunFolder

REQUIRED = "CFT_LAB_REQUIRE_SLURM"


@pytest.fixture(scope="session")
def cluster_of_session() -> Iterator[SlurmCluster]:
    if (reason := slurm_cluster.missing()) is not None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but {reason}")
        pytest.skip(reason)
    with SlurmCluster() as started:
        yield started


@pytest.fixture
def cluster(cluster_of_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, that this process's own SLURM commands talk to; what a test leaves in the queue is cancelled."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster_of_session.env[name])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield cluster_of_session
    cluster_of_session.call("scancel", "--user=root")
    cluster_of_session.until(lambda: not cluster_of_session.call("squeue", "-h"), "an empty queue")


@pytest.fixture
def plan_sweep(tmp_path: Path) -> PlanSweep:
    """Plans a command line at debug size, for SLURM unless it says otherwise, into a store of the test's own."""
    return functools.partial(planned, *DEBUG, *ON_SLURM, f"output_root={tmp_path / 'store'}")


@pytest.fixture
def freeze_sweep(plan_sweep: PlanSweep) -> FreezeSweep:
    """The run folder of a command line, planned as above."""

    def frozen(*arguments: str) -> RunFolder:
        return run_folder.freeze(plan_sweep(*arguments), "test", list(arguments))

    return frozen


@pytest.fixture(scope="session")
def before_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with what the training of these cells stands on: the base model and the examples of cft."""
    root = tmp_path_factory.mktemp("made") / "store"
    trained = pipeline.plan(compose(*DEBUG, *ON_SLURM, f"output_root={root}")).trained
    assert trained is not None
    for upstream in trained.upstream.values():
        Store(root, lambda line: None).ensure(upstream)
    return root


@pytest.fixture
def prepared(tmp_path: Path, before_training: Path) -> None:
    """The test's own store has all that comes before a training."""
    shutil.copytree(before_training, tmp_path / "store")


@pytest.fixture
def pretrained(tmp_path: Path, before_training: Path) -> None:
    """The test's own store has the base model."""
    shutil.copytree(before_training / "base_model", tmp_path / "store" / "base_model")
