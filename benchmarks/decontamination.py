"""What it costs to keep 50,000 training questions apart from ten benchmarks, and to draw a pool from a large source.

python benchmarks/decontamination.py [FOLDER]

FOLDER holds benchmarks/*.jsonl and train/*.jsonl (default: ../shared/data beside the checkout); without it the texts are made up.
Times are one process's; the ratio is to splitting the same texts at blanks.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cft_lab.config import DataConfig
from cft_lab.data.decontamination import Decontaminator, words_of
from cft_lab.data.sources import load_pool

TRAINING = 50_000
DRAWN_FROM, POOL = 500_000, 20_000
#: benchmark -> items, as many as the paper's benchmarks and MATH-500 have; smaller files are filled up
SIZES = {
    "math_test": 5000,
    "math500": 500,
    "gsm8k_test": 1319,
    "minerva_math": 272,
    "olympiadbench": 675,
    "aime24": 30,
    "amc23": 40,
    "theoremqa": 800,
    "mmlu_pro_sample": 12032,
    "gpqa": 198,
}
T = TypeVar("T")
_QUESTION = ("question", "problem", "Question")


def main() -> None:
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "shared" / "data"
    real = [text for name in ("math_train", "gsm8k_train") for text in questions(shared / "train" / f"{name}.jsonl")]
    training = list(filled("train", real, TRAINING))
    evaluated = [
        (name, question)
        for name, size in SIZES.items()
        for question in filled(name, list(questions(shared / "benchmarks" / f"{name}.jsonl")), size)
    ]
    words = sum(len(words_of(text)) for text in training[::50]) / len(training[::50])
    print(f"texts: {f'of {shared}' if real else 'made up'}")
    print(f"{len(evaluated):,} evaluated questions of {len(SIZES)} benchmarks")
    print(f"{len(training):,} training questions of {words:.0f} words")
    texts = itertools.chain(training, (text for _, text in evaluated))
    split, _ = timed("splitting at blanks", lambda: sum(len(text.split()) for text in texts))
    memory = peak_mb()
    indexed, check = timed("index", lambda: Decontaminator(evaluated, 13), split)
    found, hits = timed("check", lambda: sum(check.overlap(question) is not None for question in training), split)
    print(f"{'together':<20} {indexed + found:7.2f} s   {hits:,} overlap; {peak_mb() - memory:.0f} MB")
    draw()


def draw() -> None:
    """A pool from a folder of Parquet shards, without a check."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(0)
    texts = [" ".join(rng.choices(VOCABULARY, k=60)) for _ in range(1000)]
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, DRAWN_FROM, 100_000):
            columns = {
                "question": [f"{i} {texts[i % 1000]}" for i in range(start, start + 100_000)],
                "answer": [f"{i} {texts[i % 997]} {texts[i % 991]} {texts[i % 983]}" for i in range(start, start + 100_000)],
            }
            pq.write_table(pa.table(columns), Path(folder) / f"train-{start:06}.parquet", row_group_size=10_000)
        data = DataConfig(source="hub", hub_id=folder, columns={"question": "question", "solution": "answer"}, pool=POOL)
        seconds, pool = timed("draw", lambda: load_pool(data))
        rate = DRAWN_FROM / seconds
        print(
            f"{len(pool.problems):,} of {DRAWN_FROM:,} rows: {rate:,.0f} rows/s, so 2.3 million in {2.3e6 / rate / 60:.1f} minutes"
        )


def timed(what: str, work: Callable[[], T], base: float = 0.0) -> tuple[float, T]:
    """(seconds, result) of one call, printed, with its ratio to `base` seconds if there is one."""
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    print(f"{what:<20} {seconds:7.2f} s" + (f"   {seconds / base:5.1f} x splitting" if base else ""))
    return seconds, result


def questions(path: Path) -> Iterator[str]:
    """The questions of a file; none if it is not there."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield str(next(row[name] for name in _QUESTION if name in row))


VOCABULARY = [f"word{i}" for i in range(4000)]


def filled(name: str, texts: list[str], size: int) -> Iterator[str]:
    """`size` questions: the texts, then again with a number before each; made-up ones if there are none."""
    if texts:
        rounds = (texts if i == 0 else [f"{i}. {text}" for text in texts] for i in itertools.count())
        yield from itertools.islice(itertools.chain.from_iterable(rounds), size)
        return
    rng = random.Random(name)
    for _ in range(size):
        yield " ".join(rng.choices(VOCABULARY, k=rng.randint(8, 80)))


def peak_mb() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
