"""2,000 rows through a server that fails more than a third of all calls, the client killed with -9 three times.

python benchmarks/api_faults.py [rows]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/engines/api")]

from kills import survive  # noqa: E402 - lies beside the tests

IN_FLIGHT = 32


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        found = survive(rows, IN_FLIGHT, kills=3, folder=Path(folder))
    spoiled = sum(found.spoiled.values())
    answered = found.finishes["stop"]
    print(f"rows {found.rows:,}, each present once: {found.finishes}; wrong texts {found.wrong_texts}")
    print(f"failed rows without a reason: {found.unexplained}")
    print(f"calls {found.calls:,}, spoiled {spoiled:,} ({spoiled / found.calls:.1%}): {found.spoiled}")
    print(f"whole valid replies {found.valid_replies:,}: needed {answered:,} + {found.valid_replies - answered}")
    print(f"allowed {answered:,} + {found.kills * IN_FLIGHT} ({found.kills} kills x {IN_FLIGHT} in flight); {found.seconds:.0f} s")


if __name__ == "__main__":
    main()
