from collections.abc import Callable

import pytest

from cft_lab.config import Config, DataError, MethodConfig
from cft_lab.data.methods import (
    METHODS,
    MIXES,
    Method,
    make_examples,
    needs_teacher,
    parts,
    response_like_limit,
    take,
    take_tokens,
    usable_critiques,
)
from cft_lab.prompts import FORMATS
from cft_lab.records import Critique, Example, Problem, Response

ComposeCell = Callable[..., Config]
FMT = FORMATS["lab"]
PROBLEMS = [Problem(f"p{i}", f"question {i}", "s", answer="1") for i in range(5)]
RESPONSES = {p.id: Response(p.id, f"response {p.id}", "author") for p in PROBLEMS[:4]}
VERDICTS = {"p0": True, "p1": False, "p2": None, "p3": True}
CRITIQUES = {name: Critique(name, f"critique {name}", "t", verdict) for name, verdict in VERDICTS.items()}


def method(name: str) -> Method:
    found = METHODS[name]
    assert found is not None
    return found


def made(name: str) -> list[Example | None]:
    return list(make_examples(method(name), PROBLEMS, RESPONSES, CRITIQUES, FMT))


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("sft", ["response p0", "response p1", "response p2", "response p3", None]),
        ("sft-verified", ["response p0", None, None, "response p3", None]),
        ("sft-teacher", ["response p0", "response p1", "response p2", "response p3", None]),
        ("cft", ["critique p0", "critique p1", "critique p2", "critique p3", None]),
        ("cft-short", ["critique p0", "critique p1", "critique p2", "critique p3", None]),
    ],
)
def test_targets_of_every_arm(name: str, targets: list[str | None]) -> None:
    assert [example and example.target for example in made(name)] == targets


def test_cft_shows_question_and_response_and_sft_only_the_question() -> None:
    for name, shows_response in (("cft", True), ("sft", False)):
        example = made(name)[0]
        assert example is not None
        prompt = example.messages[-1].content
        assert "question 0" in prompt
        assert ("response p0" in prompt) is shows_response


def test_a_critique_is_labelled_where_the_format_says_so() -> None:
    example = next(make_examples(method("cft"), PROBLEMS, RESPONSES, CRITIQUES, FORMATS["qwen"]))
    assert example is not None
    assert example.target == "Critique:\ncritique p0"


def test_taking_stops_at_what_is_wanted_and_counts_what_it_passed_over() -> None:
    examples, dropped = take(made("sft-verified"), 2)
    assert [example.problem_id for example in examples] == ["p0", "p3"]
    assert dropped == 2
    assert take(made("sft"), 2)[1] == 0


def test_a_shortfall_names_both_counts() -> None:
    with pytest.raises(DataError, match=r"data.examples=3 .* pool of 5 problems gives 2 \(3 dropped"):
        take(made("sft-verified"), 3)


def test_all_that_the_pool_gives_can_be_taken() -> None:
    assert len(take(made("sft-verified"), None)[0]) == 2
    with pytest.raises(DataError, match="data.examples=all are wanted, but the pool of 1 problems gives 0"):
        take([None], None)


def test_token_matched_arms_have_the_same_tokens_to_within_an_example() -> None:
    def count(example: Example) -> int | None:
        return None if example.problem_id == "p1" else 10  # p1 is too long to be trained on

    examples, dropped = take_tokens(made("cft"), 15, count)
    assert [example.problem_id for example in examples] == ["p0", "p2"]
    assert dropped == 1
    with pytest.raises(DataError, match=r"supervised_tokens=31 .* gives 30 in 3 examples \(2 dropped"):
        take_tokens(made("cft"), 31, count)


def test_an_empty_text_is_not_imitated() -> None:
    blank = Response("p0", "  ", "a")
    assert method("sft").make(PROBLEMS[0], blank, None, FMT) is None
    assert method("cft").make(PROBLEMS[0], RESPONSES["p0"], Critique("p0", " ", "t", True), FMT) is None


@pytest.mark.parametrize(
    ("keep", "kept", "left_out"),
    [
        ("all", ["p0", "p1", "p2", "p3"], {}),
        ("parsed", ["p0", "p1", "p3"], {"unparsed": 1}),
        ("agreeing", ["p1"], {"unparsed": 1, "disagrees": 1, "no_gold": 1}),
    ],
)
def test_filters_of_critiques(keep: str, kept: list[str], left_out: dict[str, int]) -> None:
    right = {"p0": False, "p1": False, "p2": True, "p3": None}
    usable, counts = usable_critiques(CRITIQUES.values(), keep, right, None)
    assert list(usable) == kept
    assert counts == left_out


def test_long_critiques_are_left_out() -> None:
    rows = [Critique(str(words), "word " * words, "t", True) for words in (2, 5, 9)]
    usable, counts = usable_critiques(rows, "all", {}, 5)
    assert list(usable) == ["2", "5"]
    assert counts == {"too_long": 1}


def test_texts_that_were_cut_off_are_not_imitated() -> None:
    cut = Response("p0", "half a", "a", cut_off=True)
    assert method("sft").make(PROBLEMS[0], cut, None, FMT) is None
    assert method("cft").make(PROBLEMS[0], RESPONSES["p0"], Critique("p0", "half a", "t", None, cut_off=True), FMT) is None
    assert method("cft").make(PROBLEMS[0], cut, CRITIQUES["p0"], FMT) is not None, "a noisy response may be critiqued"


def test_short_critiques_that_tie_are_left_out_together() -> None:
    responses = [Response("a", "word " * 5, "x")]
    rows = [Critique(str(i), "word " * words, "t", True) for i, words in enumerate((4, 5, 7, 7, 7))]
    assert response_like_limit(rows, responses) == 5
    assert response_like_limit(rows[2:], responses) == 0


def test_short_critiques_are_as_long_as_responses_on_average() -> None:
    responses = [Response("a", "word " * 4, "x"), Response("b", "word " * 6, "x")]
    rows = [Critique(str(words), "word " * words, "t", True) for words in (12, 3, 5, 7, 4)]
    limit = response_like_limit(rows, responses)
    kept = [len(row.text.split()) for row in rows if len(row.text.split()) <= limit]
    assert kept == [3, 5, 7, 4]
    assert sum(kept) / len(kept) <= 5 < (sum(kept) + 12) / (len(kept) + 1)


def test_a_mix_is_two_arms_with_sources_of_their_own(cell: ComposeCell) -> None:
    config = cell("method=mix", "data@mix_data=lab-forum")
    made_of = parts(config)
    assert {source: part.method.name for source, part in made_of.items()} == {"data": "cft", "mix_data": "sft"}
    assert made_of["data"].data == config.data
    assert made_of["mix_data"].data == config.mix_data
    assert config.mix_data.name == "lab-forum"
    assert parts(cell("method=base")) == {}


def test_who_needs_a_teacher(cell: ComposeCell) -> None:
    needing = {name: any(needs_teacher(part) for part in parts(cell(f"method={name}")).values()) for name in {**METHODS, **MIXES}}
    assert {name for name, needs in needing.items() if needs} == {"sft-verified", "sft-teacher", "cft", "cft-short", "mix"}
    assert not needs_teacher(cell("method=cft", "data.critiques=released"))


def test_the_config_knows_the_same_methods() -> None:
    choices = MethodConfig.__dataclass_fields__["name"].metadata["choices"]
    assert set(choices) == {*METHODS, *MIXES}
