"""Which sequences an optimizer step trains on, in which micro-batches, and how a micro-batch lies in memory.

A batch is counted in SEQUENCES and a micro-batch in tokens. The sequences of a micro-batch lie end to end with position ids
that start again at each, so no token is padding and an optimizer step is the same step however it is cut.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cft_lab.config import OptimizationConfig
from cft_lab.training.encode import Encoded

if TYPE_CHECKING:
    import torch


def batch_at(step: int, num_sequences: int, config: OptimizationConfig, seed: int) -> list[int]:
    """Indices of the sequences of optimizer step `step`: a permutation per epoch, drawn from (seed, epoch)."""
    import numpy as np

    epoch, place = divmod(step, math.ceil(num_sequences / config.global_batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(num_sequences)
    start = place * config.global_batch_size
    return [int(i) for i in order[start : start + config.global_batch_size]]


def split_step(lengths: Sequence[int], ranks: int, token_budget: int) -> list[list[list[int]]]:
    """Cuts one optimizer step into micro-batches: for each rank a list of micro-batches, each a list of places in `lengths`.

    A micro-batch has at most `token_budget` tokens, or is one longer sequence. Every rank has the same number of micro-batches,
    because each is a collective operation, and micro-batches that run at the same time are alike in tokens. A step of
    fewer sequences than ranks leaves some micro-batches empty. The fewest micro-batches that the greedy rule "longest first, to
    where there is least" can fill are taken; a micro-batch lists its sequences from the longest to the shortest.
    """
    longest_first = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    count = max(1, math.ceil(sum(lengths) / token_budget / ranks)) * ranks
    while not (bins := _filled(longest_first, lengths, count, token_budget)):
        count += ranks
    bins.sort(key=lambda places: (-sum(lengths[place] for place in places), places))
    return [bins[rank::ranks] for rank in range(ranks)]


def _filled(longest_first: Sequence[int], lengths: Sequence[int], count: int, token_budget: int) -> list[list[int]]:
    """`count` bins with each sequence in the emptiest bin of its turn; no bins at all if one would exceed the budget."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for place in longest_first:
        load, index = loads[0]
        if bins[index] and load + lengths[place] > token_budget:
            return []
        bins[index].append(place)
        heapq.heapreplace(loads, (load + lengths[place], index))
    return bins


@dataclass(frozen=True)
class Packed:
    """A micro-batch of B sequences, T tokens in all, end to end, of which N are predicted and carry loss."""

    input_ids: torch.Tensor  # [T]
    position_ids: torch.Tensor  # [T], from 0 in each sequence
    lengths: tuple[int, ...]  # of the B sequences
    cu_seqlens: torch.Tensor  # [B + 1] int32: where each sequence starts, and T
    predicting: torch.Tensor  # [N] places in 0..T-1 whose hidden state predicts a supervised token
    targets: torch.Tensor  # [N] the supervised tokens

    def to(self, device: torch.device) -> Packed:
        """The same micro-batch on another device."""
        names = ("input_ids", "position_ids", "cu_seqlens", "predicting", "targets")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def pack(sequences: Sequence[Encoded]) -> Packed:
    """Lays sequences end to end. The first token of a sequence is predicted from nothing and carries no loss."""
    import numpy as np
    import torch

    lengths = [len(sequence.ids) for sequence in sequences]
    ends = np.cumsum(lengths)
    ids = np.concatenate([np.asarray(sequence.ids, dtype=np.int64) for sequence in sequences])
    firsts = [max(sequence.start, 1) for sequence in sequences]
    begins = ends - lengths
    supervised = np.concatenate([np.arange(b + first, e) for b, first, e in zip(begins, firsts, ends, strict=True)])
    return Packed(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(np.arange(len(ids)) - np.repeat(begins, lengths)),
        lengths=tuple(lengths),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        predicting=torch.from_numpy(supervised - 1),
        targets=torch.from_numpy(ids[supervised]),
    )


def without_targets(sequence: Encoded) -> Encoded:
    """A sequence that carries no loss: what a rank computes where a small step has no sequence left for it."""
    return replace(sequence, start=len(sequence.ids))
