"""Rows of one's own, and the configs that read them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_folders

from cft_lab.config import PROJECT_ROOT, DataConfig
from cft_lab.data.sources import Pool
from cft_lab.hydra_config import compose

COLUMNS = {"question": "question", "solution": "solution", "answer": "answer"}


def own(path: Path, **fields: Any) -> DataConfig:
    """A local source of rows with question, solution and answer."""
    return DataConfig(**({"name": "own", "source": "local", "path": str(path), "columns": COLUMNS, "pool": 100} | fields))


def rows(many: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": hub_folders.question(i), "solution": hub_folders.solution(i), "answer": 3 * i + 1}
        for i in range(start, start + many)
    ]


def texts(pool: Pool) -> list[tuple[str, str | None]]:
    return [(problem.question, problem.solution) for problem in pool.problems]


def conf(name: str, *overrides: str) -> DataConfig:
    return compose(f"data={name}", *overrides).data


def fresh_python(script: str, given: str = "", **environment: str) -> str:
    """What a fresh Python prints."""
    command = [sys.executable, "-W", "error", "-c", script]
    settings = os.environ | environment
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=PROJECT_ROOT, env=settings, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
