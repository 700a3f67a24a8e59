from pathlib import Path

import pytest

from cft_lab.lab.language import MAX_NUMBER
from cft_lab.lab.tokenizer import EOS, PAD, TURN_END


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_auto_tokenizer_gives_the_tokenizer_back(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from cft_lab.hydra_config import compose
    from cft_lab.lab.base_models import new_model
    from cft_lab.lab.tokenizer import train_tokenizer
    from cft_lab.runtime import save_model

    lab = compose("model=lab-debug").model.lab
    assert lab is not None
    lab.architecture = architecture
    tokenizer = train_tokenizer(0, lab.pretrain.web, lab.vocab_size)
    save_model(new_model(lab, tokenizer), tokenizer, TURN_END, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Step 1: Monday buys 12 more, so 7 + 12 = 19.\nThe answer is \\boxed{19}.<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded(text, add_special_tokens=False)["input_ids"] == ids
    assert loaded.decode(ids) == text
    for number in range(MAX_NUMBER + 1):
        assert len(loaded(f" {number}", add_special_tokens=False)["input_ids"]) == 1
    stops = {loaded.convert_tokens_to_ids(token) for token in (EOS, PAD, TURN_END)}
    assert len(stops) == 3
    assert loaded.eos_token == EOS


def test_the_saved_generation_config_stops_at_turn_end_and_eos(debug_model: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    config = GenerationConfig.from_pretrained(debug_model)
    assert set(config.eos_token_id) == {tokenizer.convert_tokens_to_ids(token) for token in (EOS, TURN_END)}
    assert config.pad_token_id == tokenizer.convert_tokens_to_ids(PAD)
