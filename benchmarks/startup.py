"""What start-up costs: `run.py --cfg job`, `--help` and a refused paper-scale cell, as ratios to a bare `import hydra`.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUN = str(Path(__file__).resolve().parents[1] / "run.py")
COMMANDS = {
    "import hydra": [sys.executable, "-c", "import hydra"],
    "--cfg job": [sys.executable, RUN, "--cfg", "job"],
    "--help": [sys.executable, RUN, "--help"],
    "refused paper cell": [sys.executable, RUN, "model=qwen2.5-math-7b"],
    "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
}


def seconds(command: list[str]) -> float:
    """Median wall time of five runs."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    measured = {name: seconds(command) for name, command in COMMANDS.items()}
    for name, value in measured.items():
        print(f"{name:<28} {value:6.2f} s   {value / measured['import hydra']:5.1f} x import hydra")


if __name__ == "__main__":
    main()
