"""What tests of sweeps share: command lines that are expanded, composed and planned in this process."""

from collections.abc import Callable
from pathlib import Path

from cft_lab.config import Config
from cft_lab.hydra_config import SWEEPS, Composer, initialized
from cft_lab.sweeps.expand import AskedCell, compose_all, expand
from cft_lab.sweeps.plan import Plan, make_plan
from cft_lab.sweeps.run_folder import RunFolder

KINDS = ("data", "teacher", "train", "evaluation", "record")
#: small jobs, two at once: the throw-away nodes share this machine
SMALL_JOBS = (
    "cluster=slurm",
    "+cluster.options.licenses=core:1",
    *(f"cluster.{kind}.{field}" for kind in KINDS for field in ("cpus=1", "memory_gb=3", "minutes=30")),
    "cluster.train.gpus=2",
    "cluster.evaluation.gpus=1",
)
SHORT_AND_ONE_THREAD = (
    "train.cpu_threads=1",
    "engine.cpu_threads=1",
    "model.lab.pretrain.tokens=20_000",
    "model.lab.pretrain.optimization.cpu_threads=1",
)
ON_SLURM = (*SMALL_JOBS, *SHORT_AND_ONE_THREAD)

PlanSweep = Callable[..., Plan]
FreezeSweep = Callable[..., RunFolder]

FIVE = ("table2", "table5", "table6", "table7", "table8")


def asked(*arguments: str, folder: Path = SWEEPS) -> tuple[AskedCell, ...]:
    with initialized():
        return expand(arguments, folder).cells


def composed(*arguments: str, folder: Path = SWEEPS) -> list[tuple[AskedCell, Config]]:
    with initialized():
        return compose_all(expand(arguments, folder).cells, Composer())


def planned(*arguments: str, folder: Path = SWEEPS) -> Plan:
    plan, problems = make_plan(composed(*arguments, folder=folder))
    assert not problems.lines(2)
    return plan


def sweep_file(folder: Path, text: str, name: str = "mine") -> Path:
    """A sweep file in a folder of its own, which is returned."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)
    return folder
