"""Padding-free equals padded equals one by one, for every architecture; and no sequence sees another."""

from collections.abc import Sequence

import pytest
import torch
from tiny import gradients, padded_loss, relative_error, sequences, tiny_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from cft_lab.training.attention import hidden_states, padding_free
from cft_lab.training.batches import pack
from cft_lab.training.encode import Encoded
from cft_lab.training.loss import SummedLoss

ARCHITECTURES = [("qwen2", True, 1), ("qwen2", False, 2), ("llama", False, 1), ("llama", True, 2)]
each_architecture = pytest.mark.parametrize(("architecture", "tied", "kv_heads"), ARCHITECTURES)


def packed_loss(model, rows: Sequence[Encoded], chunk: int = 7) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with padding_free(model):
        return SummedLoss(model, chunk)(pack(rows))


@each_architecture
def test_padded_padding_free_and_one_by_one_agree_in_loss_and_gradients(architecture: str, tied: bool, kv_heads: int) -> None:
    model = tiny_model(architecture, tied, kv_heads=kv_heads).train()
    rows = sequences(9) + sequences(2, seed=1, shortest=12, longest=12)
    padded = padded_loss(model, rows)
    padded.backward()
    expected = gradients(model)
    packed = packed_loss(model, rows)
    packed.backward()
    found = gradients(model)
    apart = [packed_loss(model, [row]) for row in rows]
    torch.stack(apart).sum().backward()
    alone = gradients(model)
    assert float(packed.detach()) == pytest.approx(float(padded.detach()), rel=1e-5)
    assert sum(float(loss.detach()) for loss in apart) == pytest.approx(float(padded.detach()), rel=1e-5)
    assert expected.keys() == found.keys() == alone.keys()
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) < 1e-5, name
        assert relative_error(alone[name], gradient) < 1e-5, name


@each_architecture
def test_no_sequence_sees_another(architecture: str, tied: bool, kv_heads: int) -> None:
    model = tiny_model(architecture, tied, kv_heads=kv_heads)
    rows = sequences(5)
    changed = [*rows[:2], Encoded(tuple(reversed(rows[2].ids)), 0), *rows[3:]]
    with padding_free(model), torch.no_grad():
        before, after = (hidden_states(model, pack(those)) for those in (rows, changed))
    starts = pack(rows).cu_seqlens.tolist()
    for index in range(5):
        part = slice(starts[index], starts[index + 1])
        assert torch.equal(before[part], after[part]) == (index != 2)


def test_what_the_guard_guards_against_is_real() -> None:
    """The same packed row through transformers' own attention with a cache: a sequence changes when its neighbour does."""
    model = tiny_model()
    rows = sequences(3)
    changed = [Encoded(tuple(reversed(rows[0].ids)), 0), *rows[1:]]
    states = []
    with torch.no_grad():
        for those in (rows, changed):
            packed = pack(those)
            output = model.base_model(input_ids=packed.input_ids[None], position_ids=packed.position_ids[None], use_cache=True)
            states.append(output.last_hidden_state[0, len(rows[0].ids) :])
    assert relative_error(states[0], states[1]) > 1e-2


def test_sequences_without_their_lengths_are_refused() -> None:
    model = tiny_model()
    packed = pack(sequences(3))
    with padding_free(model), pytest.raises(ValueError, match="came without their lengths"):
        model(input_ids=packed.input_ids[None], position_ids=packed.position_ids[None], use_cache=False)


def test_padded_rows_are_refused() -> None:
    model = tiny_model()
    packed = pack(sequences(3))
    with padding_free(model), pytest.raises(ValueError, match="want queries"):
        model(
            input_ids=packed.input_ids[None].expand(2, -1),
            cu_seq_lens_q=packed.cu_seqlens,
            max_length_q=max(packed.lengths),
        )


def test_the_former_attention_comes_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny_model().eval()
    ids = torch.tensor([sequences(1)[0].ids])
    before = model(ids).logits
    with padding_free(model):
        model.save_pretrained(tmp_path)
    assert torch.equal(model(ids).logits, before)
    assert "padding_free" not in (tmp_path / "config.json").read_text()


def test_attention_that_is_more_than_causal_is_refused() -> None:
    config = tiny_model().config.to_dict() | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    config.pop("layer_types")
    windowed = Qwen2ForCausalLM(Qwen2Config(**config))
    with pytest.raises(ValueError, match="sliding-window attention"), padding_free(windowed):
        pass
    dropping = tiny_model()
    dropping.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match="attention dropout"), padding_free(dropping):
        pass
