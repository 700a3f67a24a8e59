"""Levers change memory and speed: loss curves stay what they were, exactly or to a stated tolerance."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG, run
from tiny import sequences, tiny_model

from cft_lab.config import OptimizationConfig
from cft_lab.training.attention import padding_free
from cft_lab.training.batches import pack
from cft_lab.training.levers import compile_blocks, keep_weights_in, set_checkpointing
from cft_lab.training.loss import SummedLoss


def losses(folder: Path, config: OptimizationConfig) -> list[float]:
    folder.mkdir()
    return [row.loss for row in run(folder, config)[1] if row.loss is not None]


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_bit(tmp_path: Path, kind: str, precision: str) -> None:
    config = replace(CONFIG, precision=precision)
    plain = losses(tmp_path / "plain", config)
    assert losses(tmp_path / kind, replace(config, activation_checkpointing=kind)) == plain


def test_bf16_products_keep_the_loss_curve_to_one_per_cent(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=5)
    plain = losses(tmp_path / "plain", config)
    assert losses(tmp_path / "bf16", replace(config, precision="bf16")) == pytest.approx(plain, rel=0.01)


def test_small_chunks_of_the_loss_keep_the_curve(tmp_path: Path) -> None:
    plain = losses(tmp_path / "plain", CONFIG)
    assert losses(tmp_path / "chunks", replace(CONFIG, loss_chunk_tokens=16)) == pytest.approx(plain, rel=1e-5)


def kept_bytes(kind: str) -> int:
    """What a forward pass leaves for the backward pass."""
    model = tiny_model().train()
    set_checkpointing(model, kind)
    packed = pack(sequences(8))
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with padding_free(model), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        SummedLoss(model, 4096)(packed)
    return sum(kept.values())


def test_full_checkpointing_keeps_the_inputs_of_blocks() -> None:
    assert kept_bytes("full") < 0.4 * kept_bytes("none")


def test_selective_checkpointing_computes_no_product_again() -> None:
    """Products in forward and backward are counted: as many as without, where full checkpointing makes more."""

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += str(func) in ("aten.mm.default", "aten.addmm.default")
            return func(*args, **(kwargs or {}))

    counts = {}
    for kind in ("none", "selective", "full"):
        model = tiny_model().train()
        set_checkpointing(model, kind)
        with padding_free(model), Products() as products:
            SummedLoss(model, 4096)(pack(sequences(8))).backward()
        counts[kind] = products.count
    assert counts["selective"] == counts["none"] < counts["full"]


@pytest.mark.parametrize("tied", [True, False])
def test_weights_in_bf16_leave_rotary_frequencies_and_ties_alone(tied: bool) -> None:
    model = tiny_model(tied=tied)
    before = model.base_model.rotary_emb.inv_freq.clone()
    keep_weights_in(model, "bf16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.base_model.rotary_emb.inv_freq, before)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler sets off warnings of torch itself
def test_compiled_blocks_compute_the_same_and_are_compiled_once_for_all_batches() -> None:
    from torch._dynamo.utils import counters

    losses, programs = {}, []
    for compiled in (False, True):
        model = tiny_model().train()
        if compiled:
            compile_blocks(model)
        losses[compiled] = []
        with padding_free(model):
            for index in range(4):
                loss = SummedLoss(model, 4096)(pack(sequences(16 - index, seed=index)))
                loss.backward()
                losses[compiled].append(float(loss.detach()))
                programs.append(counters["stats"]["unique_graphs"])
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert programs[3] == 0 < programs[4] == programs[7]
