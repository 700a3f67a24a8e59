"""TRL's SFTTrainer as a contender of training_trl.py, which starts this file with the peer's own Python.

    PEER_PYTHON benchmarks/training_trl_peer.py FOLDER SETTING GLOBAL_BATCH

FOLDER has the model and peer.json: the rows of each optimizer step in order. One optimizer step per line on standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from training_setup import THREADS, clock, peak_mb, resident_mb, tell
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

# Passed to SFTConfig; `rows_per_pass` is per_device_train_batch_size, and the accumulation makes up the global batch. `sort`
# puts the rows of an optimizer step in order of length, so that passes are of like length while the step stays the same step.
DEFAULTS: dict[str, Any] = {"rows_per_pass": 8}
PLAIN: dict[str, Any] = {"gradient_checkpointing": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": DEFAULTS,
    "no checkpointing": {**DEFAULTS, **PLAIN},
    "sorted, 8 rows a pass": {**PLAIN, "rows_per_pass": 8, "sort": True},
    "sorted, 4 rows a pass": {**PLAIN, "rows_per_pass": 4, "sort": True},
    "sorted, 2 rows a pass": {**PLAIN, "rows_per_pass": 2, "sort": True},
    "1 row a pass": {**PLAIN, "rows_per_pass": 1},
    "1 row a pass, eager attention": {**PLAIN, "rows_per_pass": 1, "attention": "eager"},
    "1 row a pass, torch.compile": {**PLAIN, "rows_per_pass": 1, "torch_compile": True},
    "sorted, 2 rows a pass, torch.compile": {**PLAIN, "rows_per_pass": 2, "sort": True, "torch_compile": True},
    "1 row a pass, loader process": {**PLAIN, "rows_per_pass": 1, "dataloader_num_workers": 1},
    "batch_rebalance, 4 rows a pass": {**PLAIN, "rows_per_pass": 4, "train_sampling_strategy": "batch_rebalance"},
    "group_by_length, 4 rows a pass": {**PLAIN, "rows_per_pass": 4, "train_sampling_strategy": "group_by_length"},
    "padding-free, 2 rows a pass": {**PLAIN, "rows_per_pass": 2, "sort": True, "padding_free": True, "max_length": None},
    "padding-free, 4 rows a pass": {**PLAIN, "rows_per_pass": 4, "sort": True, "padding_free": True, "max_length": None},
    "padding-free, 8 rows a pass": {**PLAIN, "rows_per_pass": 8, "sort": True, "padding_free": True, "max_length": None},
}


class Lockstep(TrainerCallback):
    """Tells of each optimizer step once it is logged, and waits."""

    def __init__(self, before_mb: float, device: str) -> None:
        self.before_mb = before_mb
        self.device = device
        self.tokens = 0.0
        self.started = clock()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """`num_tokens` counts real tokens since the start."""
        if logs is None or "grad_norm" not in logs:
            return  # the summary at the end
        seconds = clock() - self.started
        tokens, self.tokens = logs["num_tokens"] - self.tokens, logs["num_tokens"]
        peak = peak_mb(self.device, self.before_mb)
        tell(seconds=seconds, loss=logs["loss"], grad_norm=logs["grad_norm"], tokens=tokens, peak_mb=peak)
        self.started = clock()


def dataset(steps: list[list[list[Any]]], sort: bool) -> Dataset:
    """The rows of all steps in order."""
    rows = [row for step in steps for row in (sorted(step, key=lambda row: -len(row[0])) if sort else step)]
    labels = [[-100] * start + ids[start:] for ids, start in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})


def trainer(folder: Path, setting: str, global_batch: int, before_mb: float) -> Any:
    """An SFTTrainer. Rows come tokenized: the tokenizer only says how to pad."""
    from trl import SFTConfig, SFTTrainer

    choice = dict(SETTINGS[setting])
    rows_per_pass = choice.pop("rows_per_pass")
    attention = choice.pop("attention", "sdpa")
    rows = dataset(json.loads((folder / "peer.json").read_text()), choice.pop("sort", False))
    cuda = torch.cuda.is_available()
    arguments = {
        "bf16": cuda,
        "output_dir": str(folder / "peer"),
        "per_device_train_batch_size": rows_per_pass,
        "gradient_accumulation_steps": global_batch // rows_per_pass,
        "train_sampling_strategy": "sequential",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, "<end>")), pad_token="<pad>", eos_token="<end>"
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention),
        args=SFTConfig(**(arguments | choice)),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Lockstep(before_mb, "cuda" if cuda else "cpu")],
    )


def main() -> None:
    import trl.trainer.sft_trainer  # noqa: F401 (its memory is not the training's)

    torch.set_num_threads(THREADS)
    before_mb = resident_mb()
    folder, setting, global_batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    peer = trainer(folder, setting, global_batch, before_mb)
    tell(ready=True)
    peer.train()


if __name__ == "__main__":
    main()
