"""Candidates: the weights of a training after some optimizer steps, as folders that any engine loads.

A folder is made under another name and renamed, so that what has a candidate's name is whole. Weights are gathered one by
one over the processes, in the dtype that is written: the first process holds one copy of them in CPU memory.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from cft_lab.config import DataError
from cft_lab.runtime import save_model
from cft_lab.training.faults import TrainingError
from cft_lab.training.ranks import Ranks, whole
from cft_lab.training.writing import cause_in_words, sync

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "model.safetensors"  # of a model that is not split into shards
_HEADER_BYTES = 100_000_000  # of a safetensors file, at most


def candidate_folder(folder: Path, step: int) -> Path:
    """Where the candidate of an optimizer step lies."""
    return folder / f"step-{step:06d}"


def list_candidates(folder: Path) -> list[Path]:
    """The candidates of a training, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def candidate_step(candidate: Path) -> int:
    """The optimizer step of a candidate's folder."""
    return int(candidate.name.removeprefix("step-"))


def save_candidate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    end_of_turn: str,
    folder: Path,
    ranks: Ranks,
    dtype: torch.dtype,
) -> None:
    """Writes `folder` in the hub's format, weights in `dtype`; see `runtime.save_model` for where it stops generating.

    Every process calls it; the first one writes, and the others wait until the folder is there. Raises TrainingError if it cannot
    be written, a full disk above all; nothing is left of it then.
    """
    weights = _gather(model, ranks, dtype)
    if ranks.first:
        made = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        try:
            save_model(_plain(model, dtype), tokenizer, end_of_turn, made, weights)
            for file in made.iterdir():
                sync(file)
            sync(made)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(made, ignore_errors=True)
            raise TrainingError(_cannot_save(folder, weights, error)) from error
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed after this step and resumed before it
        os.replace(made, folder)
        sync(folder.parent)
    ranks.barrier()


def _cannot_save(folder: Path, weights: Mapping[str, torch.Tensor], error: Exception) -> str:
    needed = sum(weight.numel() * weight.element_size() for weight in weights.values())
    return (
        f"the candidate {folder} could not be written: {cause_in_words([error], needed, folder)}. Free some space, or bound what "
        "is kept on the disk (train.keep_candidates, train.selection.mode=none); what was trained up to the last resume state stays"
    )


def _gather(model: PreTrainedModel, ranks: Ranks, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every parameter by name (tied ones once) on the CPU of the first process; nothing on the others."""
    weights = {}
    for name, parameter in model.named_parameters():
        weight = whole(parameter.detach().to(dtype))
        if ranks.first:
            weights[name] = weight.cpu()
    return weights


def _plain(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The same model without weights, and without what training wrapped around it."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        plain: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=dtype)
    plain.generation_config = model.generation_config
    return plain


def check_model_folder(folder: Path) -> None:
    """Raises DataError, naming the file, if a model folder has no config or if a shard of its weights is missing or truncated."""
    if not (folder / "config.json").is_file():
        raise DataError(f"model folder {folder}: config.json is missing: {_REMEDY}")
    index = folder / "model.safetensors.index.json"
    shards: Mapping[str, set[str]] = {WEIGHTS: set()}
    if index.is_file():
        shards = _shards(index)
    for name, tensors in shards.items():
        problem = _damage(folder / name, tensors)
        if problem is not None:
            raise DataError(f"model folder {folder}: {name} {problem}: {_REMEDY}")


_REMEDY = "copy or download the folder again, or delete it if it was made here"


def _shards(index: Path) -> dict[str, set[str]]:
    """Each shard of an index with the names of its tensors."""
    try:
        tensor_files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise DataError(f"model folder {index.parent}: {index.name} cannot be read: {_REMEDY}") from error
    shards: dict[str, set[str]] = {}
    for tensor, file in tensor_files.items():
        shards.setdefault(file, set()).add(tensor)
    return shards


def _damage(file: Path, tensors: set[str]) -> str | None:
    """What is wrong with a safetensors file that should hold `tensors`; None if all is well. Only its header is read.

    The format: 8 bytes with the length of the header, the header (JSON: name -> dtype, shape, data_offsets), the data.
    """
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > _HEADER_BYTES or size < 8 + length:
            return f"is truncated: it has {size:,} bytes and not even a whole header"
        try:
            header = json.loads(opened.read(length))
            held = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has no readable header"
    expected = 8 + length + max((end for _, end in held.values()), default=0)
    if size != expected:
        return f"has {size:,} of {expected:,} bytes"
    lost = sorted(tensors - held.keys())
    return f"lacks {lost[0]}, which the index says it holds" if lost else None
