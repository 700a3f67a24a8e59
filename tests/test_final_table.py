"""The table's numbers against scipy, on grades written by hand."""

import dataclasses
import random
from pathlib import Path

import pytest
from scipy import stats

from cft_lab.final_table import Arm, collect_arms, compare_arms, item_scores, label_cells, print_table
from cft_lab.grade_columns import columns_of, write_columns
from cft_lab.json_files import write_records
from cft_lab.records import Grade, Outcome, Result, Sampling, Score

N = 80


def result(root: Path, name: str, chance: float) -> Result:
    """A result on one benchmark whose grades are drawn by chance and lie in the store."""
    rng = random.Random(name)
    outcomes = [Outcome.CORRECT if rng.random() < chance else Outcome.WRONG for _ in range(N)]
    write_grades(root, name, outcomes)
    correct = outcomes.count(Outcome.CORRECT)
    interval = stats.binomtest(correct, N).proportion_ci(method="wilson")
    score = Score("b", "direct", Sampling(8), N, correct, 0, 0, 0, correct / N, (interval.low, interval.high),
                  paper_accuracy=correct / N)  # fmt: skip
    return Result({}, {"scores/b": name}, (score,))


def write_grades(root: Path, name: str, outcomes: list[Outcome]) -> None:
    """The grades of a scores stage."""
    folder = root / "scores" / name
    folder.mkdir(parents=True)
    write_records(folder / "grades.jsonl", [Grade(f"p{i}", outcome) for i, outcome in enumerate(outcomes)])


def values(root: Path, *names: str) -> list[float]:
    rows = [(root / "scores" / name / "grades.jsonl").read_text().splitlines() for name in names]
    return [sum('"correct"' in line for line in lines) / len(names) for lines in zip(*rows, strict=True)]


def test_seeds_are_averaged_by_item_and_differences_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [("a", result(tmp_path, "a0", 0.7)), ("a", result(tmp_path, "a1", 0.7)), ("b", result(tmp_path, "b0", 0.4))]
    a, b = collect_arms(cells)
    items = values(tmp_path, "a0", "a1")
    found = compare_arms(a, b, tmp_path)
    assert found is not None
    paired = [x - y for x, y in zip(items, values(tmp_path, "b0"), strict=True)]
    assert found.difference == pytest.approx(sum(paired) / N)
    half = stats.t.ppf(0.975, N - 1) * stats.sem(paired)
    assert found.interval == pytest.approx((found.difference - half, found.difference + half), abs=0.01)
    print_table(cells, tmp_path)
    printed = capsys.readouterr().out
    assert f"{100 * sum(items) / N:.1f} [" in printed
    assert f"b is {100 * found.difference:.1f} points below a" in printed


@pytest.mark.parametrize(("seeds", "draws"), [(1, 1), (1, 3), (2, 1), (3, 2)])
@pytest.mark.parametrize("columns", [True, False])
def test_an_item_counts_with_the_mean_over_seeds_and_draws(seeds: int, draws: int, columns: bool, tmp_path: Path) -> None:
    rng = random.Random(seeds + draws)
    outcomes: dict[str, list[Outcome]] = {}
    results = []
    for seed in range(seeds):
        items = rng.sample(range(N), N)
        grades = [
            Grade(f"p{item}", rng.choices(list(Outcome), [5, 3, 1, 1, 0.2])[0], sample=draw)
            for draw in range(draws)
            for item in items
        ]
        folder = tmp_path / "scores" / f"{seed}"
        folder.mkdir(parents=True)
        write_records(folder / "grades.jsonl", grades)
        if columns:
            write_columns(folder, columns_of(grades))
            (folder / "grades.jsonl").unlink()
        results.append(Result({}, {"scores/b": f"{seed}"}, ()))
        for grade in grades:
            outcomes.setdefault(grade.problem_id, []).append(grade.outcome)
    expected = {
        item: found.count(Outcome.CORRECT) / (seeds * draws) for item, found in outcomes.items() if Outcome.ERROR not in found
    }
    scores = item_scores(Arm("a", tuple(results)), "b", tmp_path)
    assert list(scores.items()) == list(expected.items()), "to the last bit, in the order of the first run"


def test_the_same_result_under_two_seeds_counts_once(tmp_path: Path) -> None:
    same = result(tmp_path, "base", 0.5)
    assert len(collect_arms([("base", same), ("base", same)])[0].results) == 1


def test_labels_keep_only_what_differs() -> None:
    common = ["data=lab-web", "tracking=none"]
    assert label_cells([["method=cft", "seed=0", *common], ["method=sft", "seed=1", *common]]) == ["method=cft", "method=sft"]
    assert label_cells([["method=cft"]]) == ["method=cft"]
    assert label_cells([[]]) == ["the cell"]


def test_a_single_run_has_wilsons_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = result(tmp_path, "a0", 0.7)
    print_table([("a", run)], tmp_path)
    low, high = run.scores[0].interval or (0, 0)
    assert f"{100 * (run.scores[0].accuracy or 0):.1f} [{100 * low:.1f}, {100 * high:.1f}]" in capsys.readouterr().out


def test_a_single_measured_item_has_a_place_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = []
    for name, first in (("a", Outcome.CORRECT), ("b", Outcome.WRONG)):
        write_grades(tmp_path, name, [first, Outcome.ERROR])
        score = Score("b", "direct", Sampling(8), 2, int(first is Outcome.CORRECT), 0, 0, 1, None, None)
        cells.append((name, Result({}, {"scores/b": name}, (score,))))
    print_table(cells, tmp_path)
    printed = capsys.readouterr().out
    assert "100.0 [20.7, 100.0] (1 errors)" in printed
    assert "1 items cannot separate b and a" in printed


def test_failed_cells_are_named_and_never_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("a", result(tmp_path, "a0", 0.7)), ("b", "RuntimeError: no")], tmp_path)
    printed = capsys.readouterr().out
    assert "FAILED b: RuntimeError: no" in printed
    assert "Difference" not in printed


def test_the_papers_grader_has_a_column_where_it_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = result(tmp_path, "a0", 0.7)
    print_table([("a", run)], tmp_path)
    assert "paper's grader" not in capsys.readouterr().out
    lenient = dataclasses.replace(run, scores=(dataclasses.replace(run.scores[0], paper_accuracy=0.875),))
    print_table([("a", lenient)], tmp_path)
    printed = capsys.readouterr().out
    assert "AVG, paper's grader" in printed
    assert "87.5" in printed


def test_a_selection_on_part_of_the_test_set_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = result(tmp_path, "a0", 0.7)
    for mode, flagged in (("paper", True), ("clean", False)):
        print_table([("a", dataclasses.replace(run, cell={"train.selection.mode": mode}, examples=10))], tmp_path)
        assert ("part of the MATH test set" in capsys.readouterr().out) is flagged


def test_many_arms_are_not_compared_pair_by_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [(f"arm {place}", result(tmp_path, f"a{place}", 0.5)) for place in range(21)]
    print_table(cells, tmp_path)
    printed = capsys.readouterr().out
    assert "Difference" not in printed
    assert "arm 20" in printed
    print_table(cells[:3], tmp_path)
    assert "Difference" in capsys.readouterr().out
