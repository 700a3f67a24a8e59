"""What an engine is: something that turns prompts into completions, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cft_lab.records import Completion, Message, Sampling


@dataclass(frozen=True)
class Prompt:
    """A conversation to be continued. `id` names the draw: sampling is seeded by (Sampling.seed, id)."""

    id: str
    messages: tuple[Message, ...]


class Engine(Protocol):
    """Generates text. Completions come back in any order, each with the index of its prompt, as soon as it is known."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """One completion for each prompt. A prompt that fails comes back with finish `error`, never as an exception."""
        ...


def draw_seed(sampling: Sampling, prompt: Prompt) -> int:
    """The seed of one draw, 0 <= seed < 2**63: depends on nothing but the sampling seed and the prompt's id."""
    digest = hashlib.sha256(f"{sampling.seed}\x1f{prompt.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
