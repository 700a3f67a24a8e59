"""docs/lab-study: its tables and claims are what its records say, by today's code."""

from pathlib import Path

import pytest

from cft_lab.__main__ import main
from cft_lab.config import PROJECT_ROOT
from cft_lab.report.build import build
from cft_lab.results import open_store

STUDY = PROJECT_ROOT / "docs" / "lab-study"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the committed records, which the import checks against each other: keys, grades, scores, results."""
    store = tmp_path_factory.mktemp("study") / "store"
    assert main(["import", str(STUDY / "results.tar.gz"), "--store", str(store)]) == 0
    return store


@pytest.mark.slow
def test_the_committed_tables_and_claims_follow_from_the_committed_records(imported: Path, tmp_path: Path) -> None:
    """After a change that makes other keys or other numbers: `make lab-tables`, and commit what it writes."""
    assert main(["report", "lab", "--format", "md,csv", "--out", str(tmp_path), "--store", str(imported)]) == 0
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert len(made) >= 12
    for name, text in made.items():
        assert (STUDY / name).read_text(encoding="utf-8") == text, f"docs/lab-study/{name} is not what the records say"


@pytest.mark.slow
def test_the_study_is_whole(imported: Path) -> None:
    results = open_store(imported)
    tables = build(results, ["lab/table2", "lab/table5", "lab/table6", "lab/table7", "lab/table8"]).tables
    assert not results.problems
    for table in tables:
        for row in table.rows:  # type: ignore[union-attr]
            assert {entry.state for entry in row.entries.values()} == {"measured"}, row
            assert {entry.value.seeds for entry in row.entries.values()} == {1 if row.supervised_tokens is None else 3}, row
            assert all(entry.value.errors == 0 for entry in row.entries.values()), row
