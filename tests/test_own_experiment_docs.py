"""docs/own-experiment.md as printed: its commands are typed, its file is used, at debug size, in a copy of the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cells import DEBUG

from cft_lab import stages
from cft_lab.config import PROJECT_ROOT, Config
from cft_lab.results import open_store
from cft_lab.store import Store
from cft_lab.sweeps.snapshot import freeze_code

TEXT = (PROJECT_ROOT / "docs" / "own-experiment.md").read_text(encoding="utf-8")
SMALL, LARGE = TEXT.split("\n## ")  # with a lab model, and with one of 7 billion parameters


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


ROWS = int(re.search(r"at least (\d+) rows", TEXT)[1])  # type: ignore[index]


def printed(language: str) -> str:
    """The one block of a language in what is about a lab model."""
    (found,) = [text for name, text in blocks(SMALL) if name == language]
    return found


def rows(config: Config, root: Path) -> list[dict[str, object]]:
    """The row of the document, and real ones of the lab world with the oracle's critiques."""
    pool = stages.problems(config)
    critiqued = stages.critiques(config, pool, stages.responses(config, pool, stages.base_model(config)))
    Store(root, lambda line: None).ensure(critiqued)
    texts = open_store(root).critique_texts(critiqued.key)
    names = {"question": "question", "response": "solution", "gold": "answer", "critique": "critique"}
    return [json.loads(printed("json")), *texts[list(names)].rename(columns=names).to_dict("records")]


def typed(commands: list[str], code: Path, place: Path) -> list[str]:
    """What the commands print, typed in the folder `code` as in an activated environment, which is made in `place`."""
    (place / "bin").mkdir()
    (place / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (place / "bin" / "python").chmod(0o755)
    env = {**os.environ, "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    said = []
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=code, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        said.append(done.stdout)
    return said


def test_it_takes_at_most_six_commands_and_one_file() -> None:
    assert 1 <= len(printed("").splitlines()) <= 6
    assert [language for language, _ in blocks(SMALL)] == ["json", "yaml", ""]
    assert "`sweeps/mine.yaml`" in TEXT


@pytest.mark.slow
def test_the_commands_compare_two_arms(cell: Callable[..., Config], shared_store: Path, debug_model: Path, tmp_path: Path) -> None:
    code = freeze_code(tmp_path)
    mine = rows(cell("method=cft", f"data.pool={ROWS - 1}"), shared_store)
    assert len(mine) == ROWS
    (code / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    sweep = yaml.safe_load(printed("yaml"))
    sizes = dict(override.split("=", 1) for override in DEBUG if not override.startswith(("progress", "mix_data")))
    asked = {name: sweep["common"][name] for name in ("data.pool", "data.examples")}
    sweep["common"] |= sizes | asked  # the printed numbers, which must go with the printed number of rows
    (code / "sweeps" / "mine.yaml").write_text(yaml.safe_dump({**sweep, "common": {k: str(v) for k, v in sweep["common"].items()}}))
    base = debug_model.parent
    shutil.copytree(base, code / "outputs" / "base_model" / base.name)
    plan, _, report = typed(printed("").splitlines(), code, tmp_path)
    assert "4 trainings" in plan
    assert "not run" not in report
    accuracies, differences = report.split("Difference in points")
    assert re.search(r"SFT \| +2 \|.*\[", accuracies)
    assert re.search(r"CFT \| +2 \|.*\[", accuracies)
    assert "items and seeds" in differences
    assert re.search(r"CFT - SFT +\|.*[+-][0-9.]+ \[[+-][0-9.]+, [+-][0-9.]+\]", differences)
    found = open_store(code / "outputs")
    assert set(found.cells().method) == {"sft", "cft"}
    assert set(found.cells().data) == {"local"}
    (key,) = found.critiques().index
    used = set(found.critique_texts(key).critique)
    assert used
    assert used <= {row["critique"] for row in mine}, "the critiques of the file, not a teacher's"


def test_the_same_file_is_planned_for_a_model_of_7_billion_parameters(tmp_path: Path) -> None:
    """What needs neither a network nor GPUs: the preflight and the plan."""
    code = freeze_code(tmp_path)
    (code / "mine.jsonl").write_text(printed("json"))
    sweep = yaml.safe_load(printed("yaml"))
    named = dict(re.findall(r"`(model|benchmarks|decontamination): ([\w.-]+)`", LARGE))
    assert set(named) == {"model", "benchmarks", "decontamination"}
    sweep["benchmarks"] = named.pop("benchmarks")
    sweep["common"] |= named
    (code / "sweeps" / "mine.yaml").write_text(yaml.safe_dump({**sweep, "common": {k: str(v) for k, v in sweep["common"].items()}}))
    ((_, commands),) = blocks(LARGE)
    here = [line for line in commands.splitlines() if "train.preflight=true" in line or "cft_lab plan" in line]
    preflight, plan = typed(here, code, tmp_path)
    assert "optimizer steps" in preflight
    assert "6 trainings" in plan
