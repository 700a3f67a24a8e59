"""The cell that many tests run, and where real rows lie on some machines."""

import functools
import signal
from pathlib import Path

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
