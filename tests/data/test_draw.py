"""The seeded draw: the same in any order, uniform, without copies and without what overlaps."""

import dataclasses
from pathlib import Path
from typing import Any

import hub_folders
import pytest
from own_data import COLUMNS, own, rows

from cft_lab.config import DataConfig
from cft_lab.data.draw import Draw
from cft_lab.data.rows import SourceRow
from cft_lab.data.sources import load_pool

pytestmark = pytest.mark.usefixtures("own_caches")


def test_the_draw_is_the_same_in_any_order_of_rows_files_and_shards(tmp_path: Path) -> None:
    everything = rows(60)
    one = hub_folders.write_jsonl(tmp_path / "one" / "all.jsonl", everything)
    hub_folders.write_jsonl(tmp_path / "two" / "b.jsonl", everything[:25])
    hub_folders.write_jsonl(tmp_path / "two" / "sub" / "a.jsonl", everything[:24:-1])
    pools = [load_pool(own(path, pool=20)) for path in (one, tmp_path / "two")]
    assert pools[0].problems == pools[1].problems
    larger = load_pool(own(one, pool=40)).problems
    assert larger[:20] == pools[0].problems
    assert load_pool(own(one, pool=20, seed=1)).problems != pools[0].problems
    assert {problem.question for problem in larger} != {row["question"] for row in everything[:40]}


def test_the_draw_is_uniform() -> None:
    """Each of 50 rows is drawn into 10 of 50 places equally often: chi-square over 2000 seeds below its 99.9 % point (49 df)."""
    counts = dict.fromkeys(range(50), 0)
    made = [SourceRow(hub_folders.question(i), str(i)) for i in range(50)]
    for seed in range(2000):
        draw: Draw[str] = Draw(10, seed, lambda row: None)
        for row in made:
            draw.offer(row)
        for _, row in draw.result().rows:
            counts[int(row.solution)] += 1
    expected = 2000 * 10 / 50
    assert sum((seen - expected) ** 2 / expected for seen in counts.values()) * 50 / 40 < 85.4


def test_copies_count_once_and_ids_follow_from_the_content(tmp_path: Path) -> None:
    spaced = {"question": f"  {hub_folders.question(3)}\n", "solution": hub_folders.solution(3).replace(" ", "  "), "answer": 10}
    pool = load_pool(own(hub_folders.write_jsonl(tmp_path / "a.jsonl", [*rows(10), spaced, *rows(5)])))
    assert (len(pool.problems), pool.counts["duplicates"], pool.counts["rows"]) == (10, 6, 16)
    again = load_pool(own(hub_folders.write_jsonl(tmp_path / "b.jsonl", [spaced, *rows(5), *rows(10)[::-1]])))
    assert again.problems == pool.problems
    assert all(len(problem.id) == 16 and int(problem.id, 16) for problem in pool.problems)
    twice = hub_folders.write_jsonl(tmp_path / "c.jsonl", [row for row in rows(30) for _ in range(2)])
    assert load_pool(own(twice, pool=5)).counts["duplicates"] == 5  # of those drawn, whatever was drawn for a while


def test_one_solution_with_two_critiques_is_two_rows(tmp_path: Path) -> None:
    made = [row | {"critique": f"Fine.\nConclusion: {word} [END]"} for row in rows(3) for word in ("right", "wrong")]
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", made)
    mapped = own(path, columns=COLUMNS | {"critique": "critique"}, critiques="released")
    assert load_pool(mapped).counts["verdicts"] == {"right": 3, "wrong": 3, "unparsed": 0}
    assert load_pool(dataclasses.replace(mapped, critiques="teacher")).counts["duplicates"] == 3


def test_what_overlaps_is_replaced_by_what_comes_next(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", rows(60))
    plain = load_pool(own(path, pool=60)).problems
    evaluated = [("bench", plain[i].question) for i in (0, 3, 55)]
    pool = load_pool(own(path, pool=20), evaluated, words=13)
    shared = {problem.id for problem in plain} - {problem.id for problem in load_pool(own(path, pool=60), evaluated, 13).problems}
    assert pool.problems == [problem for problem in plain if problem.id not in shared][:20]
    found = pool.counts["decontamination"]
    assert found["left_out"] == found["by_benchmark"]["bench"] == 2  # the one at place 55 would not have been drawn anyway
    assert [example["id"] for example in found["examples"]] == [plain[0].id, plain[3].id]
    assert load_pool(own(path, pool=20), evaluated, words=0).problems == plain[:20]


def test_scan_rows_looks_at_the_first_rows_only(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", rows(30))
    pool = load_pool(own(path, scan_rows=12))
    assert (pool.counts["rows"], pool.counts["whole_source"]) == (12, False)
    assert {problem.question for problem in pool.problems} == {row["question"] for row in rows(12)}
    assert load_pool(own(path, scan_rows=30)).counts["whole_source"]


def test_a_pool_that_is_smaller_than_asked_for_always_says_so(tmp_path: Path) -> None:
    path = hub_folders.write_jsonl(tmp_path / "a.jsonl", [*rows(30), *rows(5), {"question": ""}])
    hub = {"source": "hub", "hub_id": str(hub_folders.orcamath(tmp_path / "hub")), "columns": {"solution": "answer"}}

    def source(fields: dict[str, Any]) -> DataConfig:
        return dataclasses.replace(own(path), **({"path": None} if "hub_id" in fields else {}), **fields)

    overlapping = [("bench", rows(1)[0]["question"])]
    short: list[tuple[dict[str, Any], list[tuple[str, str]], int]] = [
        ({"pool": 31}, [], 30),
        ({"pool": 30}, overlapping, 29),
        ({"pool": 20, "scan_rows": 12}, [], 12),
        (hub | {"pool": 99}, [], hub_folders.ROWS),
        (hub | {"pool": 99, "scan_rows": 3}, [], 3),
    ]
    for fields, evaluated, there in short:
        counts = load_pool(source(fields), evaluated).counts
        assert (counts["problems"], counts["short_of"]) == (there, fields["pool"])
        assert counts["whole_source"] is ("scan_rows" not in fields)
    for fields in ({"pool": 30}, {"pool": 12, "scan_rows": 12}, hub | {"pool": hub_folders.ROWS}):
        counts = load_pool(source(fields)).counts
        assert counts["problems"] == fields["pool"]
        assert "short_of" not in counts
