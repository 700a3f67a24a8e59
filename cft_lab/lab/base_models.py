"""The lab's base models: real architectures at toy size, pretrained from nothing on the world's web text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cft_lab.config import LabModelConfig, PretrainConfig
from cft_lab.lab.webtext import Document, web_documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def web_sequences(pretrain: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], int]]:
    """What a base model is trained on, until `pretrain.tokens` tokens were read: (token ids, index of the first target).

    Each document ends in the EOS. Of a conversation the answer alone carries loss: a question's names and numbers cannot be
    foreseen, and at this scale that noise would drown the rest.
    """
    total = 0
    for document in web_documents(pretrain.seed, pretrain.web):
        prompt, rest = _split_document(document, tokenizer)
        head = _ids(tokenizer, prompt)
        ids = [*head, *_ids(tokenizer, rest), tokenizer.eos_token_id]
        if len(ids) <= pretrain.optimization.max_length:
            yield ids, len(head)
        total += len(ids)  # read, even if too long to be trained on
        if total >= pretrain.tokens:
            return


def _split_document(document: Document, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The document's text before and from its first target on."""
    if document.messages[0].role == "text":
        return "", document.messages[0].content
    rows = [{"role": message.role, "content": message.content} for message in document.messages]
    prompt = str(tokenizer.apply_chat_template(rows[:-1], tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(rows, tokenize=False))
    return prompt, whole.removeprefix(prompt)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def new_model(config: LabModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model with random weights drawn from `pretrain.seed`."""
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
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(config.pretrain.seed)
    if config.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Qwen2ForCausalLM(Qwen2Config(**shape))
