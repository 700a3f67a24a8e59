"""The lab world's test sets and its validation set, frozen with WORLD_VERSION.

lab-basic     families that are common on the web, 2 and 3 steps
lab-applied   families that are rare on the web (units, percent, equations), up to 3 steps
lab-long      chain, rates and units with 4 steps, more than the fine-tuning data ask for
lab-transfer  a family whose templates occur in no training text
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from cft_lab.lab.world import make_problems, signature
from cft_lab.records import Problem

_COMMON = {"chain": 1.0, "rates": 1.0}
_RARE = {"units": 1.0, "percent": 1.0, "equations": 1.0}


@dataclass(frozen=True)
class LabSet:
    """A list of problems as a function of its fields."""

    split: str
    families: Mapping[str, float]
    steps: Mapping[int, float]
    size: int
    seed: int

    def problems(self, source: str) -> list[Problem]:
        """The problems with their gold answers, no two of one signature, so that items are independent."""
        stream = make_problems(self.seed, self.split, self.families, self.steps, unique_by=signature)
        return [
            Problem(p.id, p.question, source, answer=str(p.answer), subject=p.family) for p in itertools.islice(stream, self.size)
        ]


LAB_SETS: Mapping[str, LabSet] = {
    "lab-basic": LabSet("test", _COMMON, {2: 1.0, 3: 1.0}, 250, seed=101),
    "lab-applied": LabSet("test", _RARE, {1: 1.0, 2: 1.0, 3: 1.0}, 250, seed=102),
    "lab-long": LabSet("test", {**_COMMON, "units": 1.0}, {4: 1.0}, 250, seed=103),
    "lab-transfer": LabSet("test", {"office": 1.0}, {1: 1.0, 2: 1.0, 3: 1.0}, 250, seed=104),
    "lab-validation": LabSet("validation", _COMMON | _RARE, {1: 1.0, 2: 1.0, 3: 1.0}, 200, seed=105),
}
