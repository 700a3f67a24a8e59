"""From examples to token sequences, and from token sequences to batches.

Padding goes to the right and no attention mask is needed: attention is causal, so no real token ever sees a pad, and
pads carry no loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cft_lab.records import Example
from cft_lab.runtime import render_prompt, render_target, token_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that carries no loss


@dataclass(frozen=True)
class Encoded:
    """One training sequence: ids[start:] are supervised (each is predicted from what stands before it)."""

    ids: tuple[int, ...]
    start: int

    @property
    def num_targets(self) -> int:
        """Supervised tokens; the first id of a sequence has nothing to be predicted from."""
        return len(self.ids) - max(self.start, 1)


@dataclass(frozen=True)
class EncodedExamples:
    """What became of a list of examples: the sequences to train on, and how many did not fit."""

    sequences: tuple[Encoded, ...]
    too_long: int

    @property
    def num_targets(self) -> int:
        """Supervised tokens of one epoch."""
        return sum(sequence.num_targets for sequence in self.sequences)


def encode_examples(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, style: str, end_of_turn: str, max_length: int
) -> EncodedExamples:
    """Encodes prompt and target apart, so that prompt ids are a prefix of the whole, and ends each with end_of_turn.

    Examples longer than `max_length` tokens would lose the end of their target: they are dropped and counted.
    """
    stop = tokenizer.get_vocab().get(end_of_turn)
    if stop is None:
        raise ValueError(f"model.end_of_turn={end_of_turn!r} is not a token of this model's tokenizer")
    kept, too_long = [], 0
    for example in examples:
        prompt = token_ids(tokenizer, render_prompt(tokenizer, style, example.messages))
        ids = (*prompt, *token_ids(tokenizer, render_target(style, example.target)), stop)
        if len(ids) > max_length:
            too_long += 1
        else:
            kept.append(Encoded(ids, len(prompt)))
    return EncodedExamples(tuple(kept), too_long)


def collate(sequences: Sequence[Encoded], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids [B, T] padded on the right, and labels [B, T] with `IGNORED` where there is no loss."""
    import torch

    width = max(len(sequence.ids) for sequence in sequences)
    input_ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    labels = torch.full((len(sequences), width), IGNORED, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids = torch.tensor(sequence.ids, dtype=torch.long)
        input_ids[row, : len(ids)] = ids
        labels[row, sequence.start : len(ids)] = ids[sequence.start :]
    return input_ids, labels


def micro_batches(sequences: Sequence[Encoded], size: int) -> list[list[Encoded]]:
    """Cuts one optimizer step's sequences into micro-batches of at most `size`, alike in length to save padding."""
    ordered = sorted(sequences, key=lambda sequence: len(sequence.ids))
    return [list(ordered[i : i + size]) for i in range(0, len(ordered), size)]
