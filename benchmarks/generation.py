"""How fast the engines write, beside model.generate over arrival-order batches of 16: tokens/s, greedy, float32, lab model.

    python benchmarks/generation.py [--model FOLDER] [--items 400] [--rounds 3]

All contenders answer the same prompts in turn, several rounds in one run, because other work on a machine disturbs a rate more
than a ratio. Loading a model is not counted. The texts must be those of model.generate. vLLM takes part where it is installed:
`.venv-vllm/bin/python benchmarks/generation.py` after `make test-vllm`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers

from cft_lab import stages
from cft_lab.config import PROJECT_ROOT, EngineConfig
from cft_lab.engines.base import Engine, Prompt
from cft_lab.engines.sharding import ModelFolder, open_model
from cft_lab.engines.texts import Texts
from cft_lab.hydra_config import compose
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import PAD, TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Sampling
from cft_lab.runtime import load_model, quiet_transformers
from cft_lab.store import Store

THREADS = 2
SAMPLING = Sampling(max_new_tokens=160)
SETS = ("lab-basic", "lab-applied", "lab-long", "lab-transfer")
BASELINE = "model.generate, arrival order, 16"
Write = Callable[[Sequence[Prompt]], dict[int, Completion]]


def lab_prompts(count: int) -> list[Prompt]:
    """Questions of all lab benchmarks in an order that has nothing to do with their lengths."""
    prompts = [Prompt(p.id, eval_solve(FORMATS["lab"], p.question)) for name in SETS for p in LAB_SETS[name].problems(name)]
    random.Random(0).shuffle(prompts)
    return prompts[:count]


def library(folder: Path, batch_size: int, longest_first: bool) -> Write:
    """model.generate over left-padded batches."""
    texts = Texts(folder, "chat", TURN_END)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    model = load_model(folder, "float32").eval()

    def write(prompts: Sequence[Prompt]) -> dict[int, Completion]:
        encoded = [texts.encode(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i])) if longest_first else range(len(prompts))
        found = {}
        for start in range(0, len(prompts), batch_size):
            rows = order[start : start + batch_size]
            width = max(len(encoded[i]) for i in rows)
            ids = torch.tensor([[pad] * (width - len(encoded[i])) + encoded[i] for i in rows])
            with torch.inference_mode():
                output = model.generate(
                    input_ids=ids,
                    attention_mask=(ids != pad).long(),
                    max_new_tokens=SAMPLING.max_new_tokens,
                    do_sample=False,
                    eos_token_id=texts.stop_ids,
                    pad_token_id=pad,
                )
            found |= {i: texts.completion(row.tolist(), ()) for i, row in zip(rows, output[:, width:], strict=True)}
        return found

    return write


def ours(engine: Engine) -> Write:
    return lambda prompts: dict(engine.generate(prompts, SAMPLING))


@contextlib.contextmanager
def contenders(folder: Path) -> Iterator[dict[str, Write]]:
    """What is measured, by name, the baseline first."""
    model = ModelFolder(folder, "chat", TURN_END)
    kinds = {f"engine=transformers, {size}": EngineConfig(batch_size=size, cpu_threads=THREADS) for size in (64, 256)}
    if importlib.util.find_spec("vllm"):
        kinds["engine=vllm, 256"] = EngineConfig(kind="vllm", batch_size=256, cpu_threads=THREADS)
    with contextlib.ExitStack() as stack:
        engines = {name: ours(stack.enter_context(open_model(model, config))) for name, config in kinds.items()}
        yield {
            BASELINE: library(folder, 16, longest_first=False),
            "model.generate, longest first, 256": library(folder, 256, longest_first=True),
            **engines,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a lab model's folder (default: that of the lab cell, made if it is missing)")
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    quiet_transformers()
    config = compose()
    folder = options.model or Store(PROJECT_ROOT / config.output_root).ensure(stages.base_model(config)) / "model"
    prompts = lab_prompts(options.items)
    seconds: dict[str, list[float]] = {}
    with contenders(folder) as writers:
        expected = writers[BASELINE](prompts)
        for write in writers.values():
            write(prompts[:32])  # starts what starts late
        for _ in range(options.rounds):
            for name, write in writers.items():
                started = time.perf_counter()
                found = write(prompts)
                seconds.setdefault(name, []).append(time.perf_counter() - started)
                same = sum(found[i] == expected[i] for i in expected)
                if same < len(prompts):
                    print(f"{name}: {len(prompts) - same} of {len(prompts)} texts differ")
    tokens = sum(completion.num_tokens for completion in expected.values())
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, {THREADS} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{len(prompts)} texts of {tokens:,} tokens, {options.rounds} rounds: best rate, median ratio [lowest, highest]")
    print(f"{'':<36} {'tokens/s':>9} {'x the first':>20}")
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(seconds[BASELINE], times, strict=True)]
        shown = f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]"
        print(f"{name:<36} {tokens / min(times):>9,.0f} {shown:>20}")


if __name__ == "__main__":
    main()
