import pytest

from cft_lab.config import DataError, MethodConfig
from cft_lab.data.methods import METHODS, build_examples
from cft_lab.prompts import FORMATS
from cft_lab.records import Critique, Problem, Response

FMT = FORMATS["lab"]
PROBLEMS = [Problem(f"p{i}", f"question {i}", "s", answer="1") for i in range(4)]
RESPONSES = {p.id: Response(p.id, f"response {p.id}", "author") for p in PROBLEMS}
VERDICTS = {"p0": True, "p1": False, "p2": None, "p3": True}
CRITIQUES = {name: Critique(name, f"critique {name}", "t", verdict) for name, verdict in VERDICTS.items()}


@pytest.mark.parametrize(
    ("name", "wanted", "targets", "dropped"),
    [
        ("sft", 4, ["response p0", "response p1", "response p2", "response p3"], 0),
        ("sft-verified", 2, ["response p0", "response p3"], 2),
        ("sft-teacher", 2, ["response p0", "response p1"], 0),
        ("cft", 3, ["critique p0", "critique p1", "critique p3"], 1),
        ("cft", 2, ["critique p0", "critique p1"], 0),
    ],
)
def test_targets_of_every_arm(name: str, wanted: int, targets: list[str], dropped: int) -> None:
    method = METHODS[name]
    assert method is not None
    examples, lost = build_examples(method, wanted, PROBLEMS, RESPONSES, CRITIQUES, FMT)
    assert [example.target for example in examples] == targets
    assert lost == dropped


def test_cft_shows_question_and_response_and_sft_only_the_question() -> None:
    for name, shows_response in (("cft", True), ("sft", False)):
        method = METHODS[name]
        assert method is not None
        prompt = build_examples(method, 1, PROBLEMS, RESPONSES, CRITIQUES, FMT)[0][0].messages[-1].content
        assert "question 0" in prompt
        assert ("response p0" in prompt) is shows_response


def test_a_shortfall_names_both_counts() -> None:
    method = METHODS["sft-verified"]
    assert method is not None
    with pytest.raises(DataError, match=r"data.examples=3 .* pool of 4 problems gives 2 \(2 dropped"):
        build_examples(method, 3, PROBLEMS, RESPONSES, CRITIQUES, FMT)


def test_an_empty_response_is_not_imitated() -> None:
    method = METHODS["sft"]
    assert method is not None
    blank = {"p0": Response("p0", "  ", "a")}
    assert method.make(PROBLEMS[0], blank["p0"], None, FMT) is None


def test_the_config_knows_the_same_methods() -> None:
    choices = MethodConfig.__dataclass_fields__["name"].metadata["choices"]
    assert set(choices) == set(METHODS)
