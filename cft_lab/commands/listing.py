"""What listings share: finding a stage by the beginning of its key, and texts that are safe to print."""

from __future__ import annotations

import sys
from pathlib import Path

from cft_lab.store import MANIFEST

LONGEST = 1500  # characters of a text that is shown


def find_stage(store: Path, name: str, key: str) -> Path | None:
    """The folder of the one finished stage of a name whose key begins like this; None, with a message, if there is not one."""
    found = sorted(path.parent for path in (store / name).glob(f"*/{MANIFEST}") if path.parent.name.startswith(key))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} {name} stages begin" if found else f"no {name} stage begins"
    print(f"{what} with {key!r} in {store}: see `python -m cft_lab stages --stage {name}`", file=sys.stderr)
    return None


def printable(text: str) -> str:
    """A model's text made safe for a terminal: no control characters but line breaks and tabs, and not endless."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text[:LONGEST])
    return shown + (f" [{len(text) - LONGEST:,} characters more]" if len(text) > LONGEST else "")


def size_text(size: float) -> str:
    """A number of bytes as people say it, such as 1.5 GB (of 1e9 bytes)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def time_text(seconds: float) -> str:
    """A time as people say it, such as 12 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
