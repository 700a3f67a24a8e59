"""Hub ids and folders in the hub's layout: configurations, splits, commits, caches, and what is broken or cannot be reached."""

import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hub_folders
import hub_server
import pytest
from own_data import COLUMNS, conf, fresh_python, rows

from cft_lab.config import DataConfig, DataError
from cft_lab.data.sources import load_pool, missing_source

pytestmark = pytest.mark.usefixtures("own_caches")


def test_streaming_changes_nothing(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(rows(40)).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows(40)[::-1])}).save_to_disk(str(tmp_path / "dict"))
    hub_folders._plain(tmp_path / "hub", [row | {"answer": str(row["answer"])} for row in rows(40)], shards=4)
    hub = DataConfig(name="own", source="hub", columns=COLUMNS, pool=15)
    pools = [
        load_pool(dataclasses.replace(hub, hub_id=str(tmp_path / folder), streaming=streaming)).problems
        for folder in ("saved", "dict", "hub")
        for streaming in (False, True)
    ]
    assert len(pools[0]) == 15
    assert all(pool == pools[0] for pool in pools)
    with pytest.raises(DataError, match=r"data.split=test is not in .*choose from train"):
        load_pool(dataclasses.replace(hub, hub_id=str(tmp_path / "dict"), split="test"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub on loopback with three data sets."""
    hub_folders.gsm8k(tmp_path / "served" / "openai" / "gsm8k")
    hub_folders.math(tmp_path / "served" / "EleutherAI" / "hendrycks_math")
    hub_folders.webinstruct(tmp_path / "served" / "TIGER-Lab" / "WebInstructSub")
    command = [sys.executable, str(Path(hub_server.__file__)), str(tmp_path / "served")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()


_DRAW_EACH = """
import json, sys
from cft_lab.config import DataError
from cft_lab.data.sources import load_pool
from cft_lab.hydra_config import compose
for overrides in json.loads(sys.stdin.read()):
    try:
        pool = load_pool(compose(*overrides).data)
        print(json.dumps([pool.counts.get("revision"), [problem.id for problem in pool.problems]]))
    except DataError as error:
        print(json.dumps([str(error), []]))
"""


def test_a_hub_id_that_cannot_be_reached_is_refused_at_once() -> None:
    started = time.monotonic()
    told = fresh_python(
        "from cft_lab.config import DataError\n"
        "from cft_lab.hydra_config import compose\n"
        "from cft_lab.data.sources import load_pool\n"
        "try:\n    load_pool(compose('data=gsm8k').data)\n"
        "except DataError as error:\n    print(error)",
        HF_ENDPOINT="http://127.0.0.1:9",  # the discard port: nobody listens
        HF_HUB_OFFLINE="0",
    )
    assert told.startswith("data.hub_id=openai/gsm8k cannot be reached on the hub")
    assert "set data.hub_id to a local folder" in told
    assert time.monotonic() - started < 30


def test_a_hub_id_is_downloaded_or_streamed_at_one_commit_and_read_again_offline(hub: str, tmp_path: Path) -> None:
    whole, streamed = ["data=webinstruct", "data.streaming=false"], ["data=webinstruct"]
    cells = [["data=gsm8k"], ["data=math"], whole, streamed, ["data=orcamath"], ["data=gsm8k", "data.split=dev"]]
    online = {
        "HF_ENDPOINT": hub,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
    }
    found = [json.loads(line) for line in fresh_python(_DRAW_EACH, json.dumps(cells), **online).splitlines()]
    assert [(told, len(ids)) for told, ids in found[:4]] == [(hub_server.COMMIT, hub_folders.ROWS)] * 4
    assert found[2] == found[3]
    assert "microsoft/orca-math-word-problems-200k cannot be reached on the hub (RepositoryNotFoundError" in found[4][0]
    assert "data.split=dev is not in openai/gsm8k" in found[5][0]

    cells = [
        ["data=gsm8k"],
        ["data=math"],
        whole,
        ["data=gsm8k", f"data.revision={hub_server.COMMIT}"],
        ["data=gsm8k", "data.subset=socratic"],
    ]
    again = [
        json.loads(line) for line in fresh_python(_DRAW_EACH, json.dumps(cells), **online | {"HF_HUB_OFFLINE": "1"}).splitlines()
    ]
    assert again[:3] == found[:3]
    assert again[3] == found[0]
    assert "perhaps fetched in part (run `hf download --repo-type dataset openai/gsm8k`" in again[4][0]


def test_a_data_set_of_several_configurations_says_so(tmp_path: Path) -> None:
    folder = hub_folders.math(tmp_path)
    with pytest.raises(DataError, match=r"data.subset=None does not say which .* algebra, .*name one, or all for all of them"):
        load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), subset=None))
    with pytest.raises(DataError, match=r"data.subset=logic is not among its configurations.*precalculus"):
        load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), subset="logic"))
    assert len(load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), subset="algebra")).problems) == 2
    with pytest.raises(DataError, match=r"data.split=validation is not in .*train.*test"):
        load_pool(dataclasses.replace(conf("math"), hub_id=str(folder), split="validation"))


def test_offline_a_hub_id_is_read_from_the_hubs_cache_with_its_commit(own_caches: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = own_caches / "hub" / "datasets--microsoft--orca-math-word-problems-200k"
    snapshot = repository / "snapshots" / commit
    hub_folders.orcamath(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    data = conf("orcamath")
    pool = load_pool(data)
    assert pool.counts["revision"] == commit
    assert len(pool.problems) == hub_folders.ROWS
    assert load_pool(dataclasses.replace(data, revision=commit)).problems == pool.problems
    assert "at revision v2" in next(missing_source(dataclasses.replace(data, revision="v2")))
    shard = snapshot / "data" / "train-00000-of-00001.parquet"
    shard.rename(shard.with_name("train-00000-of-00003.parquet"))
    with pytest.raises(DataError, match="has only 1 of the 3 files of data/train: its download was interrupted, repeat it"):
        load_pool(data)
    shutil.rmtree(snapshot / "data")  # the card alone is no data set
    assert len(list(missing_source(data))) == 1


def test_a_folder_without_data_or_with_broken_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.hub_id=.*empty cannot be read: EmptyDatasetError"):
        load_pool(conf("orcamath", f"data.hub_id={tmp_path / 'empty'}"))
    folder = hub_folders.orcamath(tmp_path / "broken")
    next((folder / "data").iterdir()).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"data.hub_id=.*broken cannot be read"):
        load_pool(conf("orcamath", f"data.hub_id={folder}"))


def test_a_bad_line_of_plain_jsonl_costs_itself_and_stops_what_datasets_reads(tmp_path: Path) -> None:
    good = [json.dumps(row).encode() for row in rows(4)]
    broken = [good[0], b'{"question": "cut sh', b'{"question": "caf\xe9", "solution": "s"}', b"[1]", *good[1:]]
    data = DataConfig(name="own", source="hub", hub_id=str(tmp_path / "set"), columns=COLUMNS, pool=50)
    file = tmp_path / "set" / "data" / "train.jsonl"
    file.parent.mkdir(parents=True)
    (file.parent / "test.jsonl").write_bytes(good[0].replace(b"marbles", b"apples"))
    file.write_bytes(b"\n".join(broken))
    pool = load_pool(data)
    assert pool.counts["bad_rows"] == {"not JSON (cut short?)": 1, "invalid UTF-8": 1, "not a JSON object": 1}
    assert [example["where"] for example in pool.counts["bad_row_examples"]] == [f"data/train.jsonl:{line}" for line in (2, 3, 4)]
    assert {problem.question for problem in pool.problems} == {row["question"] for row in rows(4)}
    assert (pool.counts["rows"], pool.counts["short_of"]) == (7, 50)
    assert "apples" in load_pool(dataclasses.replace(data, split="test")).problems[0].question
    with pytest.raises(DataError, match=r"data.split=dev is not in .*train"):
        load_pool(dataclasses.replace(data, split="dev"))
    file.write_bytes(b"\n".join(good))
    line_by_line = load_pool(data).problems
    with gzip.open(file.with_suffix(".jsonl.gz"), "wb") as packed:
        packed.write(b"\n".join(good))
    file.unlink()
    assert load_pool(data).problems == line_by_line  # read by datasets
    with gzip.open(file.with_suffix(".jsonl.gz"), "wb") as packed:
        packed.write(b"\n".join(broken))
    with pytest.raises(DataError, match=r"data.hub_id=.*set cannot be read"):
        load_pool(data)


def test_a_set_without_its_subject_is_read_and_says_so(tmp_path: Path) -> None:
    folder = hub_folders._plain(tmp_path, [{"query": row["question"], "response": row["solution"]} for row in rows(5)])
    data = conf("metamath", f"data.hub_id={folder}")
    assert data.columns["subject"] == "type"
    pool = load_pool(data)
    assert (len(pool.problems), pool.counts["with_subject"], pool.counts["unusable"]) == (5, 0, 0)
    with pytest.raises(DataError, match="'gold' for answer is needed"):
        load_pool(dataclasses.replace(data, columns=data.columns | {"answer": "gold"}))


def test_a_file_that_breaks_off_half_way_is_named(tmp_path: Path) -> None:
    folder = hub_folders._plain(tmp_path, [{"question": f"{i} {'x' * 2000}", "answer": "s"} for i in range(4000)], shards=2)
    shard = folder / "data" / "train-00001-of-00002.parquet"
    content = bytearray(shard.read_bytes())
    content[2000:-2000] = bytes(len(content) - 4000)  # the first file and both footers are whole
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"data.hub_id=.* cannot be read: "):
        load_pool(conf("orcamath", f"data.hub_id={folder}"))
