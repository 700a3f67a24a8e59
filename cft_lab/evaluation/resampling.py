"""Bootstrap of many arms on the same items: drawn once for all of them, so that every two are paired.

`comparisons.bootstrap_minus_best` draws anew for each comparison; a report has a hundred of them over the same thousands of items.
The numbers are those of the same bootstrap. Scores are fractions.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cft_lab.evaluation.comparisons import RESAMPLES
from cft_lab.evaluation.statistics import Interval

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 4_000_000  # items drawn at once


class Resampler:
    """Draws of items with replacement, the same for all scores on a benchmark; different benchmarks are drawn independently.

    It keeps `resamples` bytes for every item: 60 MB for the 6,000 items of a benchmark and 10,000 resamples.
    """

    def __init__(self, seed: int, resamples: int = RESAMPLES) -> None:
        self._seed, self._resamples = seed, resamples
        self._drawn: dict[tuple[str, int], np.ndarray] = {}

    def means(self, benchmark: str, scores: np.ndarray) -> np.ndarray:
        """Means of resampled items [resamples], for scores [items] in the order that all arms of this benchmark have."""
        import numpy as np

        counts = self._counts(benchmark, len(scores))
        step = max(1, _CHUNK // len(scores))
        found = np.empty(self._resamples)
        for start in range(0, self._resamples, step):
            found[start : start + step] = counts[start : start + step].astype(float) @ scores
        return found / len(scores)

    def _counts(self, benchmark: str, n: int) -> np.ndarray:
        """How often each item was drawn [resamples, items]. An item that is drawn 256 times of n has not been seen by anyone."""
        import numpy as np

        place = (benchmark, n)
        if place not in self._drawn:
            rng = np.random.default_rng([self._seed, zlib.crc32(benchmark.encode()), n])
            counts = np.empty((self._resamples, n), np.uint8)
            step = max(1, _CHUNK // n)
            for start in range(0, self._resamples, step):
                rows = min(step, self._resamples - start)
                drawn = rng.integers(0, n, (rows, n), dtype=np.int32) + np.arange(rows, dtype=np.int32)[:, None] * n
                counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
            self._drawn[place] = counts
        return self._drawn[place]


def minus_best(first: np.ndarray, rivals: Sequence[np.ndarray], estimate: float, confidence: float = 0.95) -> Interval:
    """Interval for first minus the best of its rivals from their resampled means [resamples], the best chosen in each resample.

    The percentile interval for one rival; for several its outer limits with its reflection at the estimate, as in
    `comparisons.bootstrap_minus_best`, which says why.
    """
    import numpy as np

    draws = first - np.max(np.stack(rivals), axis=0)
    low, high = (float(limit) for limit in np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]))
    if len(rivals) == 1:
        return low, high
    return min(low, 2 * estimate - high), max(high, 2 * estimate - low)
