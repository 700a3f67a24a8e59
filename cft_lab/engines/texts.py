"""How prompts become token ids and token ids become completions: the same for every engine over a model folder."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft_lab.config import DataError
from cft_lab.engines.base import Prompt
from cft_lab.records import Completion
from cft_lab.runtime import render_prompt, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


#: tokens that end a text wherever a tokenizer has them as tokens of their own, whatever it calls its EOS: an instruct model's EOS
#: is its end of turn, and it may still write the end of a document
END_TOKENS = ("<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")


class Texts:
    """A model folder's tokenizer, with what ends an answer."""

    def __init__(self, folder: Path, style: str, end_of_turn: str) -> None:
        """`style` is a PromptFormat.style; `end_of_turn` ends an answer, and so does the EOS. DataError if it is no token."""
        from transformers import AutoTokenizer

        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self._style = style
        stop = self._tokenizer.get_vocab().get(end_of_turn)
        if stop is None:
            raise DataError(
                f"end_of_turn={end_of_turn!r} is not a token of {folder}: texts would never end; set it to the token that ends "
                f"this model's answers (its EOS is {self._tokenizer.eos_token!r})"
            )
        #: token ids that end a text
        added = self._tokenizer.get_added_vocab()
        ends = {added[token] for token in END_TOKENS if token in added}
        self.stop_ids: list[int] = sorted(({stop, self._tokenizer.eos_token_id} | ends) - {None})

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, ending where the answer begins."""
        return token_ids(self._tokenizer, render_prompt(self._tokenizer, self._style, prompt.messages))

    def completion(self, ids: Sequence[int], stop: Sequence[str]) -> Completion:
        """What generated ids come to: the text up to the first stop id or stop string.

        `num_tokens` counts the tokens before a stop id, or up to the one that completes a stop string. Later ids are ignored.
        """
        end = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        kept = ids[:end]
        text = self._decode(kept)
        if not any(string in text for string in stop):
            return Completion(text, len(kept), "length" if end is None else "stop")
        count = bisect.bisect_left(range(len(kept)), True, key=lambda n: self.has_stop(kept[:n], stop))
        text = self._decode(kept[:count])
        cut = min(place for string in stop if (place := text.find(string)) >= 0)
        return Completion(text[:cut], count, "stop")

    def has_stop(self, ids: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether a stop string stands in the ids' text."""
        text = self._decode(ids)
        return any(string in text for string in stop)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def too_long(prompt_tokens: int, limit: int) -> Completion:
    """The completion of a prompt that leaves no room for an answer: asking again would not help."""
    reason = f"the prompt has {prompt_tokens} tokens and the model takes {limit} with its answer"
    return Completion(reason, 0, "refused", prompt_tokens)
