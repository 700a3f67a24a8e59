"""The loss where there are targets, and nowhere else.

Hidden states of supervised positions are selected BEFORE the output projection: question and solution are most of a CFT row
and a vocabulary has up to 152,000 entries. The projection runs in chunks whose gradient is computed beside their loss, so
that the logits of a micro-batch never exist at once, in neither pass, and no product is computed twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cft_lab.training.attention import hidden_states, product_dtype
from cft_lab.training.batches import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SummedLoss(torch.nn.Module):
    """A causal model as a module from a packed micro-batch to its summed loss.

    It is a module so that whoever shards or wraps a model has one forward to hook, inside which the weights of the output
    projection are whole.
    """

    def __init__(self, model: PreTrainedModel, chunk_tokens: int) -> None:
        super().__init__()
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise ValueError(f"{type(model).__name__} has a bias in its output projection, which this loss does not know")
        self.model = model
        self.chunk_tokens = chunk_tokens

    def forward(self, packed: Packed) -> torch.Tensor:
        """Cross-entropy in nats summed over the target tokens of a micro-batch."""
        hidden = hidden_states(self.model, packed)
        weight = self.model.get_output_embeddings().weight
        loss: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, packed.predicting, packed.targets, self.chunk_tokens
        )
        return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies; the gradients are made in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, predicting: torch.Tensor, targets: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        """hidden [T, D], weight [V, D], predicting [N], targets [N] -> a scalar in float32 or better."""
        dtype = product_dtype(hidden)
        projection = weight.to(dtype)
        selected = hidden[predicting].to(dtype)  # [N, D]
        train_hidden, train_weight = ctx.needs_input_grad[:2]
        grad_selected = torch.empty_like(selected) if train_hidden else None
        grad_weight = torch.zeros_like(weight) if train_weight else None
        exact = torch.promote_types(dtype, torch.float32)
        loss = hidden.new_zeros((), dtype=exact)
        for start in range(0, len(targets), chunk):
            states, wanted = selected[start : start + chunk], targets[start : start + chunk, None]
            log_probs = torch.log_softmax(states @ projection.T, dim=-1, dtype=exact)  # [chunk, V]
            loss -= log_probs.gather(1, wanted).sum()
            if not (train_hidden or train_weight):
                continue
            errors = log_probs.exp_()  # d loss / d logits = probability - 1 at the target
            errors.scatter_add_(1, wanted, errors.new_full(wanted.shape, -1.0))
            errors = errors.to(dtype)
            if grad_selected is not None:
                torch.mm(errors, projection, out=grad_selected[start : start + chunk])
            if grad_weight is not None:
                grad_weight += errors.T @ states
            del log_probs, errors  # before the next chunk's exist
        ctx.grads, ctx.shape, ctx.dtype = (grad_selected, grad_weight, predicting), hidden.shape, hidden.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """The stored gradients times the gradient of the sum."""
        grad_selected, grad_weight, predicting = ctx.grads
        ctx.grads = None  # so that the weight's gradient can be taken over instead of copied
        grad_hidden = None
        if grad_selected is not None:
            grad_hidden = torch.zeros(ctx.shape, dtype=ctx.dtype, device=grad.device)
            grad_hidden[predicting] = (grad_selected * grad).to(ctx.dtype)
        return grad_hidden, None if grad_weight is None else grad_weight.mul_(grad), None, None, None
