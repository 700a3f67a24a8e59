"""Cutting a step over ranks and micro-batches, and laying sequences end to end."""

import itertools
import random

import pytest
import torch

from cft_lab.config import OptimizationConfig
from cft_lab.training.batches import batch_at, pack, split_step, without_targets
from cft_lab.training.encode import Encoded
from cft_lab.training.loop import total_steps

LENGTHS = {
    "equal": [64] * 32,
    "mixed": [random.Random(1).randint(20, 300) for _ in range(512)],
    "one long": [2000, *[30] * 40],
    "alone": [50],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [1, 300, 1024, 10**6])
def test_every_sequence_once_within_the_budget_and_as_many_micro_batches_on_every_rank(
    lengths: list[int], ranks: int, budget: int
) -> None:
    split = split_step(lengths, ranks, budget)
    assert len(split) == ranks
    assert len({len(mine) for mine in split}) == 1
    micro_batches = list(itertools.chain(*split))
    assert sorted(itertools.chain(*micro_batches)) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in places) <= budget or len(places) == 1 for places in micro_batches)
    assert split == split_step(lengths, ranks, budget)


@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_get_alike_numbers_of_tokens(ranks: int) -> None:
    lengths = LENGTHS["mixed"]
    loads = [sum(lengths[i] for i in itertools.chain(*mine)) for mine in split_step(lengths, ranks, 4096)]
    assert max(loads) < 1.01 * sum(lengths) / ranks


def test_micro_batches_are_filled() -> None:
    lengths = LENGTHS["mixed"]
    assert len(split_step(lengths, 1, 4096)[0]) <= sum(lengths) / 4096 * 1.05 + 1


def test_a_step_with_fewer_sequences_than_ranks_leaves_a_rank_an_empty_micro_batch() -> None:
    assert split_step([7, 9, 8], 4, 100) == [[[1]], [[2]], [[0]], [[]]]


def test_every_sequence_is_seen_once_an_epoch_in_another_order() -> None:
    config = OptimizationConfig(global_batch_size=8, epochs=2)
    steps = total_steps(44, config)
    assert steps == 12
    epochs = [[i for step in range(e * 6, e * 6 + 6) for i in batch_at(step, 44, config, 3)] for e in (0, 1)]
    assert all(sorted(epoch) == list(range(44)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert batch_at(0, 44, config, 3) != batch_at(0, 44, config, 4)


def test_sequences_lie_end_to_end_and_each_target_is_predicted_from_the_token_before_it() -> None:
    packed = pack([Encoded((10, 11, 12, 13), 2), Encoded((20, 21), 0), Encoded((30, 31, 32), 2)])
    assert packed.input_ids.tolist() == [10, 11, 12, 13, 20, 21, 30, 31, 32]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert packed.lengths == (4, 2, 3)
    assert packed.cu_seqlens.tolist() == [0, 4, 6, 9]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.targets.tolist() == [12, 13, 21, 32]  # 20 is the first of its sequence: predicted from nothing
    assert packed.input_ids[packed.predicting].tolist() == [11, 12, 20, 31]


def test_a_sequence_can_be_computed_without_loss() -> None:
    packed = pack([without_targets(Encoded((10, 11, 12), 1))])
    assert packed.input_ids.tolist() == [10, 11, 12]
    assert packed.targets.tolist() == []
