"""From examples to token sequences: what a model reads, and which of it is supervised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cft_lab.records import Example
from cft_lab.runtime import render_prompt, render_target, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """One training sequence: ids[start:] are supervised (each is predicted from what stands before it)."""

    ids: tuple[int, ...]
    start: int
    example_id: str = ""  # of the problem, to name it where something is wrong with it

    @property
    def num_targets(self) -> int:
        """Supervised tokens; the first id of a sequence has nothing to be predicted from."""
        return len(self.ids) - max(self.start, 1)


@dataclass(frozen=True)
class EncodedExamples:
    """What became of a list of examples: the sequences to train on, and how many were dropped."""

    sequences: tuple[Encoded, ...]
    too_long: int
    no_target: int

    @property
    def num_targets(self) -> int:
        """Supervised tokens of one epoch."""
        return sum(sequence.num_targets for sequence in self.sequences)


def encode_examples(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, style: str, end_of_turn: str, max_length: int
) -> EncodedExamples:
    """Encodes prompt and target apart, so that prompt ids are a prefix of the whole, and ends each with end_of_turn.

    Dropped and counted are examples longer than `max_length` tokens, which would lose the end of their target, and
    examples whose target is empty, which teach nothing but to stop.
    """
    stop = tokenizer.get_vocab().get(end_of_turn)
    if stop is None:
        raise ValueError(f"model.end_of_turn={end_of_turn!r} is not a token of this model's tokenizer")
    kept, too_long, no_target = [], 0, 0
    for example in examples:
        prompt = token_ids(tokenizer, render_prompt(tokenizer, style, example.messages))
        ids = (*prompt, *token_ids(tokenizer, render_target(style, example.target)), stop)
        if not example.target.strip():
            no_target += 1
        elif len(ids) > max_length:
            too_long += 1
        else:
            kept.append(Encoded(ids, len(prompt), example.problem_id))
    return EncodedExamples(tuple(kept), too_long, no_target)
