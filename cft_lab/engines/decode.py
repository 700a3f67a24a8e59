"""Decoding many texts at once with a transformers model: rows join and leave the batch as their texts begin and end.

Every row of the key-value cache has its own length: a row's tokens stand in columns 0, 1, ..., and what lies past its length
is masked. So no step is spent on a text that has ended, and the next one takes its place without waiting for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

PREFILL_TOKENS = 16384  # of one forward pass over prompts, padding included; bounds its activations
REFILL_SHARE = 0.125  # of the batch that is free before new rows join: reading prompts is cheaper in groups
GROWTH = 64  # columns, at least, by which the cache grows


@dataclass
class Row:
    """A text under way: the place of its prompt, the prompt's ids, how many ids may follow, and those that did."""

    index: int
    prompt: list[int]
    limit: int
    generator: torch.Generator | None = None  # what the row is sampled with; None is greedy
    ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens so far, the prompt's included."""
        return len(self.prompt) + len(self.ids)


class RowsLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, C, D]. A step writes the new token of each row at that row's own column."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True
        self.columns = torch.zeros(0, dtype=torch.long)
        self.width = 0

    def at(self, columns: torch.Tensor, width: int) -> None:
        """Says where the next step's tokens go, [B'], and how many columns are then in use."""
        self.columns, self.width = columns, width

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a step's keys and values, [B', H, 1, D], and returns all that is in use, [B', H, width, D]."""
        rows = torch.arange(len(self.columns), device=self.columns.device)
        self.keys[rows, :, self.columns] = key_states[:, :, 0]
        self.values[rows, :, self.columns] = value_states[:, :, 0]
        used = slice(len(rows))
        return self.keys[used, :, : self.width], self.values[used, :, : self.width]


class Batch:
    """The rows under way, always in the first places of a cache of `size` rows."""

    def __init__(self, model: Any, size: int) -> None:
        self.rows: list[Row] = []
        self._model, self._size, self._device = model, size, model.device
        self._layers: list[RowsLayer] = []
        self._capacity = 0  # columns

    @torch.inference_mode()
    def add(self, rows: Sequence[Row]) -> None:
        """Reads the prompts of new rows, all but their last token: the next step reads that and gives the first new one."""
        width = max(1, *(len(row.prompt) - 1 for row in rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row.prompt) - 1] = torch.tensor(row.prompt[:-1], dtype=torch.long)
        read: Any = DynamicCache(config=self._model.config)
        # padded on the right: a causal model's real tokens never see it, and its own keys are masked, then overwritten
        self._model(input_ids=ids.to(self._device), past_key_values=read, use_cache=True, logits_to_keep=1)
        if not self._layers:
            self._layers = [RowsLayer(*(self._empty(layer.keys, 0) for _ in range(2))) for layer in read.layers]
        self._grow(width)
        places = slice(len(self.rows), len(self.rows) + len(rows))
        for layer, new in zip(self._layers, read.layers, strict=True):
            layer.keys[places, :, :width] = new.keys
            layer.values[places, :, :width] = new.values
        self.rows.extend(rows)

    @torch.inference_mode()
    def step(self) -> torch.Tensor:
        """Scores of every row's next token, [B', V]."""
        lengths = [row.length for row in self.rows]
        width = max(lengths)
        self._grow(width)
        last = torch.tensor([(row.ids or row.prompt)[-1] for row in self.rows], device=self._device)
        columns = torch.tensor(lengths, device=self._device) - 1
        for layer in self._layers:
            layer.at(columns, width)
        past = torch.arange(width, device=self._device) > columns[:, None]  # [B', width]
        mask = torch.zeros(past.shape, dtype=self._model.dtype, device=self._device).masked_fill_(past, -torch.inf)
        scores: torch.Tensor = self._model(
            input_ids=last[:, None],
            attention_mask=mask[:, None, None],
            position_ids=columns[:, None],
            past_key_values=Cache(layers=list(self._layers)),
            use_cache=True,
        ).logits[:, -1]
        return scores

    @torch.inference_mode()
    def remove(self, places: Sequence[int]) -> None:
        """Takes rows out; the last ones move into their places."""
        for place in sorted(places, reverse=True):
            last = self.rows.pop()
            if place == len(self.rows):
                continue
            self.rows[place] = last
            for layer in self._layers:
                layer.keys[place] = layer.keys[len(self.rows)]
                layer.values[place] = layer.values[len(self.rows)]

    def _grow(self, width: int) -> None:
        """Makes room for `width` columns. Zeros, because what is masked is still multiplied (by 0)."""
        if width <= self._capacity:
            return
        more = max(width - self._capacity, self._capacity // 2, GROWTH)
        for layer in self._layers:
            layer.keys = torch.cat([layer.keys, self._empty(layer.keys, more)], dim=2)
            layer.values = torch.cat([layer.values, self._empty(layer.values, more)], dim=2)
        self._capacity += more

    def _empty(self, like: torch.Tensor, columns: int) -> torch.Tensor:
        return like.new_zeros(self._size, like.shape[1], columns, like.shape[3])


def decode(
    model: Any,
    rows: Sequence[Row],
    size: int,
    pick: Callable[[torch.Tensor, Sequence[Row]], torch.Tensor],
    ended: Callable[[Row], bool],
) -> Iterator[Row]:
    """Every row once it has ended, or has as many ids as it may. At most `size` are under way.

    `pick` chooses from scores [B', V] a token for each row, [B']; `ended` looks at a row that has just got one.
    """
    batch = Batch(model, size)
    waiting = list(rows)[::-1]
    while waiting or batch.rows:
        free = size - len(batch.rows)
        if waiting and (not batch.rows or free >= size * REFILL_SHARE):
            for group in _groups(waiting, free):
                batch.add(group)
        for row, token in zip(batch.rows, pick(batch.step(), batch.rows).tolist(), strict=True):
            row.ids.append(token)
        done = [place for place, row in enumerate(batch.rows) if len(row.ids) == row.limit or ended(row)]
        finished = [batch.rows[place] for place in done]
        batch.remove(done)
        yield from finished


def _groups(waiting: list[Row], count: int) -> Iterator[list[Row]]:
    """Takes up to `count` rows from the end of `waiting`, in groups that are read together."""
    taken = [waiting.pop() for _ in range(min(count, len(waiting)))]
    while taken:
        longest = max(len(row.prompt) for row in taken)
        fits = max(1, PREFILL_TOKENS // longest)
        yield taken[:fits]
        del taken[:fits]
