"""The worker process of cft_lab.evaluation.workers: one JSON task per line in, one JSON verdict per line out.

python -m cft_lab.evaluation.symbolic_worker MEMORY_BYTES SECONDS

The limits are the kernel's: address space (beyond it Python raises MemoryError) and processor time per task (beyond it the
process is killed). The parent, which also watches the clock, starts another worker.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from fractions import Fraction
from typing import Any

from cft_lab.evaluation.decimals import Terms
from cft_lab.evaluation.equivalence import UnreadableGoldError, compare
from cft_lab.evaluation.paper_grader import paper_compare
from cft_lab.evaluation.symbolic import symbolic_equal

_NO_MEMORY = "the comparison needed more memory than a worker is given"
_RECURSION_LIMIT = 3_000  # sympy recurses deeply on real answers; the stack holds several times this


def main(arguments: list[str]) -> None:
    """Answers tasks until its input ends. Leaves after a MemoryError or when half its memory is used: sympy's caches only grow."""
    memory_bytes, seconds = int(arguments[0]), float(arguments[1])
    verdicts = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be read as a verdict
    import math_verify  # noqa: F401  (before the clock of the first task runs)

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(_RECURSION_LIMIT)
    print(json.dumps({"ready": True}), file=verdicts)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its default action ends the process, whatever it is doing
        reply = _verdict(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        ran_full = _address_space("VmPeak") > 0.9 * memory_bytes
        if ran_full:  # sympy may have caught the MemoryError and said "not equal"; that was not measured
            reply = {"reason": _NO_MEMORY}
        full = ran_full or reply.get("reason") == _NO_MEMORY or _address_space("VmRSS") > memory_bytes / 2
        print(json.dumps(reply | {"leaving": full}), file=verdicts)
        if full:
            return


def _verdict(task: dict[str, Any]) -> dict[str, Any]:
    terms = Terms(Fraction(task["relative"]), Fraction(task["absolute"]), task["lists_are_tuples"])
    try:
        strict = task["strict"]
        if strict is None:
            strict = compare(task["gold"], task["answer"], terms, symbolic_equal)
        paper = True if strict else task["paper"]
        if paper is None:
            paper = _paper(task, terms)
    except UnreadableGoldError as error:
        return {"reason": str(error)}
    except MemoryError:
        return {"reason": _NO_MEMORY}
    except RecursionError:
        return {"reason": "the answer is nested too deeply to compare"}
    except Exception as error:  # sympy fails in many ways on text that it half understands; the item is an error, not wrong
        return {"reason": f"the comparison failed: {type(error).__name__}: {str(error)[:200]}"}
    return {"strict": strict, "paper": paper}


def _paper(task: dict[str, Any], terms: Terms) -> bool:
    try:
        return bool(paper_compare(task["gold"], task["answer"], terms, symbolic_equal))
    except UnreadableGoldError:
        return False  # what the paper's cut at "=" leaves of a sound gold may be nothing readable


def _address_space(field: str) -> int:
    """Bytes by the kernel's count: VmPeak, the most ever mapped, or VmRSS, what is in memory now; 0 where it does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return 0


if __name__ == "__main__":
    main(sys.argv[1:])
