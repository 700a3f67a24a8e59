"""How long training sequences are: measured where the examples are there, assumed from counted public rows where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """Token statistics of what a model is trained on, and what they rest on.

    `sequences` remain of `examples`; the rest are too long, or have no target left. Tokens are counted with the end of the turn.
    """

    examples: int
    sequences: int
    too_long: int
    without_target: int
    mean: float  # tokens of a sequence
    mean_squared: float  # mean of the squared number of tokens: what attention costs
    percentiles: tuple[tuple[int, int], ...]  # (percent, tokens)
    target_share: float  # supervised tokens, as a share of all
    basis: str
    measured: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is trained on."""
        return self.percentiles[-1][1]

    @property
    def tokens(self) -> float:
        """Tokens of one epoch."""
        return self.sequences * self.mean

    @property
    def targets(self) -> float:
        """Supervised tokens of one epoch."""
        return self.tokens * self.target_share


_PERCENTS = (10, 50, 90, 99, 100)


def measured_lengths(lengths: Sequence[int], targets: int, too_long: int, without_target: int, basis: str) -> Lengths:
    """Statistics of real sequences: their lengths in tokens, and how many tokens of all are supervised."""
    ordered = sorted(lengths)
    total = sum(ordered)
    return Lengths(
        examples=len(ordered) + too_long + without_target,
        sequences=len(ordered),
        too_long=too_long,
        without_target=without_target,
        mean=total / len(ordered),
        mean_squared=sum(length * length for length in ordered) / len(ordered),
        percentiles=_percentiles(ordered),
        target_share=targets / total,
        basis=basis,
        measured=True,
    )


def _percentiles(ordered: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(percent, length) by the nearest rank."""
    last = len(ordered) - 1
    return tuple((percent, ordered[round(percent / 100 * last)]) for percent in _PERCENTS)


@dataclass(frozen=True)
class _Counted:
    """Lengths that were counted once: their 2.5th, 7.5th, ... 97.5th percentiles, each of which stands for a twentieth of the rows."""

    lengths: tuple[int, ...]
    target_share: float  # of rows of up to 2048 tokens
    basis: str


#: (scale, kind of target) -> what was counted on real rows of that kind.
#: Paper scale: with Qwen's byte-pair vocabulary, 19 tokens of chat template and the end of the turn included. The critique rows are a
#: public sample in the schema of WebInstruct-CFT, by several teachers, about solutions that models wrote; those of WebInstruct
#: itself were not at hand. The response rows are from the MATH training set. Lab: with the lab tokenizer, data=lab-web.
_COUNTED = {
    ("paper", "critique"): _Counted(
        (817, 872, 913, 953, 1056, 1158, 1195, 1230, 1287, 1335, 1424, 1543, 1623, 1681, 1913, 2265, 2437, 2670, 3289, 4891),
        0.449,
        "counted on 120 public critique rows in the schema of WebInstruct-CFT, Qwen tokens",
    ),
    ("paper", "response"): _Counted(
        (83, 103, 117, 130, 142, 156, 168, 179, 193, 205, 219, 236, 253, 276, 304, 334, 375, 442, 562, 834),
        0.665,
        "counted on 3,000 rows of the MATH training set, Qwen tokens",
    ),
    ("lab", "critique"): _Counted(
        (92, 103, 112, 123, 130, 132, 134, 137, 142, 146, 149, 152, 164, 169, 173, 177, 182, 186, 190, 196),
        0.418,
        "counted on 3,000 examples of method=cft data=lab-web, lab tokens",
    ),
    ("lab", "response"): _Counted(
        (51, 53, 56, 59, 60, 72, 74, 74, 76, 78, 79, 80, 82, 90, 94, 95, 98, 100, 104, 110),
        0.526,
        "counted on 3,000 examples of method=sft data=lab-web, lab tokens",
    ),
}


def assumed_lengths(scale: str, kind: str, examples: int, max_length: int) -> Lengths:
    """What `examples` examples are taken to look like: `scale` is lab or paper, `kind` of target critique or response.

    Rows over `max_length` are dropped, as in training. If all would be, the longest allowed stands for them.
    """
    counted = _COUNTED[scale, kind]
    kept = [length for length in counted.lengths if length <= max_length] or [max_length]
    share = min(1.0, len(kept) / len(counted.lengths))
    sequences = max(1, round(examples * share))
    return Lengths(
        examples=examples,
        sequences=sequences,
        too_long=examples - sequences,
        without_target=0,
        mean=sum(kept) / len(kept),
        mean_squared=sum(length * length for length in kept) / len(kept),
        percentiles=(*_percentiles(kept)[:-1], (100, max_length)),
        target_share=counted.target_share,
        basis=f"assumed: {counted.basis}",
    )


def joined(parts: Sequence[Lengths]) -> Lengths:
    """The statistics of several sources together; percentiles are those of the source with the longer sequences."""
    sequences = sum(part.sequences for part in parts)
    tokens = sum(part.tokens for part in parts)
    return Lengths(
        examples=sum(part.examples for part in parts),
        sequences=sequences,
        too_long=sum(part.too_long for part in parts),
        without_target=sum(part.without_target for part in parts),
        mean=tokens / sequences,
        mean_squared=sum(part.sequences * part.mean_squared for part in parts) / sequences,
        percentiles=max((part.percentiles for part in parts), key=lambda found: found[1][1]),
        target_share=sum(part.targets for part in parts) / tokens,
        basis="; ".join(dict.fromkeys(part.basis for part in parts)),
        measured=all(part.measured for part in parts),
    )
