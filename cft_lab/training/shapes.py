"""What follows from a decoder's shape alone, without its weights: how many parameters it has, and where.

Qwen2 and Llama differ here in one thing: Qwen2's query, key and value projections have biases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.config import ModelConfig, ShapeConfig
from cft_lab.lab.language import MAX_NUMBER, PERCENTS
from cft_lab.runtime import cached_snapshot

_NUMBERS = max(MAX_NUMBER, *PERCENTS) + 1
#: what the lab tokenizer adds to its BPE: every number after a blank, and those of two digits or more without one
NUMBER_TOKENS = _NUMBERS + max(_NUMBERS - 10, 0)


@dataclass(frozen=True)
class Parameters:
    """Parameters of a decoder by part."""

    embedding: int
    output: int  # 0 if the output projection is the embedding
    block: int
    blocks: int  # of all blocks together
    norm: int
    matrices: int  # of a block: what matrix products multiply with

    @property
    def total(self) -> int:
        """All parameters, each once."""
        return self.embedding + self.output + self.blocks + self.norm


def head_size(shape: ShapeConfig) -> int:
    """Width of one attention head."""
    return shape.hidden_size // shape.heads


def kv_size(shape: ShapeConfig) -> int:
    """Width of all keys (or values) of a token."""
    return shape.kv_heads * head_size(shape)


def count_parameters(shape: ShapeConfig) -> Parameters:
    """Counts what transformers' Qwen2ForCausalLM and LlamaForCausalLM hold (a test builds both and compares)."""
    width, kv = shape.hidden_size, kv_size(shape)
    matrices = 2 * width * width + 2 * width * kv + 3 * width * shape.intermediate_size
    biases = width + 2 * kv if shape.architecture == "qwen2" else 0
    block = matrices + biases + 2 * width
    table = shape.vocab_size * width
    return Parameters(
        embedding=table,
        output=0 if shape.tied_embeddings else table,
        block=block,
        blocks=shape.layers * block,
        norm=width,
        matrices=matrices,
    )


def count_text(number: float) -> str:
    """A number of parameters as text."""
    return f"{number / 1e9:.2f} G" if number >= 1e8 else f"{number / 1e6:.2f} M"


def shape_of(model: ModelConfig) -> ShapeConfig | None:
    """The shape of a model that can be trained: a lab model's, that of its folder on this disk, or else the one in conf/model.

    None if the model is behind an API, or neither the local cache nor conf/model says what it looks like.
    """
    if model.lab is not None:
        lab = model.lab
        return ShapeConfig(
            architecture=lab.architecture,
            hidden_size=lab.hidden_size,
            intermediate_size=lab.intermediate_size,
            layers=lab.layers,
            heads=lab.heads,
            kv_heads=lab.kv_heads,
            vocab_size=lab.vocab_size + NUMBER_TOKENS,
            tied_embeddings=lab.tied_embeddings,
        )
    return _own_shape(model) or model.shape


def shape_basis(model: ModelConfig) -> str:
    """Where `shape_of` has a model's shape from."""
    return "model.lab" if model.lab is not None else "its config.json" if _own_shape(model) else "model.shape"


def _own_shape(model: ModelConfig) -> ShapeConfig | None:
    """The shape that the model's own config.json tells, if its folder is on this disk and its architecture is known here."""
    return None if model.hub_id is None else cached_shape(model.hub_id, model.revision)


def cached_shape(hub_id: str, revision: str | None) -> ShapeConfig | None:
    """The shape that a model folder, or a model in the hub's cache, tells of itself; None if it is not there, or unknown here."""
    folder = cached_snapshot(hub_id, revision)
    return None if folder is None else shape_from(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def shape_from(told: Mapping[str, Any]) -> ShapeConfig | None:
    """The shape that a model's config.json tells; None for another architecture than Qwen2 or Llama."""
    if told.get("model_type") not in ("qwen2", "llama"):
        return None
    return ShapeConfig(
        architecture=told["model_type"],
        hidden_size=told["hidden_size"],
        intermediate_size=told["intermediate_size"],
        layers=told["num_hidden_layers"],
        heads=told["num_attention_heads"],
        kv_heads=told.get("num_key_value_heads") or told["num_attention_heads"],
        vocab_size=told["vocab_size"],
        tied_embeddings=bool(told.get("tie_word_embeddings", False)),
    )
