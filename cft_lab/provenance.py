"""Which code makes an output: the commit, the packages, the machine, and a hash of the source files that matter for it."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE_ROOT = Path(__file__).resolve().parent
FROZEN = "commit.json"  # beside a copy of the package: which code was copied; written by cft_lab/sweeps/snapshot.py
_LENGTH = 16  # hex digits of a hash
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy", "hydra-core", "safetensors", "cft_lab")


@functools.lru_cache(maxsize=64)
def source_hash(modules: tuple[str, ...]) -> str:
    """A hash of the source text of the named files and folders of the package."""
    digest = hashlib.sha256()
    for module in modules:
        path = PACKAGE_ROOT / module
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:_LENGTH]


@functools.lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """What made an output: the code's commit, package versions, the machine."""
    import platform

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**code_version(), "packages": versions, "python": platform.python_version(), "machine": platform.machine()}


@functools.lru_cache(maxsize=1)
def code_version() -> dict[str, Any]:
    """The commit of this code and whether files of it were changed since; of a frozen copy, those of its original."""
    frozen = PACKAGE_ROOT.parent / FROZEN
    if frozen.exists():  # git would tell the commit of whatever the copy lies in
        version: dict[str, Any] = json.loads(frozen.read_text(encoding="utf-8"))
        return version

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(PACKAGE_ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
    }
