"""Decontamination: what counts as a word, what counts as overlap, what the manifest says."""

from collections.abc import Callable, Iterator

import pytest

from cft_lab.data.decontamination import Decontaminator, report, words_of

SharedRows = Callable[[str], Iterator[dict[str, object]]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is 2+2?", "what is 2 2"),
        ("ＷＨＡＴ is ½ of x²?", "what is 1 2 of x2"),
        (r"Find $\frac{1}{2}\left(x+y\right)$.", "find 1 2 x y"),
        (r"Let $\displaystyle\sin\theta=\sqrt{2}$", "let sin theta 2"),
        ("Let sin θ = √2", "let sin theta 2"),
        (r"\pi, π and \varphi, φ", "pi pi and phi phi"),
        (r"\begin{align*}a&=b\\c&=d\end{align*}", "a b c d"),
        (r"costs \$1,000 or 1{,}000 or 10,\!000, so (1,2)", "costs 1000 or 1000 or 10000 so 1 2"),
        (r"$\mathbb{R}$ \text{in cm} under_score", "r in cm under score"),
        ("Straße İstanbul", "strasse i̇stanbul".replace("\u0307", " ")),
        ("", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert words_of(text) == words.split()


LONG = "Ann walks three miles to school each day and then two miles home along the river bank with her dog."
TWELVE = "Ann walks three miles to school each day and then two miles"


@pytest.mark.parametrize(
    ("evaluated", "training", "found"),
    [
        (LONG, LONG, True),
        (LONG, f"Yesterday: {LONG.upper()} How far?", True),
        (LONG, LONG.replace("school", "$\\text{school}$"), True),
        (LONG, LONG.replace("day", "week"), False),  # 7 words in a row before it and 12 after
        (LONG, TWELVE, False),  # 12 words in a row are one too few
        (LONG, TWELVE + " home", True),
        (TWELVE, TWELVE, True),  # a short question, as a whole
        (TWELVE, TWELVE + ".", True),
        (TWELVE, TWELVE + " home", False),  # a short question inside a longer one
        (TWELVE, " ".join(TWELVE.split()[:-1]), False),
        ("Compute $2+2$.", "compute 2 + 2", True),
        ("Compute 2+2.", "Compute 2+2+3.", False),
        ("Compute 2+2.", "Compute 2-2.", True),  # operators only separate words
        ("...", "?", False),  # no words, no overlap
        ("", "", False),
    ],
)
def test_overlap(evaluated: str, training: str, found: bool) -> None:
    assert (Decontaminator([("bench", evaluated)], 13).overlap(training) is not None) is found


def test_the_length_that_counts_is_a_setting() -> None:
    assert Decontaminator([("bench", LONG)], 12).overlap(TWELVE)
    assert not Decontaminator([("bench", "one two three")], 4).overlap("zero one two three")
    assert Decontaminator([("bench", "one two three")], 3).overlap("zero one two three")
    with pytest.raises(ValueError, match="words=0 must be at least 1"):
        Decontaminator([], 0)


def test_agrees_with_a_plain_search_over_all_pairs(shared_rows: SharedRows) -> None:
    """Against the definition, spelled out without indexes or hashes, on 150 real training and 300 real test questions."""
    asked = [str(row["problem"]) for row in shared_rows("benchmarks/math_test.jsonl")][:300]
    training = [str(row["problem"]) for row in shared_rows("train/math_train.jsonl")][:120]
    training += asked[:20] + [f"Well: {question}" for question in asked[20:30]]
    evaluated = [words_of(question) for question in asked]
    for length in (5, 8, 13):
        check = Decontaminator([("math", question) for question in asked], length)
        found = 0
        for question in training:
            words = words_of(question)
            expected = any(
                words == other if len(other) < length else _runs(words, length) & _runs(other, length) for other in evaluated
            )
            assert (check.overlap(question) is not None) is bool(expected), question
            found += bool(expected)
        assert 20 <= found < len(training)


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_equal_hashes_of_different_words_are_no_overlap() -> None:
    check = Decontaminator([("bench", LONG)], 13)
    index = check._indexes["bench"]
    other = "completely different words that are thirteen in number and nowhere near the others here today"
    index.grams[hash(tuple(words_of(other)[:13]))] = 0  # as if two n-grams had the same hash
    assert check.overlap(other) is None


def test_what_the_manifest_says() -> None:
    evaluated = [("a", "nothing in common"), ("a", LONG), ("b", LONG), ("c", "unrelated")]
    check = Decontaminator(evaluated, 13)
    refused = [(f"id{i}", overlap) for i in range(7) if (overlap := check.overlap(f"{i} {LONG}"))]
    told = report(refused, 13)
    assert (told["words"], told["left_out"], told["by_benchmark"]) == (13, 7, {"a": 7, "b": 7})
    assert len(told["examples"]) == 5
    assert told["examples"][0] == {
        "id": "id0",
        "benchmark": "a",
        "item": 1,
        "question": f"0 {LONG}"[:100],
        "shared": "ann walks three miles to school each day and then two miles home",
    }


def test_private_benchmarks_are_counted_and_not_quoted() -> None:
    check = Decontaminator([("open", LONG), ("gpqa", LONG)], 13)
    overlap = check.overlap(LONG)
    assert overlap is not None
    told = report([("id", overlap)], 13, private={"gpqa"})
    assert told["by_benchmark"] == {"gpqa": 1, "open": 1}
    assert told["examples"] == [{"id": "id", "benchmark": "open", "item": 0}]
    assert "ann" not in str(told).lower()


def test_real_training_sets_overlap_as_they_are_known_to(shared_rows: SharedRows) -> None:
    """The training rows of GSM8K and MATH are kept apart from their test sets, a test set is not apart from itself."""
    asked = {name: [str(row[column]) for row in shared_rows(f"benchmarks/{name}.jsonl")] for name, column in COLUMNS.items()}
    check = Decontaminator([(name, question) for name, questions in asked.items() for question in questions], 13)
    assert all(check.overlap(question) for question in asked["math500"])
    gsm = [check.overlap(str(row["question"])) for row in shared_rows("train/gsm8k_train.jsonl")]
    assert sum(overlap is not None for overlap in gsm) < 0.05 * len(gsm)


COLUMNS = {"math500": "problem", "gsm8k_test": "question", "amc23": "question"}
