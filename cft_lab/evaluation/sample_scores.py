"""avg@k, maj@k and pass@k from several graded samples of each item: one score an item, the unit of every interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cft_lab.records import Grade, Outcome


@dataclass(frozen=True)
class SampleScores:
    """Scores of the measured items, in one order; `unmeasured` items have an error among their samples and are left out."""

    items: tuple[str, ...]
    average: tuple[float, ...]  # avg@k: the share of samples that are correct
    majority: tuple[float, ...]  # maj@k: whether the most frequent answer is correct
    passed: tuple[float, ...]  # pass@k: the chance that one of k samples is correct
    unmeasured: tuple[str, ...]


def sample_scores(grades: Mapping[str, Sequence[Grade]], k: int) -> SampleScores:
    """Scores of each item from its n >= k samples. avg@k and pass@k use all n samples, maj@k the first k.

    Raises ValueError if an item has fewer than k samples.
    """
    short = [name for name, samples in grades.items() if len(samples) < k]
    if short:
        raise ValueError(
            f"k={k} needs {k} samples of every item, but {short[0]} has {len(grades[short[0]])}: draw more, or lower k"
        )
    unmeasured = tuple(name for name, samples in grades.items() if any(sample.outcome is Outcome.ERROR for sample in samples))
    measured = {name: samples for name, samples in grades.items() if name not in unmeasured}
    correct = {name: sum(sample.outcome is Outcome.CORRECT for sample in samples) for name, samples in measured.items()}
    return SampleScores(
        items=tuple(measured),
        average=tuple(correct[name] / len(samples) for name, samples in measured.items()),
        majority=tuple(majority_score(samples[:k]) for samples in measured.values()),
        passed=tuple(pass_at_k(len(samples), correct[name], k) for name, samples in measured.items()),
        unmeasured=unmeasured,
    )


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that k of n samples, drawn without putting back, include a correct one: unbiased for pass@k.

    Source: Chen et al., arXiv 2107.03374, equation 1.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, correct={correct}, k={k}: correct must lie in 0..n and k in 1..n")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def majority_score(samples: Sequence[Grade]) -> float:
    """1 if the answer with the most votes is correct, 0 if not; on a tie, its chance if one of the tied answers is drawn.

    Correct samples vote together, however they write the answer; wrong ones by their extracted text. Samples without an answer
    do not vote. Source: self-consistency, Wang et al., arXiv 2203.11171.
    """
    votes: dict[str | None, int] = {}  # None is the correct answer
    for sample in samples:
        if sample.outcome is Outcome.ERROR:
            raise ValueError(f"{sample.problem_id} has a sample that was not measured: grade it again or leave the item out")
        if sample.outcome is Outcome.CORRECT:
            votes[None] = votes.get(None, 0) + 1
        elif sample.outcome is Outcome.WRONG and sample.extracted is not None:
            votes[sample.extracted] = votes.get(sample.extracted, 0) + 1
    if not votes:
        return 0.0
    most = max(votes.values())
    return (votes.get(None, 0) == most) / sum(count == most for count in votes.values())
