"""How long training sequences are: measured where the examples are there, assumed from counted public rows where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cft_lab.config import Config, ConfigError, DataConfig


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
    """Lengths that were counted once: their 2.5th, 7.5th, ... 97.5th percentiles, each standing for a twentieth of the rows."""

    lengths: tuple[int, ...]
    target_share: float  # of rows of up to 2048 tokens
    basis: str


#: (whose tokens, kind of target) -> what was counted on real rows of that kind.
#: Paper scale: with Qwen's byte-pair vocabulary, 19 tokens of chat template and the end of the turn included. The critique rows
#: are those without thoughts of a public sample of 120, by several teachers, about solutions that models wrote; WebInstruct's own
#: were not at hand, and their solutions are probably shorter. The response rows are from the MATH training set. Lab: data=lab-web.
_COUNTED = {
    ("paper", "critique"): _Counted(
        (805, 844, 894, 929, 971, 1053, 1150, 1182, 1204, 1238, 1290, 1325, 1399, 1471, 1600, 1670, 1831, 2368, 2599, 2969),
        0.424,
        "counted on 98 public critique rows of WebInstruct-CFT's schema, in Qwen tokens",
    ),
    ("paper", "response"): _Counted(
        (83, 103, 117, 130, 142, 156, 168, 179, 193, 205, 219, 236, 253, 276, 304, 334, 375, 442, 562, 834),
        0.665,
        "counted on 3,000 rows of the MATH training set, in Qwen tokens",
    ),
    ("lab", "critique"): _Counted(
        (92, 103, 112, 123, 130, 132, 134, 137, 142, 146, 149, 152, 164, 169, 173, 177, 182, 186, 190, 196),
        0.418,
        "counted on 3,000 examples of method=cft data=lab-web, in lab tokens",
    ),
    ("lab", "response"): _Counted(
        (51, 53, 56, 59, 60, 72, 74, 74, 76, 78, 79, 80, 82, 90, 94, 95, 98, 100, 104, 110),
        0.526,
        "counted on 3,000 examples of method=sft data=lab-web, in lab tokens",
    ),
}


#: method -> the config group of a source and what is imitated there
_SOURCES = {
    "sft": (("data", "response"),),
    "sft-verified": (("data", "response"),),
    "sft-teacher": (("data", "response"),),
    "cft": (("data", "critique"),),
    "cft-short": (("data", "critique"),),
    "mix": (("data", "critique"), ("mix_data", "response")),
    "base": (),
}


def assumed_lengths(config: Config) -> Lengths:
    """What the examples of a cell are taken to look like before they are made. Raises ConfigError if the method trains nothing."""
    sources = _SOURCES[config.method.name]
    if not sources:
        raise ConfigError(f"method={config.method.name} trains nothing, so there is no training to plan: choose another method")
    parts = []
    for group, kind in sources:
        data: DataConfig = getattr(config, group)
        scale = "lab" if config.model.lab is not None and data.source == "lab" else "paper"
        parts.append(_assumed(_COUNTED[scale, kind], data, config.train.max_length))
    return joined(parts)


def _assumed(counted: _Counted, data: DataConfig, max_length: int) -> Lengths:
    """Rows over `max_length` are dropped, as in training. If all would be, the longest allowed stands for them."""
    kept = [length for length in counted.lengths if length <= max_length] or [max_length]
    mean = sum(kept) / len(kept)
    examples = data.examples or data.pool
    if data.supervised_tokens is not None:
        examples = max(1, round(data.supervised_tokens / (mean * counted.target_share)))
    sequences = max(1, round(examples * min(1.0, len(kept) / len(counted.lengths))))
    return Lengths(
        examples=examples,
        sequences=sequences,
        too_long=examples - sequences,
        without_target=0,
        mean=mean,
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
