"""The transformers engine: length-sorted, left-padded batches on whatever device this process has.

Sampling is seeded per item (Gumbel-max on the item's own generator), so in float32 a text depends on its prompt and its
seed and not on which prompts share its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.engines.base import Prompt, draw_seed
from cft_lab.records import Completion, Sampling
from cft_lab.runtime import (
    free,
    load_model,
    make_accelerator,
    quiet_transformers,
    render_prompt,
    resolve_precision,
    set_threads,
    token_ids,
)

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase


class TransformersEngine:
    """Generates with a model folder in the hub's format. Use as a context manager: leaving it frees the device."""

    def __init__(self, folder: Path, *, style: str, end_of_turn: str, batch_size: int, precision: str, cpu_threads: int) -> None:
        """`style` is a PromptFormat.style, `end_of_turn` the token that ends an answer; both it and the EOS stop a text."""
        from transformers import AutoTokenizer, GenerationConfig

        set_threads(cpu_threads)
        quiet_transformers()
        self._style, self._batch_size = style, batch_size
        self._device = make_accelerator().device
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, padding_side="left")
        dtype = "bfloat16" if resolve_precision(precision, self._device.type) == "bf16" else "float32"
        self._model: Any = load_model(folder, dtype).to(self._device).eval()
        self._model.generation_config = GenerationConfig()  # a model's own defaults (penalties, top_k) must not leak in
        stop = self._tokenizer.convert_tokens_to_ids(end_of_turn)
        self._stop_ids = sorted({stop, self._tokenizer.eos_token_id})

    def __enter__(self) -> TransformersEngine:
        return self

    def __exit__(self, *_: object) -> None:
        free(self._model)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. Batches are fixed by the prompts' lengths, longest first (what would not fit fails early)."""
        texts = [render_prompt(self._tokenizer, self._style, prompt.messages) for prompt in prompts]
        lengths = [len(token_ids(self._tokenizer, text)) for text in texts]
        order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            completions = self._generate_batch([texts[i] for i in rows], [prompts[i] for i in rows], sampling)
            yield from zip(rows, completions, strict=True)

    def _generate_batch(self, texts: list[str], prompts: list[Prompt], sampling: Sampling) -> list[Completion]:
        import torch

        encoded = self._tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(self._device)
        processors = []
        if sampling.temperature > 0:
            processors = [seeded_sampler([draw_seed(sampling, p) for p in prompts], sampling, self._device)]
        with torch.inference_mode():
            output = self._model.generate(
                **encoded,
                generation_config=self._generation_config(sampling),
                logits_processor=processors,
                **({"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer} if sampling.stop else {}),
            )
        return [self._completion(row.tolist(), sampling) for row in output[:, encoded["input_ids"].shape[1] :]]

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=self._stop_ids,
            pad_token_id=self._tokenizer.pad_token_id,
        )

    def _completion(self, ids: list[int], sampling: Sampling) -> Completion:
        ends = {*self._stop_ids, self._tokenizer.pad_token_id}  # rows that ended early are padded
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        kept = ids if end is None else ids[:end]
        text = str(self._tokenizer.decode(kept, skip_special_tokens=True))
        cut = min((place for stop in sampling.stop if (place := text.find(stop)) >= 0), default=None)
        if cut is not None:
            return Completion(text[:cut], len(kept), "stop")
        return Completion(text, len(kept), "length" if end is None else "stop")


def seeded_sampler(seeds: list[int], sampling: Sampling, device: torch.device) -> LogitsProcessor:
    """A logits processor under which taking the largest score IS sampling (Gumbel-max), one generator per row."""
    import torch
    from transformers import LogitsProcessor, TopPLogitsWarper

    generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    class SeededSampler(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.float() / sampling.temperature  # [B, V]
            if top_p is not None:
                scores = top_p(input_ids, scores)
            uniform = torch.stack([torch.rand(scores.shape[1], generator=g, device=device) for g in generators])
            exponential = -torch.log(uniform.clamp_min(1e-20))
            return scores - torch.log(exponential.clamp_min(1e-20))

    return SeededSampler()
