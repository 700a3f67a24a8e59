"""What training and generation share of a model's surroundings: device, threads, precision, rendered prompts, saved folders."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.prompts import render_plain
from cft_lab.records import Message

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

for _name in ("torchao", "torch.utils._pytree"):  # transformers imports torchao where it is, which warns of what it has for GPUs
    logging.getLogger(_name).setLevel(logging.ERROR)

GPU_DEVICE_FILES = ("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/kfd")


def make_accelerator() -> Accelerator:
    """The process's one Accelerator. Precision is applied by `autocast`, so one setting serves every stage."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision="no")


def set_threads(count: int) -> None:
    """Fixes torch's CPU threads: the number of threads changes the rounding of float sums, so it is part of stage keys."""
    import torch

    torch.set_num_threads(count)


def resolve_precision(precision: str, device_type: str) -> str:
    """`auto` becomes bf16 on a GPU that has it and fp32 elsewhere; CPUs differ too much to let them change a result."""
    import torch

    if precision != "auto":
        return precision
    return "bf16" if device_type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(precision: str, device_type: str) -> contextlib.AbstractContextManager[object]:
    """A context in which a training step's matrix products run in `precision` (fp32 or bf16); weights stay in float32."""
    import torch

    if precision == "bf16":
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def machine() -> dict[str, object]:
    """What a manifest says about the arithmetic: device, threads, torch's CPU capability."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def free(model: torch.nn.Module) -> None:
    """Drops the weights of a model that is not used again, so that what comes next has the memory."""
    import gc

    import torch

    model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def render_prompt(tokenizer: PreTrainedTokenizerBase, style: str, messages: Sequence[Message]) -> str:
    """The prompt as text, ending where the answer begins. `style` is a `PromptFormat.style`.

    Plain text begins with the BOS token of a tokenizer that puts one before every text; chat templates write their own.
    """
    if style == "plain":
        first = list(tokenizer("")["input_ids"])[:1]
        bos = str(tokenizer.bos_token) if first and first[0] == tokenizer.bos_token_id else ""
        return bos + render_plain(tuple(messages))
    rows = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))


def render_target(style: str, target: str) -> str:
    """A training target as it follows its prompt: plain prompts end without the blank that comes before a word."""
    return " " + target.lstrip() if style == "plain" else target


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a rendered text, with no special token added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def load_model(folder: Path, dtype: str) -> PreTrainedModel:
    """A causal model in `dtype` (float32 or bfloat16), whatever the folder was saved in: training wants float32 weights."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model


def quiet_transformers() -> None:
    """Silences the library's own progress bars: a small model is loaded and saved many times a minute."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    end_of_turn: str,
    folder: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes a folder in the hub's format whose generation_config stops at the end of a turn as well as at the base model's EOS.

    Base models end documents with another token than turns; an engine that trusted a saved EOS alone would run on. `weights` are
    written instead of the model's own.
    """
    from transformers import GenerationConfig

    quiet_transformers()
    stop = {tokenizer.convert_tokens_to_ids(end_of_turn), tokenizer.eos_token_id}
    for known in (model.config.eos_token_id, model.generation_config.eos_token_id if model.generation_config else None):
        stop |= set(known) if isinstance(known, list) else {known}
    model.generation_config = GenerationConfig(eos_token_id=sorted(stop - {None}), pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder, state_dict=dict(weights) if weights is not None else None, max_shard_size="5GB")
    tokenizer.save_pretrained(folder)


def has_gpu() -> bool:
    """Whether a GPU is here and not hidden, judged by device files."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return sys.platform == "darwin" or any(Path(file).exists() for file in GPU_DEVICE_FILES)


def hub_cache() -> Path:
    """The hub's cache folder by the hub's own rules: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{cache_home}/huggingface")).expanduser() / "hub"


def not_a_repository(hub_id: str) -> bool:
    """Whether this is neither a local folder nor what could be a hub repository's name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(hub_id)
    except HFValidationError:
        return not Path(hub_id).is_dir()
    return False


def cached_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """The folder of a model that is a local folder or lies in the hub's cache, whole (config, every shard); None if not."""
    if Path(hub_id).is_dir():
        return Path(hub_id).resolve() if _is_whole(Path(hub_id)) else None
    repository = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "")
    snapshot = repository / "snapshots" / commit
    return snapshot.resolve() if commit and _is_whole(snapshot) else None


def _is_whole(folder: Path) -> bool:
    """Whether a model folder has its config and every shard that its index names."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        return (folder / "config.json").exists() and all((folder / shard).exists() for shard in shards)
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
