"""Run as a process of its own: trains a model for two steps in the real loop and prints, as JSON, by how many bytes memory grew.

    python memory_of_training.py '{"shape": {...}, "train": {...}, "rows": 16, "length": 128, "supervised": 0.5}'

Growth is the peak of resident memory over what the process held before the model was built. glibc keeps freed memory for
itself, so that the peak would depend on what lies between the holes: MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_, set by
the caller, make it give back every tensor at once.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from cft_lab.config import OptimizationConfig, ShapeConfig
from cft_lab.training.encode import Encoded
from cft_lab.training.loop import train


def build(shape: ShapeConfig) -> PreTrainedModel:
    settings = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "tie_word_embeddings": shape.tied_embeddings,
    }
    if shape.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**settings))
    return Qwen2ForCausalLM(Qwen2Config(**settings))


def rows(count: int, length: int, supervised: float, vocabulary: int) -> list[Encoded]:
    ids = np.random.default_rng(0).integers(0, vocabulary, (count, length))
    return [Encoded(tuple(map(int, row)), round(length * (1 - supervised))) for row in ids]


def run(shape: ShapeConfig, config: OptimizationConfig, sequences: list[Encoded]) -> int:
    """Trains and returns the number of parameters."""
    model = build(shape)
    with tempfile.TemporaryDirectory() as folder:
        train(
            model,
            sequences,
            config,
            seed=0,
            folder=Path(folder),
            save=lambda step: None,
            report=lambda row: None,
            progress=False,
        )
    return sum(parameter.numel() for parameter in model.parameters())


def resident(field: str) -> int:
    """Bytes: VmRSS is what is held now, VmHWM the most that was held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    small = ShapeConfig(hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1, vocab_size=300)
    config = OptimizationConfig(**asked["train"])
    run(small, config, rows(4, 16, 0.5, small.vocab_size))  # what torch loads and sets up at first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    shape = ShapeConfig(**asked["shape"])
    parameters = run(shape, config, rows(asked["rows"], asked["length"], asked["supervised"], shape.vocab_size))
    print(json.dumps({"growth": resident("VmHWM") - before, "parameters": parameters}))


if __name__ == "__main__":
    main()
