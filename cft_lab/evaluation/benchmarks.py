"""What models are evaluated on, by name.

A benchmark is a list of problems with gold answers. To add one: write its loader, give it a line in BENCHMARKS, name it in a
preset of conf/benchmarks/.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cft_lab.lab import WORLD_VERSION
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.records import Problem, to_row


@dataclass(frozen=True)
class Benchmark:
    """`load()` gives the items; `identity` goes into the key of every stage that uses them."""

    name: str
    load: Callable[[], list[Problem]]
    identity: Mapping[str, Any]


def _lab(name: str) -> Benchmark:
    lab_set = LAB_SETS[name]
    return Benchmark(name, functools.partial(lab_set.problems, name), {"world": WORLD_VERSION, **to_row(lab_set)})


BENCHMARKS: Mapping[str, Benchmark] = {name: _lab(name) for name in LAB_SETS}

#: named in conf/ for the paper's cells; their loaders are not built yet
PAPER_BENCHMARKS = ("math", "math500", "minerva-math", "gsm8k", "olympiadbench", "aime24", "amc23")


def load_items(name: str, limit: int | None = None) -> list[Problem]:
    """The items of a benchmark, the first `limit` if given."""
    return BENCHMARKS[name].load()[:limit]
