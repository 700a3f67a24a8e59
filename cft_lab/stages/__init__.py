"""The stages of a cell: what each depends on, and what it does when it has to be made.

Every function here but `track` returns a `Stage`. Its `config` holds exactly the fields that can change its output (see
`config.key_part`), and its `make` calls the library; nothing is decided here that changes a result.
"""

from cft_lab.stages.common import GENERATIONS, GRADES
from cft_lab.stages.data import answers, critiques, examples, mixed_examples, problems, responses
from cft_lab.stages.evaluation import RESULT, SCORE, generations, result, scores, track
from cft_lab.stages.models import base_model
from cft_lab.stages.selection import selected
from cft_lab.stages.training import candidates
from cft_lab.stages.writers import forget_refused

__all__ = [
    "GENERATIONS",
    "GRADES",
    "RESULT",
    "SCORE",
    "answers",
    "base_model",
    "candidates",
    "critiques",
    "examples",
    "forget_refused",
    "generations",
    "mixed_examples",
    "problems",
    "responses",
    "result",
    "scores",
    "selected",
    "track",
]
