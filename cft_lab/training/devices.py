"""What a training is planned for: the GPUs that are here, those that the config states, or this machine's CPU. No torch."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cft_lab.config import Config, OptimizationConfig
from cft_lab.runtime import has_gpu

GIB = 2**30
#: of a GPU's memory as it is sold, what programs get: an H100 of 80 has 79.2 GiB for them, an H200 of 141 has 139.8
_USABLE = 0.99
#: dense bf16 TFLOP/s by a part of the GPU's name, most specific first (NVIDIA's data sheets, without sparsity)
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
}


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
    """
    train = config.train
    seen = [] if train.device_memory_gb is not None or not has_gpu() else _nvidia_smi()
    if not seen and train.device_memory_gb is None and config.model.scale == "lab" and not has_gpu():
        memory, basis = _free_ram()
        tflops, tflops_basis = (train.device_tflops, "train.device_tflops") if train.device_tflops else (None, "no peak is stated")
        return Device("cpu", "CPU", True, memory, basis, tflops, tflops_basis, train.processes or 1, train.nodes)
    name, memory, basis = "GPU", None, "no GPU is here, and train.device_memory_gb does not state one"
    if train.device_memory_gb is not None:
        memory, basis = _USABLE * train.device_memory_gb * GIB, f"train.device_memory_gb={train.device_memory_gb:g}, 99 % of it"
    elif seen:
        name, basis = seen[0][0], "nvidia-smi, 99 % of it"
        memory = min(size for _, size in seen)
    tflops, tflops_basis = _peak(name) if train.device_tflops is None else (train.device_tflops, "train.device_tflops")
    count = train.processes or len(seen) or 1
    return Device("cuda", name, bool(seen), memory, basis, tflops, tflops_basis, count, train.nodes)


def passes_precision(train: OptimizationConfig, device: Device) -> str:
    """fp32 or bf16: what both passes compute in; `auto` is bf16 on a GPU and fp32 on a CPU, as in runtime.resolve_precision."""
    if train.precision != "auto":
        return train.precision
    return "bf16" if device.kind == "cuda" else "fp32"


def _peak(name: str) -> tuple[float | None, str]:
    for part, tflops in PEAK_TFLOPS.items():
        if part in name:
            return tflops, f"data sheet of {part}, dense bf16"
    return None, "no peak is stated"


def _nvidia_smi() -> list[tuple[str, float]]:
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
