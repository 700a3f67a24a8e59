import copy
import dataclasses
from pathlib import Path

import pytest

from cft_lab.lab.tokenizer import TURN_END
from cft_lab.records import Example, Message
from cft_lab.training.batches import pack
from cft_lab.training.encode import encode_examples

EXAMPLES = [Example(str(i), (Message("user", "Ada has 3 pens. " * (i + 1)),), "The answer is \\boxed{3}.") for i in range(5)]


@pytest.fixture(scope="module")
def tokenizer(debug_model: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(debug_model)


def test_prompt_is_a_prefix_and_only_target_and_turn_end_are_supervised(tokenizer) -> None:  # type: ignore[no-untyped-def]
    encoded = encode_examples(EXAMPLES, tokenizer, "chat", TURN_END, 512)
    for example, sequence in zip(EXAMPLES, encoded.sequences, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": example.messages[0].content}], tokenize=False, add_generation_prompt=True
        )
        assert tokenizer.decode(sequence.ids[: sequence.start]) == prompt
        assert tokenizer.decode(sequence.ids[sequence.start :]) == example.target + TURN_END
    assert len(pack(encoded.sequences).targets) == encoded.num_targets


def test_too_long_examples_are_dropped_and_counted(tokenizer) -> None:  # type: ignore[no-untyped-def]
    lengths = [len(s.ids) for s in encode_examples(EXAMPLES, tokenizer, "chat", TURN_END, 512).sequences]
    encoded = encode_examples(EXAMPLES, tokenizer, "chat", TURN_END, lengths[2])
    assert (len(encoded.sequences), encoded.too_long) == (3, 2)


def test_examples_without_a_target_are_dropped_and_counted(tokenizer) -> None:  # type: ignore[no-untyped-def]
    empty = [dataclasses.replace(EXAMPLES[0], target=target) for target in ("", " \n")]
    encoded = encode_examples([*empty, *EXAMPLES], tokenizer, "chat", TURN_END, 512)
    assert (len(encoded.sequences), encoded.too_long, encoded.no_target) == (5, 0, 2)


def test_sequences_carry_the_ids_of_their_problems(tokenizer) -> None:  # type: ignore[no-untyped-def]
    encoded = encode_examples(EXAMPLES, tokenizer, "chat", TURN_END, 512)
    assert [sequence.example_id for sequence in encoded.sequences] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("pad", [TURN_END, "eos"])
def test_the_end_of_a_turn_is_supervised_even_if_it_is_also_the_pad(tokenizer, pad: str) -> None:  # type: ignore[no-untyped-def]
    """Masking pads by their id would mask the end of the turn with them, and no model would learn to stop."""
    shared = copy.deepcopy(tokenizer)
    shared.pad_token = shared.eos_token if pad == "eos" else pad
    end_of_turn = shared.eos_token if pad == "eos" else TURN_END
    packed = pack(encode_examples(EXAMPLES, shared, "chat", end_of_turn, 512).sequences)
    stop = shared.convert_tokens_to_ids(end_of_turn)
    assert stop == shared.pad_token_id
    assert packed.targets.tolist().count(stop) == len(EXAMPLES)


def test_an_unknown_turn_end_is_named(tokenizer) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="model.end_of_turn='<nope>'"):
        encode_examples(EXAMPLES, tokenizer, "chat", "<nope>", 512)


def test_plain_prompts_end_where_the_answer_begins(tokenizer) -> None:  # type: ignore[no-untyped-def]
    sequence = encode_examples(EXAMPLES[:1], tokenizer, "plain", TURN_END, 512).sequences[0]
    assert tokenizer.decode(sequence.ids[: sequence.start]) == "User: Ada has 3 pens. \n\nAssistant:"
    assert tokenizer.decode(sequence.ids[sequence.start :]) == " The answer is \\boxed{3}." + TURN_END


def test_plain_prompts_begin_with_the_bos_of_a_tokenizer_that_has_one(tokenizer) -> None:  # type: ignore[no-untyped-def]
    from tokenizers.processors import TemplateProcessing

    bos = copy.deepcopy(tokenizer)
    bos.add_special_tokens({"bos_token": "<bos>"})
    bos.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos.bos_token_id)])
    sequence = encode_examples(EXAMPLES[:1], bos, "plain", TURN_END, 512).sequences[0]
    assert sequence.ids[0] == bos.bos_token_id
    assert list(sequence.ids).count(bos.bos_token_id) == 1
    chat = encode_examples(EXAMPLES[:1], bos, "chat", TURN_END, 512).sequences[0]
    assert bos.bos_token_id not in chat.ids
