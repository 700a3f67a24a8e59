"""What resume states and candidates share: they are written through to the disk, and a disk that is full is said."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def sync(path: Path) -> None:
    """Writes a file or a folder's list of files through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cause_in_words(causes: Sequence[BaseException], needed: float, folder: Path) -> str:
    """Why `needed` bytes could not be written to `folder` or beside it, and how many are free there; the last cause is quoted."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    full = free < needed or any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes)
    why = "the disk is full" if full else f"{type(causes[-1]).__name__}: {causes[-1]}"
    return f"{why}. It needs {_size(needed)}, and {_size(free)} are free"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.2f} MB"
