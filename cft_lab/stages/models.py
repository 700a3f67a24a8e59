"""The stage that a training begins with: the base model, made here, fetched or behind an API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cft_lab.config import Config, ModelConfig, key_part
from cft_lab.lab import WORLD_VERSION
from cft_lab.prompts import FORMATS
from cft_lab.runtime import cached_snapshot
from cft_lab.stages.common import (
    MODEL,
    open_metrics,
)
from cft_lab.store import Stage, Work


def base_model(config: Config) -> Stage:
    """A lab model pretrained here, a hub model from the local cache, or the name of a model behind an API."""
    model = config.model

    def make(work: Work) -> Mapping[str, Any]:
        if model.api_model:
            return {"api_model": model.api_model}
        return _pretrain(config, work) if model.lab else _link_hub_model(model, work)

    return Stage(
        "base_model",
        model.name,
        key_part(model, "model") | ({"world": WORLD_VERSION} if model.lab else {}),
        make,
        prompts=asdict(FORMATS["lab"]) if model.lab else {},
        modules=("lab", "training", "runtime.py"),
    )


def _pretrain(config: Config, work: Work) -> Mapping[str, Any]:
    from cft_lab.lab.base_models import new_model, web_sequences
    from cft_lab.lab.tokenizer import train_tokenizer
    from cft_lab.runtime import machine, save_model
    from cft_lab.training.encode import Encoded
    from cft_lab.training.loop import train
    from cft_lab.training.resume import discard_resume

    lab = config.model.lab
    assert lab is not None
    tokenizer = train_tokenizer(lab.pretrain.seed, lab.pretrain.web, lab.vocab_size)
    sequences = [Encoded(tuple(ids), start) for ids, start in web_sequences(lab.pretrain, tokenizer)]
    model = new_model(lab, tokenizer)
    with open_metrics(work) as metrics:
        steps = train(
            model,
            sequences,
            lab.pretrain.optimization,
            seed=lab.pretrain.seed,
            folder=work.folder,
            save=lambda step: None,
            report=lambda row: metrics.append(asdict(row)),
            progress=config.progress,
        )
    save_model(model, tokenizer, config.model.end_of_turn, work.folder / MODEL)
    discard_resume(work.folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(len(sequence.ids) for sequence in sequences)
    return {"parameters": parameters, "steps": steps, "tokens": tokens, **machine()}


def _link_hub_model(model: ModelConfig, work: Work) -> Mapping[str, Any]:
    snapshot = cached_snapshot(str(model.hub_id), model.revision)
    if snapshot is None:
        raise FileNotFoundError(f"model.hub_id={model.hub_id}: its weights are not in the local cache")
    (work.folder / MODEL).unlink(missing_ok=True)
    (work.folder / MODEL).symlink_to(snapshot, target_is_directory=True)
    return {"snapshot": snapshot.name}
