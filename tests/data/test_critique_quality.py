from cft_lab.data.critique_quality import quality, response_grades
from cft_lab.evaluation.statistics import wilson
from cft_lab.records import Critique, Grade, Outcome

TRUE_OF = {"right": True, "wrong": False, "unparsed": None}


def rows(*counts: tuple[str, str, int]) -> tuple[list[Critique], list[Grade]]:
    """`count` critiques for each (what the response is, what the verdict says)."""
    critiques, grades = [], []
    for response, verdict, count in counts:
        for _ in range(count):
            name = str(len(critiques))
            critiques.append(Critique(name, "text", "t", TRUE_OF[verdict]))
            if response != "no gold":
                outcome = {"right": Outcome.CORRECT, "wrong": Outcome.WRONG, "unparsed": Outcome.UNPARSED}[response]
                grades.append(Grade(name, outcome))
    return critiques, grades


def test_rates_by_hand() -> None:
    critiques, grades = rows(
        ("right", "right", 6), ("right", "wrong", 2), ("right", "unparsed", 1),
        ("wrong", "wrong", 3), ("wrong", "right", 1), ("unparsed", "right", 4), ("no gold", "wrong", 5),
    )  # fmt: skip
    found = quality(critiques, response_grades(grades))
    assert found["agreement"] == {"count": 9, "n": 12, "share": 9 / 12, "interval": wilson(9, 12)}
    assert found["false_right"] == {"count": 1, "n": 4, "share": 1 / 4, "interval": wilson(1, 4)}
    assert found["false_wrong"] == {"count": 2, "n": 8, "share": 2 / 8, "interval": wilson(2, 8)}
    assert found["ungraded"] == 9
    assert found["unparsed"] == 1


def test_nothing_graded_is_not_a_rate_of_zero() -> None:
    critiques, grades = rows(("no gold", "right", 3))
    assert quality(critiques, response_grades(grades))["agreement"] == {"count": 0, "n": 0, "share": None, "interval": None}
