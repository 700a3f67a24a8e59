"""The state of a sweep as a table for people, once or until the sweep is over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cft_lab.sweeps.plan import KINDS
from cft_lab.sweeps.run_folder import RunFolder
from cft_lab.sweeps.slurm_queue import QueueError
from cft_lab.sweeps.status import BROKEN, EXIT_UNDER_WAY, STATES, StageStatus, SweepStatus, status_of

if TYPE_CHECKING:
    from rich.console import Console

POLL_S = 5.0  # between two looks at the queue and the store
_MOST_TOLD = 8  # broken stages whose last lines are shown
_COLORS = {"done": "green", "running": "cyan", "failed": "red", "orphaned": "red", "blocked": "yellow"}


def look_again(folder: RunFolder, command: str = "status") -> str:
    """The command that looks at a sweep, wherever it is typed; or one that takes the same arguments."""
    return f"python -m cft_lab {command} {folder.path.name} --store {folder.store_root}"


def watch(
    folder: RunFolder, say: Callable[[str], None], poll_s: float = POLL_S, enough: Callable[[], bool] = lambda: False
) -> SweepStatus | None:
    """Shows a sweep that others make until nothing of it runs or is queued, or until `enough`, which may raise QueueError.

    Returns how it is then; None after Ctrl-C, which detaches. On a terminal it is a table that changes in place, elsewhere a line
    for each stage whose state changes.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    try:
        if not console.is_terminal:
            return _follow(_looks(folder, say, poll_s, enough), say)
        with Live(console=console, auto_refresh=False) as live:
            for status in _looks(folder, lambda line: live.console.print(line, markup=False), poll_s, enough):
                live.update(table(status), refresh=True)
            return status
    except KeyboardInterrupt:
        say(f"\nDetached: its jobs go on. {how_to_go_on(folder)}")
        return None


def how_to_go_on(folder: RunFolder) -> str:
    """The commands for a sweep that this process leaves alone."""
    return f"To look again:\n  {look_again(folder)}\nTo end it:\n  {look_again(folder, 'cancel')}"


def _looks(folder: RunFolder, say: Callable[[str], None], poll_s: float, enough: Callable[[], bool]) -> Iterator[SweepStatus]:
    """A status now and then, the last one when nothing is under way. A queue that does not answer is waited for."""
    while True:
        try:
            status = status_of(folder)
            over = status.exit_code != EXIT_UNDER_WAY or enough()
        except QueueError as error:
            say(f"SLURM does not answer, its jobs may well go on: {error}")
        else:
            yield status
            if over:
                return
        time.sleep(poll_s)


def _follow(looks: Iterator[SweepStatus], say: Callable[[str], None]) -> SweepStatus:
    known: dict[str, tuple[str, str]] = {}
    for status in looks:
        for key, one in status.stages.items():
            now = (one.state, one.detail if one.state != "running" else "")
            if known.get(key) != now and not (key not in known and one.state == "done"):
                detail = one.detail.splitlines()[0][:150] if one.detail else ""
                say(f"{one.state:>8} {one.stage.name:<12} {key}  {one.stage.label}" + (f": {detail}" if detail else ""))
            known[key] = now
    return status


def show(status: SweepStatus, say: Callable[[str], None] = print) -> None:
    """Prints the table of a status, and below it what is broken, why, and where more is said."""
    from rich.console import Console

    console = Console(highlight=False)
    _widen(console, status)
    console.print(table(status))
    broken = [one for one in status.stages.values() if one.state in ("failed", "orphaned")]
    for one in broken[:_MOST_TOLD]:
        say(f"\n{one.state} {one.stage.name} {one.stage.key}: {one.stage.label}")
        for line in one.last_lines or one.detail.splitlines():
            say(f"    {line}")
        if one.log:
            say(f"    log: {one.log}")
    if len(broken) > _MOST_TOLD:
        say(f"\n... and {len(broken) - _MOST_TOLD} more: --json tells all")
    if broken and status.exit_code != EXIT_UNDER_WAY:
        say(f"\nTo make what is missing: {look_again(status.folder, 'retry')}")


def _widen(console: Console, status: SweepStatus) -> None:
    """A table that is written to a file is not cut to the width of a terminal."""
    if not console.is_terminal:
        console.width = 60 + 40 * len({one.stage.kind for one in status.stages.values()})


def table(status: SweepStatus) -> Any:
    """Cells by row, kinds of stages by column."""
    from rich.table import Table
    from rich.text import Text

    told = ", ".join(f"{count} {state}" for state, count in status.counts().items())
    kinds = [kind for kind in KINDS if any(one.stage.kind == kind for one in status.stages.values())]
    made = Table(title=f"{status.folder.path.name}: {told}", title_justify="left")
    made.add_column("cell")
    for kind in kinds:
        made.add_column(kind)
    for cell in status.folder.plan.cells:
        rows = status.of_cell(cell)
        parts = [_summary([one for one in rows if one.stage.kind == kind]) for kind in kinds]
        label = f"{cell.sweep}: {cell.label}" if cell.sweep else cell.label
        made.add_row(Text(label), *(Text(text, style=color) for text, color in parts))
    return made


def _summary(rows: Sequence[StageStatus]) -> tuple[str, str]:
    """What is said of a cell's stages of one kind, and its color."""
    if not rows:
        return "", ""
    counts = Counter(one.state for one in rows)
    worst = next(state for state in (*BROKEN, "running", "queued", "done") if counts[state])
    if len(rows) == counts["done"]:
        return "done", _COLORS["done"]
    texts = [f"{counts[state]} {state}" if len(rows) > 1 else state for state in STATES if counts[state]]
    running = [str(one.progress) for one in rows if one.progress is not None]
    waiting = sorted({one.detail for one in rows if one.state == "queued" and one.detail})
    more = running[:1] or waiting[:1]
    return ", ".join(texts) + (f" ({more[0]})" if more else ""), _COLORS.get(worst, "")
