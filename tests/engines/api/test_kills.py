"""Nothing lost and nothing paid twice, though a third of all calls fail and the client is killed three times."""

from pathlib import Path

from kills import survive


def test_every_row_survives_faults_and_kills(tmp_path: Path) -> None:
    found = survive(rows=300, in_flight=16, kills=3, folder=tmp_path)
    assert sum(found.finishes.values()) == 300
    assert found.finishes["stop"] > 280
    assert set(found.finishes) <= {"stop", "refused", "error"}
    assert (found.wrong_texts, found.unexplained) == (0, 0)
    assert sum(found.spoiled.values()) >= 0.3 * found.calls
    assert found.valid_replies <= found.finishes["stop"] + 3 * 16
