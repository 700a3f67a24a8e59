"""What an arm lacks although it was run: grades that cannot be read, benchmarks that some of its runs do not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cft_lab.report.arms import Arm, Run
from cft_lab.report.study import Study


def unmeasured(study: Study, arm: Arm, benchmarks: Sequence[str]) -> str:
    """Why an arm that was run has no value on these benchmarks, and what to delete first where that would be reused."""
    there = [name for name in benchmarks if arm.on(name)]
    if len(there) < len(benchmarks):
        return f"no run of it has {', '.join(name for name in benchmarks if name not in there)}"
    if folders := [folder for name in benchmarks for run in arm.on(name) for folder in _unreadable(study, run, name)]:
        return f"the grades of {', '.join(benchmarks)} cannot be read: first delete {' and '.join(dict.fromkeys(folders))}"
    shared = {name: study.measures.shared_items(arm, name) for name in benchmarks}
    name = min(shared, key=lambda one: shared[one])
    return f"its {len(arm.on(name))} runs share {shared[name]} items of {name} that were measured, without an error"


def lost_places(study: Study, arm: Arm, benchmarks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What an arm lacks and what to do about it, for each benchmark that some of its runs have: whose mean is over fewer seeds."""
    for name in benchmarks:
        lost = {run.seed: _unreadable(study, run, name) if name in run.measured else [] for run in arm.runs}
        lost = {run.seed: lost[run.seed] for run in arm.runs if name not in run.measured or lost[run.seed]}
        if 0 < len(lost) < len(arm.runs):
            folders = list(dict.fromkeys(folder for told in lost.values() for folder in told))
            first = f"delete {' and '.join(folders)}, then " if folders else ""
            command = study.commands.cell(arm.cell, arm.config, tuple(lost))
            seeds = f"seed{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
            yield f"{arm.label} lacks {name} under {seeds}, so that it and AVG are over fewer seeds", f"{first}`{command}`"


def _unreadable(study: Study, run: Run, benchmark: str) -> list[str]:
    """The folders of a run without readable grades on a benchmark, which would be reused if they stayed; none if it has them."""
    found = run.measured[benchmark]
    if study.results.reader.item_scores(found.score, found.key) is not None:
        return []
    return [name for name in (f"scores/{found.key}", f"result/{found.record.key}") if (study.results.root / name).exists()]
