"""The lab's base models: real architectures at toy size, pretrained from nothing on the world's web text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cft_lab.config import LabModelConfig, PretrainConfig, WebConfig
from cft_lab.lab.webtext import Document, WebMix, web_documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def web_mix(web: WebConfig) -> WebMix:
    """The config's mix as the world's own type."""
    return WebMix(web.kinds, web.families, web.steps, web.noise, web.typical)


def web_token_ids(pretrain: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The documents that a base model is trained on, each ending in the EOS, until they hold `pretrain.tokens` tokens."""
    total = 0
    for document in web_documents(pretrain.seed, web_mix(pretrain.web)):
        ids = [*tokenizer(_document_text(document, tokenizer), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids) <= pretrain.optimization.max_length:
            yield ids
            total += len(ids)
        if total >= pretrain.tokens:
            return


def _document_text(document: Document, tokenizer: PreTrainedTokenizerBase) -> str:
    if document.messages[0].role == "text":
        return document.messages[0].content
    rows = [{"role": message.role, "content": message.content} for message in document.messages]
    return str(tokenizer.apply_chat_template(rows, tokenize=False))


def new_model(config: LabModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model with random weights drawn from `pretrain.seed`; embeddings are tied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": tokenizer.model_max_length,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(config.pretrain.seed)
    if config.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Qwen2ForCausalLM(Qwen2Config(**shape))
