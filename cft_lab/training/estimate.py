"""How much memory a training needs on each device, from the model's shape and the settings alone: no weights, no GPU, no torch.

Memory is counted at the three moments of a micro-batch at which it can peak, and the largest is the estimate:

    loss      the forward pass is over and every kept activation is there; logits of one chunk stand beside their gradient
    backward  one block's activations are there (again, if they are recomputed) with the gradients that flow through it
    end       no activation is left; the embedding's gradient stands beside the one that it is added to

Widths below: d hidden_size, f intermediate_size, k all keys of a token, h heads. The counts of kept activations are what torch's
autograd saves of transformers' Qwen2 and Llama blocks in the loop of this package; a test counts them anew.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from cft_lab.config import OptimizationConfig, ShapeConfig
from cft_lab.training.devices import GIB
from cft_lab.training.shapes import count_parameters, count_text, kv_size

#: what a process holds on a GPU besides tensors: CUDA context, kernels, cuBLAS workspace
CONTEXT_BYTES = 0.8 * GIB
#: communication buffers of NCCL, where several processes train together
NCCL_BYTES = 1.0 * GIB
#: share by which an allocator holds more than is in use at once, of what comes and goes (activations, logits, gathered blocks)
SLACK = {"cuda": 0.08, "cpu": 0.03}


@dataclass(frozen=True)
class Part:
    """One part of the memory of a device, in bytes, and what the figure rests on."""

    name: str
    num_bytes: float
    basis: str


@dataclass(frozen=True)
class Memory:
    """The estimated peak on each device: its parts at the moment that needs most."""

    moment: str  # loss, backward or end
    parts: tuple[Part, ...]
    micro_batch_tokens: int
    micro_batches: int  # of an optimizer step on each device

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def largest(self) -> Part:
        """The part that needs most."""
        return max(self.parts, key=lambda part: part.num_bytes)


@dataclass(frozen=True)
class Setting:
    """What the memory of a device follows from. `precision` is fp32 or bf16: what the passes compute in."""

    shape: ShapeConfig
    config: OptimizationConfig
    device: str  # cuda or cpu
    precision: str
    ranks: int
    step_tokens: float  # of an optimizer step, over all devices
    longest: int  # tokens of the longest sequence
    target_share: float  # supervised tokens, as a share of all

    @property
    def autocast(self) -> bool:
        """Whether fp32 weights are cast to bf16 product by product, in one process; several have FSDP's mixed precision."""
        return self.precision == "bf16" and self.config.weights == "fp32" and self.ranks == 1

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number that matrix products read and write."""
        return 2 if self.precision == "bf16" or self.config.weights == "bf16" else 4

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step on each device, as `split_step` fills them."""
        return max(1, math.ceil(self.step_tokens / self.ranks / self.config.micro_batch_tokens))

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of the largest micro-batch: the budget, or all there is, or one sequence that is longer."""
        return math.ceil(max(min(self.config.micro_batch_tokens, self.step_tokens / self.ranks), self.longest))


def estimate_memory(setting: Setting) -> Memory:
    """The peak of a training on each of its devices."""
    found = [
        Memory(moment, tuple(part for part in parts if part.num_bytes), setting.micro_batch_tokens, setting.micro_batches)
        for moment, parts in (
            ("loss", [*_kept(setting, "loss"), *_at_loss(setting)]),
            ("backward", [*_kept(setting, "backward"), *_at_backward(setting)]),
            ("end", [*_kept(setting, "end"), *_at_end(setting)]),
        )
    ]
    peak = max(found, key=lambda memory: memory.total)
    return dataclasses.replace(peak, parts=(*peak.parts, *_surroundings(setting, peak)))


def _weight_bytes(config: OptimizationConfig) -> int:
    return 4 if config.weights == "fp32" else 2


def _kept(setting: Setting, moment: str) -> Iterator[Part]:
    """Weights, gradients and the optimizer's state, each process holding its share of the parameters."""
    number = count_parameters(setting.shape).total / setting.ranks
    size = _weight_bytes(setting.config)
    each = f"{count_text(number)} parameters" + (f" (of {setting.ranks} shares)" if setting.ranks > 1 else "")
    yield Part("weights", number * size, f"{each} x {size} bytes ({setting.config.weights})")
    # of a single micro-batch the gradient comes into being while activations go
    if moment == "end" or setting.micro_batches > 1:
        yield Part("gradients", number * size, f"x {size} bytes")
    state = optimizer_bytes(setting.config)
    yield Part("optimizer", number * state, f"x {state:.4g} bytes ({setting.config.optimizer})")


def optimizer_bytes(config: OptimizationConfig) -> float:
    """Bytes of optimizer state for each parameter: AdamW's two moments.

    They are kept as the weights are, or in 8 bits with one fp32 scale for every 256 (torchao's AdamW8bit).
    """
    return 2 * (1 + 4 / 256) if config.optimizer == "adamw-8bit" else 2.0 * _weight_bytes(config)


def block_activation_bytes(setting: Setting) -> float:
    """Bytes of activations that one block keeps for each token, none of them recomputed.

    Each of the two norms keeps its input and its normalized input, and the products after it their own input; attention keeps
    queries, keys, values, its output and one number a head; the MLP keeps gate, its activation, up and their product.

        fp32      4 (6 d + 2 d + 2 k + 4 f + h + 2)
        autocast  4 (4 d + h + 2) + 2 (5 d + 2 d + 2 k + 4 f)     norms in fp32; q, k, v, gate and up each cast their input anew
        bf16      4 (2 d + h + 2) + 2 (4 d + 2 d + 2 k + 4 f)     a norm keeps its input cast to fp32

    On a CPU attention runs sequence by sequence and its outputs are joined by a copy: d more.
    """
    shape = setting.shape
    d, f, k = shape.hidden_size, shape.intermediate_size, kv_size(shape)
    attention_and_mlp = (2 + (setting.device == "cpu")) * d + 2 * k + 4 * f
    in_fp32, more = (4, 5) if setting.autocast else (2, 4) if setting.compute_bytes == 2 else (0, 6)
    return 4 * (in_fp32 * d + shape.heads + 2) + setting.compute_bytes * (more * d + attention_and_mlp)


def _stream_bytes(setting: Setting) -> int:
    """Bytes of a number of the residual stream: products in bf16 are added to it, and fp32 plus bf16 is fp32."""
    return 4 if setting.autocast else setting.compute_bytes


def _activations(setting: Setting, moment: str) -> Iterator[Part]:
    shape, tokens, how = setting.shape, setting.micro_batch_tokens, setting.config.activation_checkpointing
    block = block_activation_bytes(setting)
    of_last_norm = 3 * shape.hidden_size * 4
    saved = {"none": block, "selective": _selective_bytes(setting), "full": shape.hidden_size * _stream_bytes(setting)}[how]
    each = f"{tokens:,} tokens x {shape.layers} blocks x {saved / 1024:,.1f} KiB (checkpointing: {how})"
    yield Part("activations", tokens * (shape.layers * saved + of_last_norm), each)
    if moment == "backward":
        again = block - saved if how != "none" else 0.0
        flowing = setting.compute_bytes * (2 * shape.intermediate_size + 2 * shape.hidden_size) + 2 * 4 * shape.hidden_size
        yield Part(
            "block in backward",
            tokens * (again + flowing),
            f"{tokens:,} tokens x {(again + flowing) / 1024:,.1f} KiB: what is recomputed, and gradients",
        )


def _selective_bytes(setting: Setting) -> float:
    """Bytes that a block keeps for each token under selective checkpointing: the results of its products and its attention."""
    shape = setting.shape
    d, f, k = shape.hidden_size, shape.intermediate_size, kv_size(shape)
    return _stream_bytes(setting) * d + setting.compute_bytes * (4 * d + 2 * k + 2 * f) + 4 * shape.heads


def _copies(setting: Setting, moment: str) -> Iterator[Part]:
    """Weights in the dtype of the passes, beside those that are kept."""
    count, size = count_parameters(setting.shape), setting.compute_bytes
    root = count.embedding + count.output
    if setting.ranks > 1:
        gathered = 2 * count.block + root
        yield Part("gathered weights", gathered * size, f"two blocks, embedding and projection x {size} bytes (FSDP)")
        if moment != "loss":
            reduced = root if moment == "end" else count.block
            yield Part(
                "gradients being reduced", reduced * (4 + size), f"{count_text(reduced)} x {4 + size} bytes (summed in fp32)"
            )
    elif setting.autocast and moment != "end":
        blocks = 1 if moment == "backward" and setting.config.activation_checkpointing == "full" else setting.shape.layers
        yield Part("bf16 copies of weights", blocks * count.matrices * 2, f"{blocks} blocks x 2 bytes (autocast)")


def _loss(setting: Setting) -> Part:
    """Logits of one chunk beside their fp32 log-probabilities and the errors of the chunk before; or errors beside their product.

    Besides, the projection's gradient, to which the product is added, its bf16 copy under autocast, and the hidden states of
    supervised positions with their gradient. A CPU first casts operands of unlike types, a GPU does it in passing.
    """
    shape, size = setting.shape, setting.compute_bytes
    targets = max(1, math.ceil(setting.micro_batch_tokens * setting.target_share))
    chunk = min(targets, setting.config.loss_chunk_tokens)
    table = shape.vocab_size * shape.hidden_size
    cast = 4 if size == 2 and setting.device == "cpu" else 0
    errors = 6 if size == 2 else 4  # in fp32, and cast to what the products take
    logits = chunk * shape.vocab_size * (size + 4 + cast)
    product = chunk * shape.vocab_size * errors + table * (size + cast)
    gradient = table * (_weight_bytes(setting.config) if setting.ranks == 1 else size)
    copied = table * 2 if setting.autocast else 0
    return Part(
        "logits and their gradients",
        max(logits, product) + gradient + copied + 2 * targets * shape.hidden_size * size,
        f"{chunk:,} target tokens x {shape.vocab_size:,} x {logits // chunk // shape.vocab_size} bytes; the projection's gradient",
    )


def _at_loss(setting: Setting) -> Iterator[Part]:
    yield from _copies(setting, "loss")
    yield from _activations(setting, "loss")
    yield _loss(setting)


def _at_backward(setting: Setting) -> Iterator[Part]:
    yield from _copies(setting, "backward")
    yield from _activations(setting, "backward")
    table = setting.shape.vocab_size * setting.shape.hidden_size
    if setting.shape.tied_embeddings or setting.micro_batches == 1 or setting.ranks > 1:
        size = _weight_bytes(setting.config) if setting.ranks == 1 else setting.compute_bytes
        yield Part("projection's gradient", table * size, "until it is added to the others")


def _at_end(setting: Setting) -> Iterator[Part]:
    yield from _copies(setting, "end")
    if setting.ranks == 1:
        table = setting.shape.vocab_size * setting.shape.hidden_size
        held = (1 if setting.micro_batches > 1 else 0) + (1 if setting.shape.tied_embeddings else 0)
        yield Part("embedding's gradient", held * table * _weight_bytes(setting.config), "beside the one that it is added to")


def _surroundings(setting: Setting, peak: Memory) -> Iterator[Part]:
    """What a process needs besides its tensors."""
    if setting.device == "cuda":
        yield Part("CUDA context", CONTEXT_BYTES, "assumed")
        if setting.ranks > 1:
            yield Part("NCCL buffers", NCCL_BYTES, "assumed")
    changing = sum(part.num_bytes for part in peak.parts if part.name not in ("weights", "gradients", "optimizer"))
    share = SLACK[setting.device]
    yield Part("allocator slack", changing * share, f"assumed: {share:.0%} of what comes and goes")
