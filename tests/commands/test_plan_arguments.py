"""How `plan` and `prefetch` read their command lines: overrides before and after options, bad input in one message."""

import json
from pathlib import Path

import pytest

from cft_lab.__main__ import main


@pytest.mark.parametrize("command", [["plan", "--json"], ["prefetch", "--dry-run"]])
def test_overrides_may_stand_after_options(
    command: list[str], tmp_path: Path, own_caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, option = command
    line = [name, "model=lab-debug", option, f"output_root={tmp_path}", "benchmarks.names=[lab-basic]"]
    assert main(line) == 0
    told = capsys.readouterr().out
    if name == "plan":
        assert json.loads(told)["cell_list"][0]["overrides"] == [line[1], *line[3:]]


@pytest.mark.parametrize("line", [["plan", "table8", "--jsn", "seed=1"], ["plan", "--json"], ["prefetch", "seed=1", "--wet"]])
def test_an_unknown_option_is_bad_input(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
