"""How stages open engines: one after another over the candidates of a training, with journals and the progress bar."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cft_lab.config import Config, DataError
from cft_lab.engines.base import Prompt
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.tokenizer import TURN_END
from cft_lab.prompts import FORMATS, eval_solve
from cft_lab.records import Completion, Sampling
from cft_lab.stages.common import open_engine, open_engines, open_folder
from cft_lab.store import Work

ComposeCell = Callable[..., Config]
PROMPTS = [Prompt(p.id, eval_solve(FORMATS["lab"], p.question)) for p in LAB_SETS["lab-basic"].problems("lab-basic")[:6]]
MANY = [Prompt(f"{p.id}/{copy}", p.messages) for p in PROMPTS for copy in range(20)]
SAMPLING = Sampling(max_new_tokens=16)


def work_in(folder: Path) -> Work:
    return Work(folder, {}, "key", lambda line: None)


@pytest.mark.parametrize("shards", [1, 2])
def test_candidates_in_turn_give_what_each_gives_alone(
    cell: ComposeCell, debug_model: Path, tiny_model: Path, tmp_path: Path, shards: int
) -> None:
    config = cell(f"engine.shards={shards}", "engine.batch_size=4")
    folders = [debug_model, tiny_model, debug_model]
    found = []
    with open_engines(config, work_in(tmp_path)) as engine_over:
        for turn, folder in enumerate(folders):
            with engine_over(folder, f"turn-{turn}.jsonl") as engine:
                found.append(dict(engine.generate(PROMPTS, SAMPLING)))
    for folder, completions in zip(folders, found, strict=True):
        with open_folder(config.engine, folder, "lab", config.model.end_of_turn) as alone:
            assert dict(alone.generate(PROMPTS, SAMPLING)) == completions
    assert found[0] == found[2] != found[1]


def test_what_is_in_the_journal_is_not_generated_again(cell: ComposeCell, debug_model: Path, tmp_path: Path) -> None:
    """A call that was killed half-way goes on behind the last row that it had."""
    with open_engine(cell(), work_in(tmp_path), debug_model) as engine:
        rows = engine.generate(PROMPTS, SAMPLING)
        first = dict(next(rows) for _ in range(2))
        rows.close()
    journal = tmp_path / "journal.jsonl"
    assert journal.read_text().count("\n") == 2
    with open_engine(cell(), work_in(tmp_path), debug_model) as engine:
        whole = dict(engine.generate(PROMPTS, SAMPLING))
    assert journal.read_text().count("\n") == len(PROMPTS)
    assert {i: whole[i] for i in first} == first
    assert all(isinstance(completion, Completion) for completion in whole.values())


def test_a_long_call_shows_how_far_it_is(
    cell: ComposeCell, debug_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for progress, folder in (("true", tmp_path / "shown"), ("false", tmp_path / "quiet")):
        folder.mkdir()
        with open_engine(cell(f"progress={progress}", "engine.batch_size=1"), work_in(folder), debug_model) as engine:
            list(engine.generate(MANY, SAMPLING))
        said = capsys.readouterr().err
        assert bool(re.search(rf"[1-9]\d*/{len(MANY)} \[.*[1-9]\d* tokens/s", said)) is (progress == "true"), said


def test_a_damaged_folder_is_refused_by_name_as_the_first_and_as_a_later_one(
    cell: ComposeCell, debug_model: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "step-000002"
    shutil.copytree(debug_model, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    said = f"model folder {damaged}: model.safetensors has "
    with open_engines(cell(), work_in(tmp_path)) as engine_over:
        for name, folder in (("first", damaged), ("second", debug_model), ("third", damaged)):
            if folder == damaged:
                with pytest.raises(DataError, match=re.escape(said)), engine_over(folder, f"{name}.jsonl"):
                    pass
            else:
                with engine_over(folder, f"{name}.jsonl") as engine:
                    assert len(dict(engine.generate(PROMPTS[:1], SAMPLING))) == 1
    with pytest.raises(DataError, match=re.escape(said)), open_folder(cell().engine, damaged, "lab", TURN_END):
        pass
