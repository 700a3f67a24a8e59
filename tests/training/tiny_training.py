"""A model, sequences and jobs that train in a second, and scripts that run them in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cft_lab.config import PROJECT_ROOT, OptimizationConfig

HERE = Path(__file__).parent
CONFIG = OptimizationConfig(
    lr=1e-3, global_batch_size=8, micro_batch_tokens=96, save_every_steps=1000, resume_every_steps=1, cpu_threads=1, epochs=3
)
SEED = 3


def trained_optimizer(model: Any, steps: int = 2) -> Any:
    """An optimizer with moments, after a few steps on noise."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        ids = torch.arange(5 + step, 25 + step)[None]
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def torchrun(script: str, *arguments: object, processes: int = 2) -> list[str]:
    """The command that runs a script of this folder in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, str(HERE / script), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Of a child: this checkout's package, one thread, no GPU."""
    paths = os.pathsep.join((str(PROJECT_ROOT), str(HERE)))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@contextlib.contextmanager
def child(command: list[str], **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own that does not outlive the test, nor do the processes of its group."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(**more), start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finished(command: list[str], timeout_s: float = 120, **more: str) -> str:
    """Runs a child to its end and returns what it printed; fails the test if it failed."""
    with child(command, **more) as process:
        out, errors = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, errors[-4000:]
    return out
