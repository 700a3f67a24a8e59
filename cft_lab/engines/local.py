"""The transformers engine: texts decoded together on whatever device this process has, longest prompts first.

Sampling is seeded per item (Gumbel-max on the item's own generator), so in float32 a text depends on its prompt and its
seed and not on which prompts are under way beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.config import DataError
from cft_lab.engines.base import Prompt, draw_seed
from cft_lab.engines.texts import Texts, too_long
from cft_lab.records import Completion, Sampling
from cft_lab.runtime import free, load_model, make_accelerator, quiet_transformers, resolve_precision, set_threads

if TYPE_CHECKING:
    import torch

    from cft_lab.engines.decode import Row

STOP_EVERY = 16  # tokens between looks for stop strings; what is generated past one is cut away


class TransformersEngine:
    """Generates with a model folder in the hub's format. Use as a context manager: leaving it frees the device."""

    def __init__(
        self,
        folder: Path,
        *,
        style: str,
        end_of_turn: str,
        batch_size: int,
        precision: str,
        cpu_threads: int,
        max_model_len: int | None = None,
    ) -> None:
        """`style` is a PromptFormat.style, `end_of_turn` the token that ends an answer; both it and the EOS stop a text.

        A prompt and its text have at most `max_model_len` tokens together; None is what the model was made for. DataError for
        a model whose attention this engine does not know.
        """
        set_threads(cpu_threads)
        quiet_transformers()
        self._style, self._end_of_turn, self._batch_size = style, end_of_turn, batch_size
        self._precision, self._max_model_len = precision, max_model_len
        self._device = make_accelerator().device
        self._load(folder)

    def _load(self, folder: Path) -> None:
        dtype = "bfloat16" if resolve_precision(self._precision, self._device.type) == "bf16" else "float32"
        self._texts = Texts(folder, self._style, self._end_of_turn)
        self._model: Any = load_model(folder, dtype).to(self._device).eval()
        other = set(getattr(self._model.config, "layer_types", None) or ()) - {"full_attention"}
        if other:
            raise DataError(
                f"{folder} has layers of {', '.join(sorted(other))}: engine=transformers has full attention only; use engine=vllm"
            )

    def __enter__(self) -> TransformersEngine:
        return self

    def __exit__(self, *_: object) -> None:
        free(self._model)

    def swap(self, folder: Path) -> None:
        """Goes on with another model."""
        free(self._model)
        self._load(folder)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. Longest prompts first: what would not fit in memory fails early."""
        from cft_lab.engines.decode import decode

        limit = self._max_model_len or int(self._model.config.max_position_embeddings)
        rows = []
        for index, prompt in enumerate(prompts):
            ids = self._texts.encode(prompt)
            if len(ids) >= limit:
                yield index, too_long(len(ids), limit)
            else:
                rows.append(self._row(index, prompt, ids, min(sampling.max_new_tokens, limit - len(ids)), sampling))
        rows.sort(key=lambda row: -len(row.prompt))
        pick = gumbel_max(sampling) if sampling.temperature > 0 else greedy
        for row in decode(self._model, rows, self._batch_size, pick, self._ended(sampling.stop)):
            yield row.index, self._texts.completion(row.ids, sampling.stop)

    def _row(self, index: int, prompt: Prompt, ids: list[int], limit: int, sampling: Sampling) -> Row:
        import torch

        from cft_lab.engines.decode import Row

        if sampling.temperature == 0:
            return Row(index, ids, limit)
        return Row(index, ids, limit, torch.Generator(device=self._device).manual_seed(draw_seed(sampling, prompt)))

    def _ended(self, stop: Sequence[str]) -> Callable[[Row], bool]:
        """Tells of a row whether its text is over. Looks at its last ids only: `Texts.completion` cuts exactly."""
        ends = set(self._texts.stop_ids)
        # a token has at least one byte, so no stop string reaches back further; special tokens have no text
        reach = STOP_EVERY + max((len(string.encode()) for string in stop), default=0)

        def ended(row: Row) -> bool:
            if row.ids[-1] in ends:
                return True
            return bool(stop) and len(row.ids) % STOP_EVERY == 0 and self._texts.has_stop(row.ids[-reach:], stop)

        return ended


def greedy(scores: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The likeliest token of each row: [B', V] -> [B']."""
    return scores.argmax(-1)


def gumbel_max(sampling: Sampling) -> Callable[[torch.Tensor, Sequence[Row]], torch.Tensor]:
    """Draws each row's token with the row's own generator: the largest of score + Gumbel noise is a draw from the softmax."""
    import torch
    from transformers import TopPLogitsWarper

    top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    def pick(scores: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        scores = scores.float() / sampling.temperature  # [B', V]
        if top_p is not None:
            scores = top_p(None, scores)
        uniform = torch.empty_like(scores)
        for noise, row in zip(uniform, rows, strict=True):
            noise.uniform_(generator=row.generator)
        exponential = -torch.log(uniform.clamp_min_(1e-20))
        return (scores - torch.log(exponential.clamp_min_(1e-20))).argmax(-1)

    return pick
