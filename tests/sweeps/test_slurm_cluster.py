"""The throw-away cluster itself: quick, and gone when its owner is."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm
TESTS = Path(__file__).resolve().parent.parent
START_AND_WAIT = """
import time
from slurm_cluster import SlurmCluster
with SlurmCluster() as started:
    print(started.folder, flush=True)
    time.sleep(99)
"""


def test_it_has_three_nodes_with_gpus(cluster: SlurmCluster) -> None:
    shown = cluster.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %G").splitlines()
    assert shown == [f"{node} gpu:{slurm_cluster.GPUS}" for node in slurm_cluster.NODES]


def test_it_ends_with_its_owner_however_that_ends(cluster: SlurmCluster) -> None:
    owner = subprocess.Popen([sys.executable, "-c", START_AND_WAIT], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    env = {**cluster.env, "SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(["sbatch", "--output=/dev/null", "--wrap=sleep 77"], env=env, check=True, capture_output=True)
    while subprocess.run(["squeue", "-h", "-t", "R"], env=env, check=True, capture_output=True).stdout == b"":
        time.sleep(0.05)
    assert len(list(slurm_cluster.processes_of(folder))) > 5  # daemons, the job and its step
    owner.kill()
    owner.wait()
    owner.stdout.close()
    end = time.monotonic() + 10
    while time.monotonic() < end and folder.exists():
        time.sleep(0.05)
    assert not folder.exists()
    assert list(slurm_cluster.processes_of(folder)) == []
