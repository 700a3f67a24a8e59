"""Groups `cluster` and `tracking`: where stages run and where metrics go. Nothing here can change a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from cft_lab.config.fields import setting


@dataclass
class TrackingConfig:
    """Group `tracking`: where metrics go besides metrics.jsonl. The W&B key comes from the environment only."""

    kind: str = setting("none", "tracker", choices=("none", "wandb"))
    project: str = setting("cft-lab", "W&B project")
    entity: Optional[str] = setting(None, "W&B entity")
    mode: str = setting("offline", "W&B mode", choices=("offline", "online"))


@dataclass
class ResourcesConfig:
    """What a job of one kind asks of SLURM, on each of its nodes."""

    cpus: int = setting(4, "CPU cores", low=1)
    memory_gb: Optional[int] = setting(None, "memory in GB; None is the partition's default", low=1)
    gpus: int = setting(0, "GPUs", low=0)
    minutes: int = setting(240, "time limit; a job that reaches it is requeued and resumes", low=1)
    partition: Optional[str] = setting(None, "partition; None is cluster.partition")


@dataclass
class ClusterConfig:
    """Group `cluster`: what runs the stages of a sweep."""

    kind: str = setting("local", "processes on this machine, or SLURM jobs", choices=("local", "slurm"))
    workers: int = setting(1, "stages made at once on this machine; 1 is this very process", low=1)
    gpus_per_worker: int = setting(1, "GPUs dealt to each of several workers, on a machine that has any", low=0)
    partition: Optional[str] = setting(None, "SLURM partition")
    account: Optional[str] = setting(None, "SLURM account")
    qos: Optional[str] = setting(None, "SLURM quality of service")
    constraint: Optional[str] = setting(None, "SLURM node features")
    options: dict[str, str] = setting({}, "further sbatch options by their long names, such as exclude: node7")
    setup: list[str] = setting([], "shell lines at the start of each job, such as module load cuda")
    data: ResourcesConfig = field(default_factory=ResourcesConfig)
    teacher: ResourcesConfig = field(default_factory=ResourcesConfig)
    train: ResourcesConfig = field(default_factory=ResourcesConfig)
    evaluation: ResourcesConfig = field(default_factory=ResourcesConfig)
    record: ResourcesConfig = field(default_factory=lambda: ResourcesConfig(cpus=1, minutes=60))
    local_stages: list[str] = setting([], "kinds of stages (data, teacher) that run where the submitter is")
    max_jobs: Optional[int] = setting(None, "jobs of a sweep that may run at once; None is as many as SLURM starts", low=1)
    warning_s: int = setting(120, "seconds before a time limit at which a job is warned, saves and is requeued", low=1)
    max_requeues: int = setting(20, "times that one job may be requeued", low=0)
    detach: bool = setting(False, "return as soon as everything is submitted")
