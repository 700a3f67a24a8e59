"""Protocols over an engine that follows a script, because their point is what they do with each verdict."""

from collections.abc import Iterator, Sequence

import pytest

from cft_lab.config import InferenceConfig
from cft_lab.engines.base import Prompt
from cft_lab.evaluation.protocols import PROTOCOLS, direct, single_pass, two_stage
from cft_lab.prompts import FORMATS
from cft_lab.records import Completion, Problem, Sampling

ITEMS = [Problem("a", "question a", "s", "1"), Problem("b", "question b", "s", "2")]
HOT = Sampling(16, temperature=0.7)


class Scripted:
    """Solutions carry their round; critiques of item `a` say right in round `right_in`, those of `b` never do."""

    def __init__(self, right_in: int, right: str = "Conclusion: right [END]") -> None:
        self.right_in, self.right = right_in, right
        self.ids: list[str] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        for index, prompt in reversed(list(enumerate(prompts))):
            self.ids.append(prompt.id)
            item, purpose, *number = prompt.id.split("/")
            if purpose == "critique":
                text = self.right if item == "a" and int(number[0]) == self.right_in else "Conclusion: wrong [END]"
            else:
                text = f"solution {'/'.join([purpose, *number])} of {item}"
            yield index, Completion(text, 3, "stop")


@pytest.mark.parametrize("right", ["Conclusion: right [END]", "Critique Conclusion: Correct"])
def test_two_stage_stops_at_right_and_keeps_the_last_solution(right: str) -> None:
    engine = Scripted(right_in=2, right=right)
    a, b = two_stage(engine, ITEMS, FORMATS["lab"], InferenceConfig(max_rounds=8), HOT)
    assert a.final_text == "solution solve/2 of a"
    assert [turn.verdict for turn in a.turns if turn.purpose == "critique"] == [False, False, True]
    assert b.final_text == "solution solve/7 of b"
    assert len(b.turns) == 16
    assert len(set(engine.ids)) == len(engine.ids), "every round must be a draw of its own"


def test_two_stage_spends_one_round_when_greedy() -> None:
    a, b = two_stage(Scripted(right_in=5), ITEMS, FORMATS["lab"], InferenceConfig(), Sampling(16))
    assert len(a.turns) == len(b.turns) == 2
    assert a.final_text == "solution solve/0 of a"


def test_one_call_protocols() -> None:
    for protocol, purpose in ((direct, "solve"), (single_pass, "single-pass")):
        rows = protocol(Scripted(0), ITEMS, FORMATS["lab"], InferenceConfig(), HOT)
        assert [row.problem_id for row in rows] == ["a", "b"]
        assert [row.final_text for row in rows] == [f"solution {purpose} of a", f"solution {purpose} of b"]
        assert all(len(row.turns) == 1 for row in rows)


def test_the_config_knows_the_same_protocols() -> None:
    choices = InferenceConfig.__dataclass_fields__["name"].metadata["choices"]
    assert set(choices) == set(PROTOCOLS)
