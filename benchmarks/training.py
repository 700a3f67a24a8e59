"""How close the training loop comes to the machine: model FLOP/s over a matmul peak measured in the same run.

    python benchmarks/training.py

Model FLOP/s = 6 x parameters x real tokens/s (forward 2, backward 4 FLOP per parameter and token; padding is not counted,
attention is not counted). The peak is the best of repeated square float32 products on the same threads.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch

from cft_lab.config import LabModelConfig, OptimizationConfig
from cft_lab.hydra_config import compose
from cft_lab.lab.base_models import new_model, web_sequences
from cft_lab.lab.tokenizer import train_tokenizer
from cft_lab.training.encode import Encoded
from cft_lab.training.loop import train

THREADS = 2
SHAPES = {
    "lab-qwen2": {},
    "5M": {"hidden_size": 256, "intermediate_size": 768, "layers": 5, "heads": 8, "kv_heads": 8},
    "22M": {"hidden_size": 512, "intermediate_size": 1536, "layers": 6, "heads": 8, "kv_heads": 8},
}


def matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """Best FLOP/s of a size x size float32 product."""
    a = torch.randn(size, size)
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def tokens_per_s(lab: LabModelConfig, sequences: list[Encoded], tokenizer, optimization: OptimizationConfig) -> tuple[int, float]:  # type: ignore[no-untyped-def]
    """Parameters of a model and its median training speed in real tokens per second."""
    model = new_model(lab, tokenizer)
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            model,
            sequences,
            optimization,
            seed=0,
            folder=Path(folder),
            save=lambda step: None,
            report=lambda row: speeds.append(row.tokens_per_s),
            progress=False,
        )
    return sum(p.numel() for p in model.parameters()), statistics.median(speeds)


def main() -> None:
    lab = compose().model.lab
    assert lab is not None
    torch.set_num_threads(THREADS)
    tokenizer = train_tokenizer(0, lab.pretrain.web, lab.vocab_size)
    lab.pretrain.tokens = 60_000
    rows = [Encoded(tuple(ids), start) for ids, start in web_sequences(lab.pretrain, tokenizer)]
    equal = [Encoded(tuple(itertools.islice(itertools.cycle(row.ids), 128)), 0) for row in rows]
    print(f"torch {torch.__version__}, {THREADS} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'model':<12} {'rows':<12} {'parameters':>12} {'tokens/s':>10} {'of peak':>8}")
    for name, shape in SHAPES.items():
        for kind, data in (("web text", rows), ("equal length", equal)):
            for field, value in shape.items():
                setattr(lab, field, value)
            peak = matmul_peak()
            parameters, speed = tokens_per_s(lab, data[:384], tokenizer, lab.pretrain.optimization)
            peak = (peak + matmul_peak()) / 2
            print(
                f"{name:<12} {kind:<12} {parameters:>12,} {speed:>10,.0f} {6 * parameters * speed / peak:>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
