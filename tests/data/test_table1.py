"""Table 1: what the paper printed, and what finished stages counted."""

from pathlib import Path
from typing import Any

import hub_folders
import pytest

from cft_lab.config import PROJECT_ROOT, DataError, key_part
from cft_lab.data.sources import load_pool
from cft_lab.data.table1 import PUBLISHED, count_rows, table1
from cft_lab.hydra_config import compose

pytestmark = pytest.mark.usefixtures("own_caches")


def manifest(name: str, folder: Path, *overrides: str) -> dict[str, Any]:
    """The manifest of a `problems` stage, as far as the table reads it, from a pool that was really drawn."""
    data = compose(f"data={name}", f"data.hub_id={folder}", *overrides).data
    return {"stage": "problems", "label": data.name, "config": key_part(data, "data"), "counts": load_pool(data).counts}


def test_what_the_paper_printed() -> None:
    assert [(row.name, row.size, row.seed, row.discipline) for row in table1([])] == [
        ("WizardMath", "96K", "GSM8K, MATH", "Math"),
        ("MathInstruct", "260K", "GSM8K, MATH, etc", "Math"),
        ("MetaMathQA", "395K", "GSM8K, MATH", "Math"),
        ("XwinMath", "1.4M", "GSM8K, MATH", "Math"),
        ("OrcaMath", "200K", "GSM8K", "Math"),
        ("NuminaMath", "860K", "GSM8K, MATH, AIME", "Math"),
        ("AceMath", "1.6M", "GSM8K, MATH, AIME", "Math"),
        ("OpenMath-2", "14M", "GSM8K, MATH", "Math"),
        ("CFT", "50K", "WebInstruct", "STEM"),
        ("CFT-tiny", "4K", "WebInstruct", "STEM"),
    ]
    assert all((PROJECT_ROOT / "conf" / "data" / f"{row.data}.yaml").exists() for row in PUBLISHED)
    assert all(row.counted is None for row in table1([]))


def test_what_was_read_whole_is_counted(tmp_path: Path) -> None:
    folder = hub_folders.orcamath(tmp_path / "orca")
    part = manifest("orcamath", folder, "data.scan_rows=3")
    whole = manifest("orcamath", folder, "data.pool=5")
    tiny = manifest("webinstruct-cft-4k", hub_folders.webinstruct_cft(tmp_path / "cft"))
    other = {"stage": "responses", "label": "metamath", "config": {}, "counts": {"responses": 5}}
    lab = {"stage": "problems", "label": "lab-web", "config": {}, "counts": {"problems": 5}}
    rows = {row.name: row for row in table1([part, whole, tiny, other, lab])}
    assert (rows["OrcaMath"].counted, rows["OrcaMath"].counted_in) == (hub_folders.ROWS, f"{folder} train")
    assert rows["CFT-tiny"].counted_in == f"{tmp_path / 'cft'} WebInstruct-CFT-4K train"
    assert {name for name, row in rows.items() if row.counted is not None} == {"OrcaMath", "CFT-tiny"}
    assert {row.counted for row in table1([part])} == {None}


@pytest.mark.parametrize("name", ["metamath", "math", "acemath", "webinstruct-cft-50k"])
def test_a_source_is_counted_without_a_draw(name: str, tmp_path: Path) -> None:
    data = compose(f"data={name}", f"data.hub_id={hub_folders.FOLDERS[name](tmp_path)}").data
    assert count_rows(data) == hub_folders.EXPECTED[name]


def test_a_count_and_a_manifest_agree_on_bad_lines(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "folder" / "own.jsonl", [{"question": "q", "solution": "s"}] * 3)
    path.write_text(path.read_text() + '\n{"cut')
    for source in (
        ("data=local", f"data.path={path}"),
        ("data=orcamath", f"data.hub_id={path.parent}", "++data.columns.solution=solution"),
    ):
        data = compose(*source).data
        assert count_rows(data) == load_pool(data).counts["rows"] == 4


def test_own_files_are_not_counted_whatever_they_are_called(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "own.jsonl", [{"question": "q", "solution": "s"}])
    data = compose("data=local", f"data.path={path}", "data.name=metamath").data
    mine = {"stage": "problems", "label": data.name, "config": key_part(data, "data"), "counts": load_pool(data).counts}
    assert mine["counts"]["whole_source"]
    assert all(row.counted is None for row in table1([mine]))


def test_what_cannot_be_counted_says_why() -> None:
    with pytest.raises(DataError, match="lab world, which has no size"):
        count_rows(compose("data=lab-web").data)
    with pytest.raises(DataError, match="data.hub_id is missing"):
        count_rows(compose("data=xwinmath").data)
