"""Examples of every arm from every data source, read from folders in the true layouts, taught by a server on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines.api.loopback import Loopback, serving
from hub_folders import EXPECTED, FOLDERS

from cft_lab import pipeline
from cft_lab.config import Config
from cft_lab.data.methods import METHODS, MIXES
from cft_lab.json_files import read_records
from cft_lab.records import Critique, Example
from cft_lab.store import Store

ComposeCell = Callable[..., Config]
ARMS = [name for name in (*METHODS, *MIXES) if name != "base"]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serving(reply="Conclusion: right") as running:  # shorter than the solutions, so that cft-short finds some
        yield running


def examples_of(config: Config) -> list[Example]:
    pipeline.check(config)
    stages = {stage.name: stage for stage in pipeline.plan(config).result.walk()}
    folder = Store(pipeline.output_root(config), lambda line: None).ensure(stages["examples"])
    return read_records(folder / "examples.jsonl", Example)


@pytest.mark.parametrize("source", FOLDERS)
def test_every_arm_from_every_source(cell: ComposeCell, source: str, server: Loopback, tmp_path: Path, own_caches: Path) -> None:
    folder = tmp_path / "data"
    FOLDERS[source](folder)
    common = (
        f"data={source}", f"data.hub_id={folder}", "data.pool=100", "data.examples=null", f"output_root={tmp_path / 'store'}",
        f"data@mix_data={source}", f"mix_data.hub_id={folder}", "mix_data.pool=100", "mix_data.examples=5",
        "teacher=openai-compatible", f"teacher.base_url={server.url}", "teacher.model=loopback-1", "teacher.temperature=0",
    )  # fmt: skip
    before = server.stats()["calls"].get("POST /v1/chat/completions", 0)
    found = {arm: examples_of(cell(*common, f"method={arm}")) for arm in ARMS}
    config = cell(*common, "method=cft")
    critiques = {stage.name: stage for stage in pipeline.plan(config).result.walk()}["critiques"]
    judged = read_records(pipeline.output_root(config) / "critiques" / critiques.key / "critiques.jsonl", Critique)
    right = sum(row.verdict is True for row in judged)
    assert len(judged) == EXPECTED[source]
    counts = {arm: len(rows) for arm, rows in found.items()}
    assert counts["sft"] == counts["cft"] == counts["sft-teacher"] == EXPECTED[source]
    assert counts["sft-verified"] == right > 0
    assert 0 < counts["cft-short"] <= counts["cft"]
    assert counts["mix"] == counts["cft"] + 5
    asked = server.stats()["calls"]["POST /v1/chat/completions"] - before
    if config.data.critiques == "released":
        assert 0 < right < len(judged), "the set's own verdicts, some right and some wrong"
        assert asked <= EXPECTED[source] + 4, "only sft-teacher asks"
    assert found["cft"][0].messages[-1].content != found["sft"][0].messages[-1].content
