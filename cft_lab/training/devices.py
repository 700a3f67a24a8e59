"""What a training is planned for: the GPUs that are here, those that the config states, or this machine's CPU. No torch."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cft_lab.config import Config, OptimizationConfig, TrainConfig
from cft_lab.runtime import has_gpu
from cft_lab.training.meters import peak_flops

GIB = 2**30
#: of a GPU's memory as it is sold, what programs get: an H100 of 80 has 79.2 GiB for them, an H200 of 141 has 139.8
_USABLE = 0.99


@dataclass(frozen=True)
class Device:
    """One of the devices that a training runs on. What is not known is None; a basis says where a figure is from."""

    kind: str  # cuda or cpu
    name: str
    here: bool  # in this machine
    memory: float | None  # bytes
    memory_basis: str
    tflops: float | None  # peak
    tflops_basis: str
    count: int  # devices of a node
    nodes: int

    @property
    def ranks(self) -> int:
        """Processes of the training: one for each device."""
        return self.count * self.nodes

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return "GPU" if self.kind == "cuda" else "CPU process"


def find_device(config: Config) -> Device:
    """The device that the cell's training is planned for.

    A GPU that `train.device_memory_gb` describes comes before the one that is here; a paper-scale model is never planned for a CPU.
    What SLURM is still to give has as many GPUs as `cluster.train.gpus` asks for.
    """
    train = config.train
    stated = train.device_memory_gb
    elsewhere = config.cluster.kind == "slurm" and "SLURM_JOB_ID" not in os.environ
    seen = [] if stated is not None or elsewhere or not has_gpu() else nvidia_smi()
    if stated is None and not has_gpu() and config.model.scale == "lab":
        memory, basis = _free_ram()
        return Device("cpu", "CPU", True, memory, basis, *_peak(train, "cpu", ""), train.processes or 1, train.nodes)
    name, memory, basis = "GPU", None, "no GPU is here, and train.device_memory_gb does not state one"
    if stated is not None:
        memory, basis = _USABLE * stated * GIB, f"train.device_memory_gb={stated:g}, 99 % of it"
    elif seen:
        name, memory, basis = seen[0][0], min(size for _, size in seen), "nvidia-smi, 99 % of it"
    count = train.processes or len(seen) or (config.cluster.train.gpus if elsewhere else 0) or 1
    return Device("cuda", name, bool(seen), memory, basis, *_peak(train, "cuda", name), count, train.nodes)


def misplacement(config: Config) -> list[str]:
    """Why the processes of a training have no place where its config lets it run, in lines; none if they have."""
    train, cluster = config.train, config.cluster
    found = []
    if cluster.kind == "slurm":
        if cluster.train.gpus and (train.processes or 1) > cluster.train.gpus:
            asked = f"cluster.train.gpus={cluster.train.gpus}"
            found.append(f"train.processes={train.processes}, but {asked} on each node: lower the one or raise the other")
        return found
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)
    if train.nodes > nodes:
        has = f"has {nodes}" if "SLURM_JOB_NODELIST" in os.environ else "is none"
        needs = f"train.nodes={train.nodes} needs a SLURM job of so many nodes, and this {has}"
        found.append(f"{needs}: set cluster=slurm, or train.nodes={nodes}")
    gpus = len(nvidia_smi()) if train.processes is not None and has_gpu() else 0
    if gpus and train.processes is not None and train.processes > gpus:
        found.append(f"train.processes={train.processes}, but {gpus} GPUs are visible here: lower it, or leave it out")
    return found


def passes_precision(train: OptimizationConfig, kind: str) -> str:
    """fp32 or bf16: what both passes compute in; `auto` is bf16 on a GPU and fp32 on a CPU, as in runtime.resolve_precision."""
    if train.precision != "auto":
        return train.precision
    return "bf16" if kind == "cuda" else "fp32"


def _peak(train: TrainConfig, kind: str, name: str) -> tuple[float | None, str]:
    """TFLOP/s of a device, and where the figure is from."""
    peak = peak_flops(train, passes_precision(train, kind), name)
    if peak is None:
        return None, "no peak is stated"
    return peak / 1e12, "train.device_tflops" if train.device_tflops is not None else f"data sheet of {name}, dense bf16"


def nvidia_smi() -> list[tuple[str, float]]:
    """(name, bytes) of each GPU that this process may use; empty if the driver's tool does not answer."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible:
        query.append(f"--id={visible}")
    found = []
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        for line in told.splitlines():
            name, _, size = line.rpartition(",")
            found.append((name.strip(), _USABLE * float(size) * 2**20))
    return found


def _free_ram() -> tuple[float | None, str]:
    """Bytes of memory that this machine can still give to processes."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024, "memory available now"
    return None, "this system does not say how much memory is free"
