"""What sbatch is told about a job, and which config field its refusal is about."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from cft_lab.config import ClusterConfig, ResourcesConfig
from cft_lab.store import EXIT_REQUEUE
from cft_lab.sweeps.job_graph import Job

_KILLED_BY_WARNING = 140  # 128 + SIGUSR2: warned before anything listened


def parameters(job: Job, cluster: ClusterConfig, code: Path, dependency: str | None, at_once: int | None) -> dict[str, Any]:
    """A job's options in the words of submitit's SlurmExecutor. `code` is the frozen code, `at_once` an array's tasks at once.

    One task leads, on the first node; a training of several nodes starts a step of its own on each, within this one's resources.
    """
    asked: ResourcesConfig = getattr(cluster, job.kind)
    chosen: dict[str, Any] = {
        "partition": asked.partition or cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mem": f"{asked.memory_gb}GB" if asked.memory_gb else None,
        "gpus_per_node": max(asked.gpus, job.gpus) or None,
        "dependency": dependency,
        "array_parallelism": at_once,
    }
    options = {name: True if value in ("", "true") else value for name, value in cluster.options.items()}
    return {name: value for name, value in chosen.items() if value is not None} | {
        "job_name": f"cft-{job.name}",
        "nodes": job.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": asked.cpus,
        "time": asked.minutes,
        "signal_delay_s": cluster.warning_s,
        "setup": [*cluster.setup, *_environment(code)],
        "teardown": _requeue_lines(cluster.max_requeues),
        # srun does not take over the CPUs of the job by itself
        "srun_args": ["--overlap", "--nodes=1", "--ntasks=1", f"--cpus-per-task={asked.cpus}"],
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **options},
    }


def _environment(code: Path) -> list[str]:
    """The frozen code first and no current folder before it; no hub and no W&B, for compute nodes without a network."""
    return [
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        "export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_MODE=offline",
    ]


def _requeue_lines(most: int) -> list[str]:
    """The end of the batch script: requeues a job that asks for it, unless it is being cancelled or was requeued too often.

    An array's last task has the array's own id, so tasks are named by array and place.
    """
    return [
        "code=$?",
        'me="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"; me="${me:-$SLURM_JOB_ID}"',
        f"if [ $code -eq {EXIT_REQUEUE} ] || [ $code -eq {_KILLED_BY_WARNING} ]; then",
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {most} ]; then',
        f'    echo "not requeued: cluster.max_requeues={most} is reached"',
        '  elif [ "$(squeue -h -j "$me" -o %T)" = RUNNING ]; then',
        '    scontrol requeue "$me" && sleep 60',
        "  fi",
        "fi",
        "exit $code",
    ]


#: what sbatch says (a pattern) -> the config field that it is about, or None for what passes by itself; the first that fits counts
_REFUSALS: dict[str, str | None] = {
    # limits on a single job, which SLURM names on a line before the policy that is violated: waiting does not help
    r"MaxWall\w*PerJob": "cluster.{kind}.minutes={minutes}",
    r"Max(Node|Cpu|Mem|Memory|GRES|TRES)\w*PerJob": (
        "cluster.{kind} (cpus={cpus}, gpus={gpus}, memory_gb={memory_gb}, minutes={minutes}) or train.nodes"
    ),
    # limits on how many jobs there are, and trouble of the cluster's own
    r"violates accounting|MaxSubmit|MaxJobs|temporarily unable|credential": None,
    r"QOS not permitted": "cluster.qos={qos} or cluster.partition={partition}",
    r"account not permitted": "cluster.account={account} or cluster.partition={partition}",
    r"group not permitted|invalid partition|partition name|no partition specified": "cluster.partition={partition}",
    r"invalid account|account/partition": "cluster.account={account}",
    r"invalid qos": "cluster.qos={qos}",
    r"invalid feature|feature specification": "cluster.constraint={constraint}",
    r"requested time limit": "cluster.{kind}.minutes={minutes}",
    r"memory specification|memory required": "cluster.{kind}.memory_gb={memory_gb}",
    r"invalid generic resource|gres": "cluster.{kind}.gpus={gpus} or engine.tensor_parallel",
    r"cpu count|more processors": "cluster.{kind}.cpus={cpus}",
    r"node count|too many nodes": "train.nodes",
    r"node configuration is not available": (
        "cluster.{kind} (cpus={cpus}, gpus={gpus}, memory_gb={memory_gb}), cluster.constraint={constraint} or train.nodes"
    ),
    r"invalid|unrecognized|ambiguous": "cluster.options={options}",
}


def refused_field(said: str, kind: str, cluster: ClusterConfig) -> str | None:
    """The field, with its value, that sbatch's refusal of a job of this kind is about; None if it passes or is about no option."""
    asked: ResourcesConfig = getattr(cluster, kind)
    values = vars(cluster) | vars(asked) | {"kind": kind, "partition": asked.partition or cluster.partition}
    for pattern, field in _REFUSALS.items():
        if re.search(pattern, said, re.IGNORECASE):
            return None if field is None else field.format(**values)
    return None
