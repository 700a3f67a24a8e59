"""The cell that many tests run, and where real rows lie on some machines."""

import contextlib
import functools
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

#: the lab cell at debug size
DEBUG = (
    "model=lab-debug",
    "train=debug",
    "data.pool=90",
    "data.examples=24",
    "mix_data.pool=90",
    "mix_data.examples=24",
    "benchmarks.items=4",
    "inference.max_new_tokens=12",
    "train.selection.max_new_tokens=12",
    "responses.max_new_tokens=12",
    "progress=false",
)

#: for Popen: a shell starts background jobs deaf to Ctrl-C, and so would the tests of a suite that runs in the background
AS_TYPED = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    """A disk of so many bytes, where this user may mount one; skips the test elsewhere."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
