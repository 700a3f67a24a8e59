import pytest

from cft_lab.published import published_values

SIX = ["MATH", "Minerva-Math", "GSM8K", "OlympiadBench", "AIME24", "AMC23"]


def test_table_2_has_its_fifteen_rows_of_seven_values() -> None:
    values = published_values(2)
    assert len(values) == 15 * 7
    cft = {v.benchmark: v.value for v in values if v.model == "Qwen2.5-Math-7B" and v.method == "cft"}
    assert cft == {
        "MATH": 79.4,
        "Minerva-Math": 36.8,
        "GSM8K": 90.9,
        "OlympiadBench": 41.6,
        "AIME24": 20.0,
        "AMC23": 67.5,
        "AVG": 56.0,
    }


@pytest.mark.parametrize("version", ["v1", "v4"])
@pytest.mark.parametrize("table", [2, 5, 6, 7])
def test_printed_averages_follow_from_their_cells(version: str, table: int) -> None:
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for v in published_values(table, version):
        rows.setdefault((v.model, v.method, v.data, v.condition), {})[v.benchmark] = v.value
    off = [key for key, row in rows.items() if abs(sum(row[name] for name in SIX) / 6 - row["AVG"]) > 0.0501]
    assert off == ([] if (version, table) != ("v4", 7) else [key for key in rows if "gpt-4o-mini" in "".join(key).lower()])


def test_unknown_version_or_table_is_named() -> None:
    with pytest.raises(ValueError, match="version='v9'.*v1, v4"):
        published_values(2, "v9")
    with pytest.raises(ValueError, match="table=17"):
        published_values(17)
