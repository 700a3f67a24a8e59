"""Real architectures at toy size, and made-up sequences of unequal length, for the tests of training."""

import random
from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from cft_lab.training.encode import Encoded

VOCABULARY = 320  # times the width a multiple of 256: 8-bit moments come in blocks of that many


def tiny_model(architecture: str = "qwen2", tied: bool = True, seed: int = 0, kv_heads: int = 1) -> PreTrainedModel:
    """Two blocks of width 32, with two query heads on each key/value head."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2 * kv_heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**shape)) if architecture == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))
    with torch.no_grad():  # larger weights than a fresh model's, so that attention is far from uniform
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(8.0)
    return model


def sequences(count: int = 44, seed: int = 0, shortest: int = 5, longest: int = 40) -> list[Encoded]:
    """Random ids; the supervised part begins anywhere, at the very first token too."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        length = rng.randint(shortest, longest)
        rows.append(Encoded(tuple(rng.randrange(5, VOCABULARY) for _ in range(length)), rng.randint(0, length - 2)))
    return rows


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of every gradient by the parameter's name; the model's own are dropped."""
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def padded_loss(model: PreTrainedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """What transformers itself makes of the rows: padded, with a mask, its own attention and loss, summed."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    targets = sum(row.num_targets for row in rows)
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss * targets
