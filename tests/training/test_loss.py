"""The chunked loss equals the plain one, in every chunk size and precision, and never holds a micro-batch's logits."""

import copy

import pytest
import torch
from tiny import VOCABULARY, gradients, relative_error, sequences, tiny_model

from cft_lab.training.attention import hidden_states, padding_free
from cft_lab.training.batches import pack, without_targets
from cft_lab.training.loss import SummedLoss

ROWS = sequences(6)


def plain_loss(model) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Every position's logits at once, and torch's own cross-entropy."""
    packed = pack(ROWS)
    logits = model.get_output_embeddings()(hidden_states(model, packed))[packed.predicting]
    return torch.nn.functional.cross_entropy(logits.float(), packed.targets, reduction="sum")


def loss_and_gradients(model, loss_of, autocast: bool = False) -> tuple[float, torch.Tensor]:  # type: ignore[no-untyped-def]
    """A third of the loss, and all gradients as one vector."""
    with padding_free(model), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = loss_of(model) / 3
    loss.backward()
    return float(loss.detach()), torch.cat([gradient.double().flatten() for gradient in gradients(model).values()])


def chunked_loss(chunk: int):  # type: ignore[no-untyped-def]
    return lambda model: SummedLoss(model, chunk)(pack(ROWS))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_it_equals_the_plain_loss(tied: bool, chunk: int) -> None:
    model = tiny_model(tied=tied)
    (expected, theirs), (found, ours) = (loss_and_gradients(model, of) for of in (plain_loss, chunked_loss(chunk)))
    assert found == pytest.approx(expected, rel=1e-6)
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [16, 10_000])
@pytest.mark.parametrize(("weights", "autocast"), [("float32", True), ("bfloat16", False)])
def test_in_bf16_it_is_as_close_to_the_truth_as_the_plain_loss(tied: bool, chunk: int, weights: str, autocast: bool) -> None:
    model = tiny_model(tied=tied).to(getattr(torch, weights))
    exact_loss, exact = loss_and_gradients(copy.deepcopy(model).double(), plain_loss)
    (_, theirs), (found, ours) = (loss_and_gradients(model, of, autocast) for of in (plain_loss, chunked_loss(chunk)))
    assert found == pytest.approx(exact_loss, rel=2e-3)
    assert float((ours - exact).norm()) < 1.2 * float((theirs - exact).norm()) < 0.1 * float(exact.norm())


def test_gradients_are_right_to_double_precision() -> None:
    model = tiny_model(tied=False).double()
    weight = model.get_output_embeddings().weight
    packed = pack(ROWS[:2])
    with padding_free(model):
        SummedLoss(model, 5)(packed).backward()
        for place in [(7, 3), (int(packed.targets[0]), 11)]:
            losses = []
            for delta in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[place] += delta
                    losses.append(float(SummedLoss(model, 5)(packed)))
                    weight[place] -= delta
            assert weight.grad is not None
            assert float(weight.grad[place]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("chunk", [4, 16])
def test_logits_exist_for_one_chunk_only(chunk: int) -> None:
    """Every tensor that forward and backward make is looked at: none has more than a chunk's rows of the vocabulary."""

    class Rows(torch.utils._python_dispatch.TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.ndim == 2 and made.shape[1] == VOCABULARY:
                Rows.most = max(Rows.most, made.shape[0])
            return made

    model = tiny_model(tied=False)
    packed = pack(ROWS)
    assert len(packed.targets) > 32
    with padding_free(model), Rows():
        SummedLoss(model, chunk)(packed).backward()
    assert Rows.most in (chunk, model.config.hidden_size)  # weights transposed are [D, V]
    assert Rows.most == max(chunk, model.config.hidden_size)


def test_a_micro_batch_without_targets_gives_zero_and_zero_gradients() -> None:
    model = tiny_model()
    with padding_free(model):
        loss = SummedLoss(model, 4)(pack([without_targets(ROWS[0])]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    found = gradients(model)
    assert len(found) == len(list(model.parameters()))
    assert all(not gradient.any() for gradient in found.values())


def test_nothing_but_the_loss_is_computed_without_gradients() -> None:
    model = tiny_model()
    with padding_free(model), torch.no_grad():
        loss = SummedLoss(model, 4)(pack(ROWS))
        assert float(loss) == pytest.approx(float(plain_loss(model)), rel=1e-5)
    assert not loss.requires_grad


def test_an_output_projection_with_a_bias_is_refused() -> None:
    model = tiny_model(tied=False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
    with pytest.raises(ValueError, match="bias in its output projection"):
        SummedLoss(model, 4)
