"""`python -m cft_lab <command>`: looks at what was made."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cft_lab.config import PROJECT_ROOT
from cft_lab.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cft_lab", description="cft_lab: what is in the store")
    commands = parser.add_subparsers(dest="command", required=True)
    stages = commands.add_parser("stages", help="lists the finished stages: name, key, when, size, from which config")
    stages.add_argument("--store", type=Path, default=PROJECT_ROOT / "outputs", help="folder of the store (default: outputs)")
    stages.add_argument("--json", action="store_true", help="whole manifests, one JSON object a line")
    stages.add_argument("--stage", help="only stages of this name")
    options = parser.parse_args(arguments)
    if not options.store.is_dir():
        print(f"--store {options.store} is not a folder: name the output_root of your runs", file=sys.stderr)
        return 2
    for folder, manifest in Store(options.store).finished():
        if options.stage in (None, manifest["stage"]):
            print(json.dumps(manifest) if options.json else _line(folder, manifest))
    return 0


def _line(folder: Path, manifest: dict[str, object]) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return (
        f"{manifest['stage']:<12} {manifest['key']}  {manifest['created']}  {manifest['seconds']:>8.1f} s  "
        f"{size / 1e6:>9.2f} MB  {manifest['label']}"
    )


if __name__ == "__main__":
    sys.exit(main())
