"""The processes of one training, and a model that is spread over them.

One process has no process group and an ordinary model. Several have FSDP2: every parameter, gradient and optimizer moment is
cut along its first dimension, each process keeping its share; a block's parameters come together for its forward and its
backward pass and are let go again. The same code runs on CPU (gloo) and on GPUs (nccl).

Gradients are SUMMED over the processes, not averaged: the loss is divided by the target tokens of the whole global batch
before the backward pass. They are reduced after every micro-batch: adding them up first would save communication, but each
process would hold the gradients of the WHOLE model (128 GB for 32B parameters), and a micro-batch of some thousand tokens
computes for much longer than its gradients travel between the GPUs of a node.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from cft_lab.config import OptimizationConfig

#: How long one process waits for another in a collective before it gives up. A process that dies is noticed by the launcher
#: within seconds; this is the second line, for one that hangs. Writing a large candidate to a slow disk takes minutes.
GROUP_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of a training. With a world of 1 every method is local and free."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, in float64."""
        import torch

        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return self.sum([float(flag)])[0] > 0

    def from_first(self, value: int) -> int:
        """The first process's value, on every process."""
        return int(self.sum([value if self.first else 0])[0])

    def barrier(self) -> None:
        """Waits until every process is here."""
        self.sum([0.0])


def conflict_in_ranks(config: OptimizationConfig, world: int) -> str | None:
    """Says which settings do not work in so many processes; None if all do."""
    if world > 1 and config.weights == "bf16" and config.optimizer == "adamw-8bit":
        return (
            "weights=bf16 with optimizer=adamw-8bit works in one process only (torchao 0.18 loses the type of its sharded "
            "moments): choose weights=fp32, whose 10 bytes per parameter are shared by the processes, or optimizer=adamw-bf16"
        )
    return None


def default_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")


def one_rank() -> Ranks:
    """This process alone."""
    return Ranks(0, 1, 0, default_device())


@contextlib.contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The processes that torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR) tells of; one where it is absent."""
    import torch

    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = default_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield one_rank()
        return
    if device.type == "cuda":
        torch.distributed.init_process_group("nccl", timeout=GROUP_TIMEOUT, device_id=device)
    else:
        torch.distributed.init_process_group("gloo", timeout=GROUP_TIMEOUT)
    yield Ranks(torch.distributed.get_rank(), world, int(os.environ["LOCAL_RANK"]), device)
    torch.distributed.destroy_process_group()  # not after an error: the others may be gone, and it would wait for them


def leave(code: int) -> NoReturn:
    """Ends a process of a group that has taken leave, at once: an interpreter that goes down beside torch's threads may abort
    ("terminate called without an active exception"), which torchrun would take for a lost process and start all again.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def shard(root: torch.nn.Module, model: PreTrainedModel, ranks: Ranks, config: OptimizationConfig, precision: str) -> None:
    """Spreads a model over the processes, in place: each decoder block, then what is left (embeddings, norm, output projection).

    `root` holds the model and is what is called in training: only during its passes are the weights of the rest whole. `precision`
    (fp32 or bf16) is what the passes compute in; the optimizer sees weights in their own dtype, and gradients are added up in
    float32. Nothing happens in a world of 1.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if ranks.world == 1:
        return
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" and config.weights == "fp32" else None,
        reduce_dtype=torch.float32,
    )
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    blocks: Any = model.base_model.layers
    for module in [*blocks, root]:
        sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(sharded, FSDPModule)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def empty_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The causal model of a folder, without memory for its weights: they are on the meta device until `fill`.

    It generates as the folder's own generation_config says, as `from_pretrained` would have it.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    with init_empty_weights(include_buffers=False):  # buffers, such as rotary frequencies, are computed, not loaded
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def fill(model: PreTrainedModel, folder: Path, ranks: Ranks) -> None:
    """Loads the weights of a folder of safetensors into a sharded `empty_model`: each process reads its own share.

    A 32B model never stands in the memory of any machine as a whole.
    """
    import torch
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device=ranks.device)
    model.tie_weights()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}  # tied weights once
    with one_process_is_meant():
        load(weights, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=ranks.world == 1)


@contextlib.contextmanager
def one_process_is_meant() -> Iterator[None]:
    """Silences torch's warning that a checkpoint is saved or loaded without a process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be spread over the processes, put together; every process calls it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
