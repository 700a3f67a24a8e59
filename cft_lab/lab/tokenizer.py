"""The lab models' own byte-level BPE tokenizer, trained offline on the world's web text.

Two choices matter. Every number of the world is one token (with and without a leading space), because digit-by-digit
arithmetic is not learned at this scale. And the normalizer and pre-tokenizer are Qwen2's own: AutoTokenizer rebuilds those for
any folder whose config says `qwen2`, whatever tokenizer.json holds, so any other choice would be dropped silently.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from cft_lab.config import WebConfig
from cft_lab.lab.language import MAX_NUMBER, PERCENTS
from cft_lab.lab.webtext import web_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EOS, TURN_START, TURN_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TRAINING_DOCUMENTS = 3000


def train_tokenizer(seed: int, mix: WebConfig, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer whose vocabulary is at most `vocab_size` plus one token for every number of the world."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    qwen = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = qwen.normalizer, qwen.pre_tokenizer, qwen.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, TURN_START, TURN_END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = itertools.islice(web_documents(seed, mix), _TRAINING_DOCUMENTS)
    texts = ("\n".join([*(f"{m.role}\n{m.content}" for m in document.messages)]) for document in documents)
    tokenizer.train_from_iterator(texts, trainer)
    numbers = range(max(MAX_NUMBER, *PERCENTS) + 1)
    tokenizer.add_tokens([AddedToken(f"{space}{n}", normalized=False) for n in numbers for space in (" ", "") if space or n > 9])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, model_max_length=1024)
    fast.chat_template = CHAT_TEMPLATE
    return fast
