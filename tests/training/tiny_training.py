"""A model, sequences and jobs that train in a second, and scripts that run them in processes of their own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cft_lab.config import PROJECT_ROOT, OptimizationConfig, TrainConfig
from cft_lab.json_files import write_records
from cft_lab.records import Example, Message
from cft_lab.tracking import read_metrics
from cft_lab.training.job import TrainingJob, write_job

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
    paths = os.pathsep.join(filter(None, (str(PROJECT_ROOT), str(HERE), os.environ.get("PYTHONPATH"))))
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


def make_base(folder: Path) -> Path:
    """A folder with `model`, the lab's debug model before its pretraining, and `examples.jsonl`; returns it."""
    from cft_lab.hydra_config import compose
    from cft_lab.lab.base_models import new_model
    from cft_lab.lab.tokenizer import TURN_END, train_tokenizer
    from cft_lab.runtime import save_model

    lab = compose("model=lab-debug").model.lab
    assert lab is not None
    tokenizer = train_tokenizer(lab.pretrain.seed, lab.pretrain.web, lab.vocab_size)
    save_model(new_model(lab, tokenizer), tokenizer, TURN_END, folder / "model")
    rng = random.Random(0)
    words = ["Ada", "has", "3", "pens", "and", "buys", "12", "more", "so", "right"]
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 20))) for _ in range(96)]
    examples = [Example(str(i), (Message("user", texts[i]),), texts[i + 48]) for i in range(48)]
    write_records(folder / "examples.jsonl", examples)
    return folder


def make_job(base: Path, folder: Path, **train: Any) -> TrainingJob:
    """18 steps of 8 sequences; `train` are fields of TrainConfig."""
    from cft_lab.lab.tokenizer import TURN_END

    settings = {name: getattr(CONFIG, name) for name in ("lr", "global_batch_size", "micro_batch_tokens", "cpu_threads", "epochs")}
    config = TrainConfig(**settings | {"resume_every_steps": 3, "save_every_steps": 6} | train)
    folder.mkdir(parents=True, exist_ok=True)
    return TrainingJob(base / "model", base / "examples.jsonl", folder, config, SEED, TURN_END, "chat")


def start(job: TrainingJob, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Runs a job in a parent process of its own: see run_training_job.py."""
    write_job(job, job.folder.with_suffix(".job.json"))
    return child([sys.executable, str(HERE / "run_training_job.py"), str(job.folder.with_suffix(".job.json")), *arguments])


def losses(folder: Path) -> list[float]:
    """The losses of a metrics file, each step once."""
    rows = [row for row in read_metrics(folder) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def wait_for(what: Callable[[], Any], timeout_s: float = 90) -> Any:
    """Waits until something is so, and returns it."""
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def rank_pids(folder: Path) -> dict[int, int]:
    """The process ids of a training's running processes by their rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}/launch/job.json".encode() in (process / "cmdline").read_bytes().split(b"\0"):
                environ = dict(entry.partition(b"=")[::2] for entry in (process / "environ").read_bytes().split(b"\0"))
                if b"LOCAL_RANK" in environ:
                    found[int(environ[b"RANK"])] = int(process.name)
    return found
