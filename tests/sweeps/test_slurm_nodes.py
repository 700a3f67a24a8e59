"""Trainings of two nodes on a real SLURM: they end, and when one node is lost the other does not wait for it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from slurm_runs import finish, states, until_running
from sweep_tools import FreezeSweep
from test_slurm_faults import TRAINING, until_resumed, until_training

from cft_lab.sweeps import repair, slurm
from cft_lab.sweeps.status import EXIT_BROKEN

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
TWO_NODES = ("train.nodes=2", "train.processes=1", "cluster.train.gpus=1")


def test_a_training_of_two_nodes(cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None) -> None:
    folder = freeze_sweep(*TWO_NODES, "benchmarks.names=[lab-basic]", "train.selection.mode=last", "cluster.detach=true")
    slurm.submit(folder)
    until_running(cluster, folder, "candidates")
    cluster.until(lambda: len(launchers(folder.store_root)) == 2, "a launcher on each of two nodes", 60)
    assert set(states(finish(cluster, folder)).values()) == {"done"}


def test_what_is_killed_on_one_node_ends_the_training_and_retry_goes_on(
    cluster: SlurmCluster, freeze_sweep: FreezeSweep, prepared: None
) -> None:
    folder = freeze_sweep(*TWO_NODES, *TRAINING)
    slurm.submit(folder)
    until_running(cluster, folder, "candidates")
    until_training(cluster, folder)
    node, launcher = max(launchers(folder.store_root).items())
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for process in (launcher, *map(int, children)):
        os.kill(process, signal.SIGKILL)
    status = finish(cluster, folder, timeout_s=60)
    assert status.exit_code == EXIT_BROKEN
    assert states(status)["candidates"] == "failed"
    detail = next(one.detail for one in status.stages.values() if one.state == "failed")
    assert f"the launcher on {node} was ended by SIGKILL, and the training with it" in detail
    assert not launchers(folder.store_root)
    repair.retry(folder, lambda line: None)
    until_resumed(cluster, folder)


def launchers(store: Path) -> dict[str, int]:
    """The process ids of torchrun by SLURM's node, for trainings in a store."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "torch.distributed.run" in words and "srun" not in words[0] and any(word.startswith(str(store)) for word in words):
                environ = dict(entry.partition(b"=")[::2] for entry in (process / "environ").read_bytes().split(b"\0"))
                found[environ[b"SLURMD_NODENAME"].decode()] = int(process.name)
    return found
