"""What became of the cells of a run folder, and their tables."""

from __future__ import annotations

from cft_lab.final_table import print_table
from cft_lab.json_files import read_json
from cft_lab.records import Result, from_row
from cft_lab.stages import RESULT
from cft_lab.sweeps.plan import PlannedCell, PlannedStage, is_made
from cft_lab.sweeps.run_folder import RunFolder


def outcomes(folder: RunFolder) -> list[tuple[PlannedCell, Result | str]]:
    """Every cell with its result, or with the reason why there is none."""
    stages = {stage.key: stage for stage in folder.plan.stages}
    return [(cell, _outcome(folder, stages, cell)) for cell in folder.plan.cells]


def _outcome(folder: RunFolder, stages: dict[str, PlannedStage], cell: PlannedCell) -> Result | str:
    result = stages[cell.result]
    if is_made(result, folder.store_root):
        return from_row(Result, read_json(folder.store_root / result.name / result.key / RESULT))
    waiting = [result]
    while waiting:
        stage = waiting.pop()
        if folder.failure(stage.key).exists():
            return f"{read_json(folder.failure(stage.key))['error']} (in {stage.name} {stage.key})"
        waiting += [stages[key] for key in stage.upstream if not is_made(stages[key], folder.store_root)]
    return "not finished"


def print_tables(folder: RunFolder, captions: dict[str, str]) -> bool:
    """Prints one table for each sweep file, under its caption, or one for a plain grid; returns whether every cell has a result."""
    found = outcomes(folder)
    for sweep in dict.fromkeys(cell.sweep for cell, _ in found):
        if sweep:
            print(f"\n{sweep}: {captions[sweep]}" if captions.get(sweep) else f"\n{sweep}")
        print_table([(cell.label, what) for cell, what in found if cell.sweep == sweep], folder.store_root)
    return all(isinstance(what, Result) for _, what in found)
