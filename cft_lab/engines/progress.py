"""The progress bar of generation: rows, tokens per second, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from cft_lab.engines.base import Engine, Prompt
from cft_lab.records import Completion, Sampling


class Progress:
    """Wraps an engine and shows on stderr how far each call is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. Tokens are those of finished texts."""
        from tqdm import tqdm

        tokens, started = 0, time.monotonic()
        with tqdm(total=len(prompts), desc="generating", unit="row", leave=False) as bar:
            for index, completion in self._engine.generate(prompts, sampling):
                tokens += completion.num_tokens
                bar.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s", refresh=False)
                bar.update(1)
                yield index, completion
