import json

import pytest

from cft_lab.records import (
    Completion,
    Example,
    Generation,
    Grade,
    Message,
    Outcome,
    Result,
    Sampling,
    Score,
    Turn,
    from_row,
    to_row,
)

SCORE = Score("b", "direct", Sampling(8, stop=("x",)), 4, 2, 1, 0, 0, 0.5, (0.2, 0.8))


@pytest.mark.parametrize(
    "record",
    [
        Example("p", (Message("user", "q"),), "t"),
        Generation(
            "p",
            (Turn("solve", Completion("a", 1, "stop")), Turn("critique", Completion("b", 2, "length"), False)),
            "a",
            "stop",
        ),
        Grade("p", Outcome.UNPARSED),
        SCORE,
        Result({"seed": 0}, {"base": "k"}, (SCORE,), supervised_tokens=3),
    ],
)
def test_records_survive_json(record: object) -> None:
    assert from_row(type(record), json.loads(json.dumps(to_row(record)))) == record


def test_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown"):
        from_row(Grade, {"problem_id": "p", "outcome": "wrong", "unknown": 1})
