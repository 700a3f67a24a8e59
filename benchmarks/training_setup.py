"""What the training benchmarks share: rows with the lengths of real CFT rows, models, the machine's peak, children in lockstep.

With CPU_TIME=1 in the environment the training benchmarks use one thread and count CPU seconds instead of the clock's: on a machine
with other work, ratios of those still say something.

Nothing here imports cft_lab or torch at the top: the peer's environment reads this file too.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cft_lab.config import OptimizationConfig

CPU_TIME = os.environ.get("CPU_TIME") == "1"
THREADS = 1 if CPU_TIME else 2  # of every contender on a CPU
clock = time.process_time if CPU_TIME else time.perf_counter  # of everything that is measured

# Tokens of prompt and target of 90 public critique fine-tuning rows in the schema of WebInstruct-CFT, in Qwen's chat template and
# by Qwen's tokenizer (the other 30 of the 120 rows are longer than the paper's cut-off of 2,048 tokens and would be dropped).
# Mean 1,262 tokens, 45 % of them supervised.
CFT_LENGTHS: list[list[int]] = json.loads(Path(__file__).with_name("cft_lengths.json").read_text())


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Qwen2 to train from random weights, and how CFT lengths are scaled for it.

    `shrink` divides every length. A narrow model spends a larger share of a long sequence in attention than a wide one does
    (tokens/width), so lengths shrink with the width and attention keeps about the share that it has at 7B and 1,262 tokens.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    tied: bool = True
    shrink: int = 1

    def config(self) -> Any:
        """The Qwen2Config."""
        from transformers import Qwen2Config

        return Qwen2Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=self.tied,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )


# The two small ones keep what Qwen2.5-1.5B has: an MLP of 5 to 6 times the width, grouped key/value heads, tied embeddings with
# about 15 % of the parameters. That share, not the vocabulary's size, sets the share of the time that the output projection takes.
SHAPES = {
    "22M": Shape(512, 2688, 4, 8, 2, 6144, shrink=4),
    "4.5M": Shape(256, 1408, 3, 4, 2, 2816, shrink=8),
    "Qwen2.5-1.5B": Shape(1536, 8960, 28, 12, 2, 151936),
    "Qwen2.5-7B": Shape(3584, 18944, 28, 28, 4, 152064, tied=False),
}

Row = tuple[list[int], int]  # token ids, index of the first supervised one


def cft_rows(shape: Shape, count: int, seed: int = 0) -> list[Row]:
    """Rows with lengths drawn from `CFT_LENGTHS`; their ids follow a Zipf law, so that there is something to learn."""
    draw = random.Random(seed)
    lengths = [
        (round(prompt / shape.shrink), round(target / shape.shrink)) for prompt, target in draw.choices(CFT_LENGTHS, k=count)
    ]
    return [(_zipf(draw, shape.vocab_size, prompt + target), prompt) for prompt, target in lengths]


def equal_rows(shape: Shape, count: int, length: int, seed: int = 0) -> list[Row]:
    """Rows of one length, supervised from the first token on."""
    draw = random.Random(seed)
    return [(_zipf(draw, shape.vocab_size, length), 0) for _ in range(count)]


def _zipf(draw: random.Random, vocab_size: int, count: int) -> list[int]:
    """Ids from 2 on (0 pads, 1 ends), the k-th with a probability like 1/k."""
    return [min(vocab_size - 1, 1 + int(vocab_size ** draw.random())) for _ in range(count)]


def matmul_peak(device: str, dtype: Any, seconds: float = 1.0) -> float:
    """Best FLOP/s of square products of several sizes, each tried for a share of `seconds`."""
    import torch

    sizes = (4096, 8192, 16384) if device == "cuda" else (1024, 2048, 3072)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        ends = clock() + seconds / len(sizes)
        while clock() < ends:
            synchronize(device)
            started = clock()
            a @ b
            synchronize(device)
            best = max(best, 2 * size**3 / (clock() - started))
    return best


def synchronize(device: str) -> None:
    """Waits for the GPU, if there is one."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    return _status_mb("VmRSS")


def peak_mb(device: str, before: float) -> float:
    """Most memory in MB since the process began: on the GPU, else resident and less what was there `before`."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}: these benchmarks measure memory on Linux only")


# Children in lockstep. A contender is a process of its own that does one optimizer step whenever it is told to, so that
# contenders take turns step by step and other work on the machine hits all of them alike.

ROWS = "rows.json"  # beside the model's files: what a child trains on


def write_model(folder: Path, shape: Shape) -> None:
    """A model with random weights, in the hub's format."""
    import torch
    from transformers import Qwen2ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    Qwen2ForCausalLM(shape.config()).save_pretrained(folder)


def run_ours(folder: Path, config: OptimizationConfig) -> None:
    """A child that trains the model in `folder` on its rows with the project's own loop."""
    run_child(folder, lambda model, rows, report: _train(model, rows, config, folder, report))


def _train(model: Any, rows: Any, config: OptimizationConfig, folder: Path, report: Callable[[Any], None]) -> None:
    from cft_lab.training.loop import train

    train(model, rows, config, seed=0, folder=folder, save=lambda step: None, report=report, progress=False)


def run_child(folder: Path, run: Callable[[Any, Any, Callable[[Any], None]], None]) -> None:
    """Loads the model and rows in `folder` and tells of each of the steps that `run(model, rows, report)` reports."""
    import torch

    from cft_lab.runtime import load_model, quiet_transformers
    from cft_lab.training.encode import Encoded

    quiet_transformers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before_mb = resident_mb()
    rows = [Encoded(tuple(ids), start) for ids, start in json.loads((folder / ROWS).read_text())]
    model = load_model(folder, "float32")
    tell(ready=True)
    started = clock()

    def report(step: Any) -> None:
        nonlocal started
        seconds = clock() - started
        peak = peak_mb(device, before_mb)
        tell(seconds=seconds, loss=step.loss, grad_norm=step.grad_norm, tokens=step.tokens, peak_mb=peak)
        started = clock()

    run(model, rows, report)


MARK = "TOLD "


def tell(**facts: Any) -> None:
    """A child's answer to its parent; then it waits for the word to go on, and ends if the parent has closed the line."""
    print(MARK + json.dumps(facts), flush=True)
    if not sys.stdin.readline():
        os._exit(0)


class Child:
    """A contender's process: `ready()` waits until it has told that it is, `next()` lets it do a step and returns what it tells."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._log = log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=environment
        )

    def ready(self) -> dict[str, Any]:
        """What it tells first."""
        return self._read()

    def next(self) -> dict[str, Any]:
        """What it tells of the next optimizer step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                facts: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return facts
        raise RuntimeError(f"a contender ended early, with this at the end of its log:\n{self._log.read_text()[-3000:]}")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


def take_turns(children: dict[str, Child], warmup: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """What each contender told of its measured steps; the order changes from step to step."""
    names = list(children)
    for child in children.values():
        child.ready()
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for step in range(warmup + steps):
        for name in names[step % len(names) :] + names[: step % len(names)]:
            facts = children[name].next()
            if step >= warmup:
                told[name].append(facts)
    return told


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median [lowest, highest]."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def surroundings(*packages: str) -> str:
    """Date, versions and device, as RESULTS.md wants them."""
    import torch

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", *packages))
    cuda = torch.cuda.is_available()
    device = (
        torch.cuda.get_device_name()
        if cuda
        else f"CPU {torch.backends.cpu.get_cpu_capability()}, {THREADS} threads{', CPU seconds' if CPU_TIME else ''}"
    )
    return f"{datetime.date.today()}; {versions}; {device}"
