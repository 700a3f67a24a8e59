"""What `python -m cft_lab critiques` says about cost."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from cft_lab.commands import critiques
from cft_lab.json_files import write_json
from cft_lab.store import MANIFEST

RATE = {"share": None, "interval": None, "count": 0, "n": 0}


def report(store: Path, capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    """The report of a stage whose manifest has these counts."""
    folder = store / "critiques" / "abc"
    folder.mkdir(parents=True)
    quality = {"agreement": RATE, "false_right": RATE, "false_wrong": RATE, "ungraded": 0, "unparsed": 0}
    counts = {"critiques": 0, "right": 0, "wrong": 0, "unparsed": 0, "tokens": 2000, "quality": quality, **more}
    upstream = {"problems": "p", "responses": "r"}
    write_json(folder / MANIFEST, {"key": "abc", "label": "x", "created": "now", "counts": counts, "upstream": upstream})
    (folder / "critiques.jsonl").write_text("")
    command = argparse.ArgumentParser()
    critiques.add_arguments(command)
    assert critiques.run(argparse.Namespace(store=store, **vars(command.parse_args(["abc"])))) == 0
    return capsys.readouterr().out


def test_a_known_cost_is_printed_in_dollars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1,000 prompt tokens, 2,000 generated, $0.0125\n" in report(tmp_path, capsys, prompt_tokens=1000, cost_usd=0.0125)


def test_an_unknown_cost_is_not_printed_as_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(tmp_path, capsys, prompt_tokens=1000, cost_usd=None)
    assert "1,000 prompt tokens, 2,000 generated\n" in found
    assert "$" not in found
