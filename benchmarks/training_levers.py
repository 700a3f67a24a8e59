"""What each lever of the training loop is worth alone: real tokens/s and peak memory, each lever in a process of its own.

    python benchmarks/training_levers.py [--steps N] [--models lab-qwen2 22M] [--levers NAME ...]

Every line differs from the base (padding-free micro-batches of 1,536 tokens, loss at targets only, fused AdamW, float32) in one
thing, and takes turns with the base step by step. The lab's model trains on its own web text as in pretraining, the other on
rows with a CFT length mix. "padded" is the loop as it was before padding-free batches, with 32 rows a pass; "plain loop" is the
same without padding, beside which "AdamW not fused" is to be read.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from training_reference import Reference, reference_train
from training_setup import (
    ROWS,
    SHAPES,
    THREADS,
    Child,
    cft_rows,
    clock,
    peak_mb,
    resident_mb,
    run_child,
    run_ours,
    spread,
    surroundings,
    table,
    take_turns,
    tell,
    write_model,
)

from cft_lab.config import OptimizationConfig
from cft_lab.hydra_config import compose
from cft_lab.lab.base_models import new_model, web_sequences
from cft_lab.lab.tokenizer import train_tokenizer
from cft_lab.runtime import quiet_transformers

LAB = "lab-qwen2"
BASE = "base"
SHARDED = "FSDP2, two processes"  # they share the base's threads; time and memory are those of the first
PROCESSES = 2
GLOBAL_BATCH = {LAB: 32, "22M": 12}  # sequences per optimizer step
STEPS = {LAB: 40, "22M": 6}  # measured steps of each line; the lab's take a fifth of a second
TOGETHER = 4  # levers that take turns with one base; their processes are in memory at the same time
WARMUP = 2

# What a line changes: fields of the configuration, or the plain loop of training_reference.py.
LEVERS: dict[str, dict[str, Any] | Reference] = {
    "padded": Reference(padded=True),
    "padded, logits everywhere": Reference(padded=True, all_logits=True),
    "logits everywhere": Reference(padded=False, all_logits=True),
    "plain loop": Reference(padded=False),
    "plain loop, AdamW not fused": Reference(padded=False, fused=False),
    "loss in chunks of 256": {"loss_chunk_tokens": 256},
    "micro-batches of 512 tokens": {"micro_batch_tokens": 512},
    "micro-batches of 4,096 tokens": {"micro_batch_tokens": 4096},
    "bf16 autocast": {"precision": "bf16"},
    "selective checkpointing": {"activation_checkpointing": "selective"},
    "full checkpointing": {"activation_checkpointing": "full"},
    "compile": {"compile": True},
    "AdamW with 8-bit moments": {"optimizer": "adamw-8bit"},
    "bf16 weights, AdamW with 8-bit moments": {"weights": "bf16", "precision": "bf16", "optimizer": "adamw-8bit"},
    "bf16 weights, AdamW in bf16": {"weights": "bf16", "precision": "bf16", "optimizer": "adamw-bf16"},
    SHARDED: {},
}


def base_config(model: str) -> OptimizationConfig:
    """The base setting, at a constant learning rate."""
    return OptimizationConfig(
        lr=1e-4,
        warmup_ratio=0.0,
        final_lr_ratio=1.0,
        global_batch_size=GLOBAL_BATCH[model],
        micro_batch_tokens=1536,
        save_every_steps=1_000_000,
        resume_every_steps=1_000_000,
        cpu_threads=THREADS,
    )


def run_lever(folder: Path, model_name: str, name: str) -> None:
    """The child process of one line."""
    config = base_config(model_name)
    change = LEVERS.get(name, {})
    if name == SHARDED:
        run_sharded(folder, dataclasses.replace(config, cpu_threads=max(1, THREADS // PROCESSES)))
    elif isinstance(change, Reference):
        run_child(folder, lambda model, rows, report: reference_train(model, rows, config, change, report))
    else:
        run_ours(folder, dataclasses.replace(config, **change))


def run_sharded(folder: Path, config: OptimizationConfig) -> None:
    """One of the processes that share the model in `folder`; the first one tells of the steps, as `run_child` does."""
    import torch

    from cft_lab.training.encode import Encoded
    from cft_lab.training.loop import train
    from cft_lab.training.ranks import empty_model, open_ranks

    quiet_transformers()
    rows = [Encoded(tuple(ids), start) for ids, start in json.loads((folder / ROWS).read_text())]
    before_mb, started = resident_mb(), clock()
    with open_ranks() as ranks:
        if ranks.first:
            tell(ready=True)
            started = clock()

        def report(step: Any) -> None:
            nonlocal started
            if ranks.first:
                seconds, peak = clock() - started, peak_mb(ranks.device.type, before_mb)
                tell(seconds=seconds, loss=step.loss, grad_norm=step.grad_norm, tokens=step.tokens, peak_mb=peak)
            started = clock()

        model = empty_model(folder, torch.float32)
        task: dict[str, Any] = {"seed": 0, "folder": folder, "save": lambda step: None, "report": report, "progress": False}
        train(model, rows, config, ranks=ranks, weights=folder, **task)


def write_task(folder: Path, model_name: str, steps: int) -> None:
    """The model and the rows."""
    quiet_transformers()
    count = steps * GLOBAL_BATCH[model_name]
    if model_name == LAB:
        lab = compose().model.lab
        assert lab is not None
        lab.pretrain.tokens = 100 * count
        tokenizer = train_tokenizer(0, lab.pretrain.web, lab.vocab_size)
        new_model(lab, tokenizer).save_pretrained(folder)
        rows = list(web_sequences(lab.pretrain, tokenizer))[:count]
        assert len(rows) == count
    else:
        write_model(folder, SHAPES[model_name])
        rows = cft_rows(SHAPES[model_name], count)
    (folder / ROWS).write_text(json.dumps(rows))


def measure(folder: Path, model_name: str, names: list[str], steps: int) -> dict[str, list[dict[str, Any]]]:
    """What the base and the levers in `names` told of their steps."""
    with contextlib.ExitStack() as stack:
        children = {}
        for place, name in enumerate([BASE, *names]):
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"] if name == SHARDED else []
            command = [sys.executable, *launcher, __file__, "--child", str(folder), model_name, name]
            children[name] = Child(command, folder / f"{place}.log")
            stack.callback(children[name].close)
        return take_turns(children, WARMUP, steps)


def result_rows(folder: Path, model_name: str, names: list[str], steps: int) -> list[list[str]]:
    """A line for each lever: speed, times the base's speed in the same step, peak memory beside the base's."""
    lines = []
    for start in range(0, len(names), TOGETHER):
        told = measure(folder, model_name, names[start : start + TOGETHER], steps)
        base = told.pop(BASE)
        named = {BASE: base, **told} if start == 0 else told
        for name, rows in named.items():
            speeds = [row["tokens"] / row["seconds"] for row in rows]
            ratios = [own["seconds"] / row["seconds"] for row, own in zip(rows, base, strict=True)]
            loss = max(abs(row["loss"] / own["loss"] - 1) for row, own in zip(rows, base, strict=True))
            memory = f"{rows[-1]['peak_mb']:,.0f}"
            lines.append(
                [name, spread(speeds), spread(ratios, 2), memory, f"{rows[-1]['peak_mb'] / base[-1]['peak_mb']:.2f}", f"{loss:.0e}"]
            )
    return lines


def available(name: str) -> bool:
    """Whether a lever's package is here."""
    change = LEVERS[name]
    low_bit = not isinstance(change, Reference) and change.get("optimizer", "adamw") != "adamw"
    return not low_bit or importlib.util.find_spec("torchao") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help="measured optimizer steps of each line, instead of what each model has")
    parser.add_argument("--models", nargs="+", choices=list(GLOBAL_BATCH), default=list(GLOBAL_BATCH))
    parser.add_argument("--levers", nargs="+", choices=list(LEVERS), default=list(LEVERS))
    options = parser.parse_args()
    if options.child:
        run_lever(Path(options.child[0]), *options.child[1:])
        return
    names = [name for name in options.levers if available(name)]
    if missing := [name for name in options.levers if name not in names]:
        print(f"not measured, because torchao is not installed: {', '.join(missing)}")
    print(surroundings(*(["torchao"] if importlib.util.find_spec("torchao") else [])))
    header = ["", "real tokens/s", "x base", "peak MB", "x base", "loss apart from base, largest"]
    for model_name in options.models:
        steps = options.steps or STEPS[model_name]
        with tempfile.TemporaryDirectory() as scratch:
            write_task(Path(scratch), model_name, WARMUP + steps)
            lines = result_rows(Path(scratch), model_name, names, steps)
        size = f"{GLOBAL_BATCH[model_name]} sequences per optimizer step, {steps} steps of each line: median [lowest, highest]"
        print(f"\n{model_name}, {size}\n\n{table(header, lines)}", flush=True)


if __name__ == "__main__":
    main()
