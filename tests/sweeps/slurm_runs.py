"""What tests of SLURM, and the benchmark of faults, do with a sweep that runs there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from slurm_cluster import SlurmCluster

from cft_lab.json_files import read_json
from cft_lab.sweeps.compute_job import JOBS
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.status import EXIT_UNDER_WAY, SweepStatus, status_of
from cft_lab.sweeps.submitted import submitted_jobs


def finish(cluster: SlurmCluster, folder: RunFolder, timeout_s: float = 300) -> SweepStatus:
    """Waits until nothing of a sweep runs or is queued, and says what there is of it then."""

    def over() -> bool:
        cluster.release()
        return status_of(folder).exit_code != EXIT_UNDER_WAY

    cluster.until(over, "the end of the sweep", timeout_s)
    status = status_of(folder)
    for one in status.stages.values():
        if one.state != "done":
            print(one.stage.name, one.state, one.detail, *one.last_lines, sep="\n  ")  # pytest shows it where a test fails
    return status


def until_running(cluster: SlurmCluster, folder: RunFolder, name: str) -> str:
    """Waits until a stage of that name is being made; returns its job."""

    def running() -> list[str | None]:
        cluster.release()
        return [one.job for one in status_of(folder).stages.values() if one.stage.name == name and one.state == "running"]

    cluster.until(running, f"a running {name}", 180)
    job = running()[0]
    assert job is not None
    return job


def states(status: SweepStatus) -> dict[str, str]:
    """Stage name -> state, for sweeps with one stage of a name."""
    return {one.stage.name: one.state for one in status.stages.values()}


def made_in(folder: RunFolder) -> Counter[str]:
    """How often the logs of a sweep's jobs say that a stage was made from nothing, by its key."""
    lines = [line for log in (folder.path / "slurm").glob("*.out") for line in log.read_text().splitlines()]
    return Counter(line.split()[2] for line in lines if line.split()[:1] == ["make"])


def check_granted(folder: RunFolder, gpus: Mapping[str, int]) -> None:
    """Each job saw the GPUs that it was granted, as many as `gpus` says for the first stage that it makes, or none."""
    names = {stage.key: stage.name for stage in folder.plan.stages}
    started = [read_json(file) for file in (folder.path / JOBS).glob("*.json")]
    assert len(started) == len({one.job for one in submitted_jobs(folder).values()})
    for job in started:
        granted, name = job["granted"], names[job["keys"][0]]
        if name in gpus:
            assert granted["CUDA_VISIBLE_DEVICES"] == granted["SLURM_JOB_GPUS"], name
            assert len(granted["SLURM_JOB_GPUS"].split(",")) == gpus[name]
        else:
            assert "SLURM_JOB_GPUS" not in granted, name
