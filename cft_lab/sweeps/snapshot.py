"""A copy of the code in a run folder, so that editing files while jobs wait changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cft_lab.config import PROJECT_ROOT
from cft_lab.json_files import write_json
from cft_lab.provenance import FROZEN, code_version

CODE = "code"  # the copy's place in a run folder
_PARTS = ("cft_lab", "conf", "sweeps", "hydra_plugins", "run.py")


def freeze_code(run_folder: Path) -> Path:
    """Copies what runs stages into a run folder, once, with the commit that it is of.

    Returns the copy, which belongs first on PYTHONPATH.
    """
    code = run_folder / CODE
    if code.exists():
        return code
    unfinished = run_folder / f"{CODE}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for part in _PARTS:
        source = PROJECT_ROOT / part
        if source.is_dir():
            shutil.copytree(source, unfinished / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, unfinished / part)
    write_json(unfinished / FROZEN, code_version())
    os.replace(unfinished, code)
    return code
