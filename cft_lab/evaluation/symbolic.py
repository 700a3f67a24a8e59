"""What the project's own reader cannot read, decided by math-verify. Runs in worker processes only (see workers.py).

LaTeX goes through latex2sympy's grammar; `parse_expr`, which would execute Python, is never reached.
"""

from __future__ import annotations

import logging
from typing import Any

from cft_lab.evaluation.answer_text import ROW_END
from cft_lab.evaluation.equivalence import UnreadableGoldError
from cft_lab.evaluation.expressions import read_expression

_FLOAT_DECIMALS = 6  # math-verify's own default


def symbolic_equal(gold: str, answer: str) -> bool:
    """Whether math-verify takes the two texts for equal; an unreadable answer is not.

    Raises UnreadableGoldError if the gold cannot be read.
    """
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off: the worker's holds
    try:
        gold_tree = _parse(gold)
    except Exception as error:  # the grammar's failures have no common type
        if read_expression(gold) is not None:
            return False  # a sound gold; sympy merely has no name for it
        raise UnreadableGoldError(f"the gold {gold[:200]!r} cannot be read: {type(error).__name__}") from error
    try:
        answer_tree = _parse(answer)
    except Exception:
        return False
    return bool(verify([gold_tree], [answer_tree], float_rounding=_FLOAT_DECIMALS, timeout_seconds=None))


def _parse(text: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig
    from math_verify.grader import should_treat_as_complex

    tree = latex2sympy(
        text.replace(ROW_END, r"\\"),
        is_real=not should_treat_as_complex(text),
        convert_degrees=False,
        normalization_config=NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="none"),
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
    if tree is None:
        raise ValueError("empty")
    return tree
