import itertools
import random

import pytest

from cft_lab.evaluation.statistics import wilson
from cft_lab.hydra_config import compose
from cft_lab.lab.benchmarks import LAB_SETS
from cft_lab.lab.language import FAMILIES, HELD_OUT, NAMES, read_question
from cft_lab.lab.mistakes import KINDS, corrupt, noisy_attempt, right_attempt
from cft_lab.lab.oracle import Oracle, read_response
from cft_lab.lab.webtext import web_documents
from cft_lab.lab.world import LabProblem, make_problem, make_problems, signature, split_of
from cft_lab.verdicts import parse_verdict

ALL = dict.fromkeys(FAMILIES, 1.0)
STEPS = {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}


def some(count: int, split: str = "train", seed: int = 7) -> list[LabProblem]:
    return list(itertools.islice(make_problems(seed, split, ALL, STEPS), count))


def test_questions_read_back_exactly() -> None:
    for problem in some(2000):
        reading = read_question(problem.question)
        assert reading is not None, problem.question
        assert (reading.family, reading.steps, reading.answer) == (problem.family, problem.steps, problem.answer)


@pytest.mark.parametrize("text", ["", "What is love?", "Ada has 3 pens. Ada flies. How many pens does Ada have now?"])
def test_questions_of_another_world_are_not_read(text: str) -> None:
    assert read_question(text) is None


def test_the_splits_share_no_signature() -> None:
    signatures = {split: {signature(p.question) for p in some(3000, split)} for split in ("train", "validation", "test")}
    for one, other in itertools.combinations(signatures.values(), 2):
        assert not one & other


def test_benchmarks_validation_training_and_web_are_disjoint_after_normalising() -> None:
    held = {name: {signature(p.question) for p in lab_set.problems(name)} for name, lab_set in LAB_SETS.items()}
    assert {name: len(items) for name, items in held.items()} == {name: lab_set.size for name, lab_set in LAB_SETS.items()}
    assert not set.union(*(v for k, v in held.items() if k != "lab-validation")) & held["lab-validation"]
    config = compose()
    assert config.data.lab is not None
    assert config.model.lab is not None
    lab = config.data.lab
    trained = itertools.islice(make_problems(config.data.seed, "train", lab.families, lab.steps), config.data.pool)
    web = config.model.lab.pretrain.web
    read = make_problems(config.model.lab.pretrain.seed, "train", web.families, web.steps, unique_by=None)
    seen = {signature(p.question) for p in itertools.chain(trained, itertools.islice(read, 20_000))}
    for name, items in held.items():
        assert not items & seen, name


def test_signature_ignores_names_things_and_the_order_of_numbers() -> None:
    a = "Ada has 5 pens. Ada on Monday buys 7 more. How many pens does Ada have now?"
    b = "Ben has 7 cups. Ben on Monday buys 5 more. How many cups does Ben have now?"
    assert signature(a) == signature(b)
    assert split_of(a) == split_of(b)
    assert signature(a) != signature(a.replace("7", "8"))


def test_the_held_out_family_occurs_in_no_training_text() -> None:
    config = compose()
    assert config.model.lab is not None
    documents = itertools.islice(web_documents(0, config.model.lab.pretrain.web), 3000)
    texts = [message.content for document in documents for message in document.messages]
    assert HELD_OUT == ("office",)
    asked = FAMILIES["office"].question.split("{thing}")[1]
    assert asked == " does the worker have now?"
    assert not any(asked in text or "The worker" in text for text in texts)
    assert any("A worker packs" in text for text in texts), "its words do occur"


def test_a_longer_stream_extends_a_shorter_one() -> None:
    assert some(50) == some(200)[:50]


def test_an_exhausted_world_says_so() -> None:
    with pytest.raises(ValueError, match="no more than .* ask for fewer"):
        list(itertools.islice(make_problems(0, "train", {"units": 1.0}, {1: 1.0}), 5000))


def test_step_counts_are_as_asked() -> None:
    rng = random.Random(0)
    for family in FAMILIES:
        for steps in (2, 3, 4, 5):
            assert len(make_problem(rng, family, steps).steps) in (steps, steps + 1)


def test_mistakes_are_wrong_readable_and_of_every_kind() -> None:
    rng = random.Random(3)
    kinds = set()
    for problem in some(1500):
        attempt = corrupt(problem, rng, typical=0.5)
        assert attempt.mistake is not None
        assert attempt.answer != problem.answer
        written = read_response(attempt.text)
        assert written is not None
        assert written.answer == attempt.answer
        kinds.add(attempt.mistake.kind)
    assert kinds == set(KINDS)


def test_the_oracle_judges_every_attempt_rightly_and_gives_the_right_answer() -> None:
    rng = random.Random(4)
    oracle = Oracle()
    for problem in some(1500):
        attempt = noisy_attempt(problem, rng, dict.fromkeys(FAMILIES, 0.5), dict.fromkeys(FAMILIES, 0.5))
        critique = oracle.critique(problem.question, attempt.text)
        assert parse_verdict(critique) is (attempt.mistake is None)
        assert f"\\boxed{{{problem.answer}}}" in critique
        assert critique.endswith("[END]")


def test_the_oracle_names_the_planted_step() -> None:
    rng = random.Random(5)
    oracle = Oracle()
    for problem in some(800):
        attempt = corrupt(problem, rng, typical=0.0)
        assert attempt.mistake is not None
        if attempt.mistake.kind in ("slip", "wrong-op", "copy", "factor"):
            critique = oracle.critique(problem.question, attempt.text)
            assert f"Step {attempt.mistake.step + 1} is wrong" in critique, (attempt, critique)


@pytest.mark.parametrize(
    "response", ["", "42", "Step 1: buys 5, so 3 + x = 8.\nThe answer is \\boxed{8}.", "Step 1: a, so 1 + 1 = 2."]
)
def test_the_oracle_does_not_judge_what_it_cannot_parse(response: str) -> None:
    critique = Oracle().critique(some(1)[0].question, response)
    assert "cannot judge" in critique
    assert parse_verdict(critique) is None


ROPE = "Ada has 4 yards of rope. Ada on Monday loses 5 feet. How many feet does Ada have?"


@pytest.mark.parametrize(
    "response",
    [
        "The answer is \\boxed{7}.",
        "Step 1: foo, so 1 + 1 = 2.\nThe answer is \\boxed{7}.",
        "Step 1: has 4 yards, so 4 * 2 = 8.\nStep 2: Monday loses 1, so 8 - 1 = 7.\nThe answer is \\boxed{7}.",
        "Step 1: has 4 yards, so 4 * 3 = 12.\nStep 2: Monday loses 5, so 12 - 5 = 7.\nThe answer is \\boxed{8}.",
        "Step 1: has 4 yards, so 4 * 3 = 12.\nThe answer is \\boxed{7}.",
    ],
)
def test_the_oracle_faults_a_right_answer_with_wrong_steps_and_the_reverse(response: str) -> None:
    critique = Oracle().critique(ROPE, response)
    assert parse_verdict(critique) is False
    assert "4 * 3 = 12" in critique
    assert "\\boxed{7}" in critique


def test_the_oracle_accepts_another_right_way() -> None:
    problem = next(p for p in some(100) if p.family == "chain" and p.steps[0].op == "+")
    step = problem.steps[0]
    swapped = right_attempt(problem).text.replace(step.equation, f"{step.right} + {step.left} = {step.result}")
    assert parse_verdict(Oracle().critique(problem.question, swapped)) is True


def test_the_weak_oracle_errs_at_its_rate_and_repeats_itself() -> None:
    rng = random.Random(6)
    weak = Oracle(error_rate=0.2, seed=1)
    wrong = 0
    problems = some(2000)
    for problem in problems:
        attempt = noisy_attempt(problem, rng, dict.fromkeys(FAMILIES, 0.5), dict.fromkeys(FAMILIES, 0.5))
        critique = weak.critique(problem.question, attempt.text)
        assert critique == weak.critique(problem.question, attempt.text)
        wrong += parse_verdict(critique) is not (attempt.mistake is None)
    interval = wilson(wrong, len(problems), confidence=0.999)
    assert interval is not None
    assert interval[0] < 0.2 < interval[1]


def test_sources_differ_in_noise() -> None:
    from cft_lab.data.sources import load_pool
    from cft_lab.evaluation.plain_numbers import plain_box, plain_equal

    rates = {}
    for name in ("lab-web", "lab-forum", "lab-textbook"):
        rows = load_pool(compose(f"data={name}", "data.pool=2000", "data.examples=1000").data).problems
        rates[name] = sum(not plain_equal(str(r.answer), plain_box(str(r.solution)) or "") for r in rows) / len(rows)
    assert 0.45 < rates["lab-web"] < 0.7
    assert 0.15 < rates["lab-forum"] < 0.35
    assert rates["lab-textbook"] < 0.1


def test_names_are_words_that_the_reader_knows() -> None:
    assert all(name.isalpha() and name[0].isupper() for name in NAMES)
