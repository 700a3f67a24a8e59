"""Every hostile string and ten thousand random mutations through the graders: outcomes, killed workers, times, memory.

python benchmarks/grading_hostile.py [STRINGS.jsonl]   # rows with "text"; by default the strings of tests/evaluation/hostile.py
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "evaluation"))
import hostile

from cft_lab.evaluation.grading import grade_many
from cft_lab.evaluation.profiles import ANY
from cft_lab.evaluation.workers import Limits, WorkerPool

MUTATIONS = 10_000
LIMITS = Limits(seconds=2.0, memory_bytes=1 << 30)
JOBS = 2


def main() -> None:
    texts = list(hostile.STRINGS)
    if len(sys.argv) > 1:
        rows = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
        texts = [json.loads(row)["text"] for row in rows]
    tasks = list(hostile.submissions(texts, MUTATIONS, seed=0))
    os.chdir(tempfile.mkdtemp())  # code that ran would leave its file here
    started = time.perf_counter()
    with WorkerPool(JOBS, LIMITS) as pool:
        grades = grade_many(tasks, ANY, pool=pool)
        counts = pool.counts
    seconds = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{len(tasks)} rows ({len(texts)} strings in four forms, {MUTATIONS} mutations) in {seconds:.0f} s")
    print(f"{JOBS} workers, {LIMITS}")
    print("  ".join(f"{outcome} {count}" for outcome, count in sorted(Counter(row.outcome.value for row in grades).items())))
    print(counts)
    print(f"largest worker {children:.0f} MiB; this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print(f"files left behind by executed code: {os.listdir('.')}")
    reasons = Counter((row.reason or "").partition("(")[0][:60] for row in grades if row.reason)
    print("reasons:", reasons.most_common(8))


if __name__ == "__main__":
    main()
