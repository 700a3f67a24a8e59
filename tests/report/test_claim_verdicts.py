"""Claims: effects from published.csv, the rule, and verdicts against another computation by scipy and statsmodels."""

import csv
import dataclasses
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_results import config_of, drawn, study_of, sweeps_folder, write_cell
from scipy import optimize, stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from cft_lab.report.claims import Claim, Place, Verdict, decide, judge, read_claims, rule_of
from cft_lab.report.study import Study
from cft_lab.report.tables import AVG, ITEMS, ITEMS_AND_SEEDS
from cft_lab.results import open_store

BASE, SFT, VERIFIED, CFT = (Place(row) for row in ("Base", "SFT", "SFT-verified", "CFT"))
GREATER = Claim("better", "cft is better", "paper", "mine", "greater", AVG, (CFT,), ((SFT,), (VERIFIED,)), 0.01)
WORSE = dataclasses.replace(GREATER, id="worse", first=(BASE,), rivals=((CFT,),))
CLOSE = dataclasses.replace(GREATER, id="close", kind="close", first=(SFT,), rivals=((VERIFIED,),), margin=0.02)
NOT_BETTER = dataclasses.replace(GREATER, id="not better", kind="not_better", first=(SFT,), rivals=((BASE,),), margin=0.01)
FAMILY = (GREATER, WORSE, CLOSE, NOT_BETTER)


def printed() -> dict[tuple[str, ...], float]:
    with resources.files("cft_lab.published").joinpath("published.csv").open() as file:
        return {tuple(row.values())[:7]: float(row["value"]) for row in csv.DictReader(file)}


def published_of(tmp_path: Path, version: str) -> dict[str, float | None]:
    (tmp_path / "store").mkdir(exist_ok=True)
    verdicts = judge(Study(open_store(tmp_path / "store"), version), read_claims())
    return {verdict.claim.id: verdict.published for verdict in verdicts}


def test_published_effects_are_those_of_published_csv(tmp_path: Path) -> None:
    value, found = printed(), published_of(tmp_path, "v1")

    def avg(*place: str, version: str = "v1") -> float:
        return value[(version, *place, "AVG")]

    for model, claim in (("DeepSeek-Math-7B", "deepseek"), ("Qwen2.5-7B", "qwen2.5"), ("Qwen2.5-Math-7B", "qwen2.5-math")):
        rivals = [avg("2", model, method, "WebInstruct", "") for method in ("sft", "sft-verified", "sft-gpt4o")]
        expected = avg("2", model, "cft", "WebInstruct", "") - max(rivals)
        assert found[f"cft-beats-sft-{claim}"] == pytest.approx(expected / 100)
    for data, claim in (("MetaMathQA", "metamath"), ("NuminaMath", "numina"), ("WebInstruct", "webinstruct")):
        cft, sft = (avg("5", "Qwen2.5-Math-7B", method, data, "") for method in ("cft", "sft"))
        assert found[f"source-{claim}"] == pytest.approx((cft - sft) / 100)
    self_made, reference = (
        avg("6", "Qwen2.5-Math-7B", "cft", "WebInstruct", f"responses={name}") for name in ("self-generated", "reference")
    )
    assert found["self-generated-close-to-reference"] == pytest.approx((self_made - reference) / 100)
    cft32, sky = (
        [value["v1", "4", model, method, data, f"#Data={size}", name] for name in ("GPQA", "TheoremQA", "AMC23")]
        for model, method, data, size in (
            ("Qwen2.5-32B-Instruct", "cft", "WebInstruct", "4K"),
            ("Sky-T1-32B-Preview", "as released", "", "17K"),
        )
    )
    assert found["cft-32b-beats-sky-t1"] == pytest.approx((np.mean(cft32) - np.mean(sky)) / 100, abs=1e-6)
    direct, single = (
        np.mean(
            [
                value["v1", "8", "Qwen2.5-Math-7B", "cft", "WebInstruct", f"inference={name};temperature={t}", benchmark]
                for t in ("0.1", "0.3", "0.6")
                for benchmark in ("MATH", "Minerva-Math")
            ]
        )
        for name in ("direct", "single-pass")
    )
    assert found["single-pass-not-better"] == pytest.approx((single - direct) / 100, abs=1e-6)
    v4 = published_of(tmp_path, "v4")
    expected = avg("6", "Qwen2.5-Math-7B", "cft", "WebInstruct", "responses=self-generated", version="v4")
    expected -= avg("6", "Qwen2.5-Math-7B", "cft", "WebInstruct", "responses=reference", version="v4")
    assert v4["self-generated-close-to-reference"] == pytest.approx(expected / 100)


def test_every_paper_claim_has_its_effect_in_v1_and_no_lab_claim_has_one(tmp_path: Path) -> None:
    found = published_of(tmp_path, "v1")
    assert all((value is None) == claim.startswith("lab-") for claim, value in found.items())
    by_id = {claim.id: claim for claim in read_claims()}
    for name, value in found.items():  # the paper's own numbers bear its claims out, or they are stated wrongly
        if value is not None:
            claim = by_id[name]
            assert decide(dataclasses.replace(claim, smallest_effect=0.0), value, value) == "replicated", name


def test_claims_name_cells_that_exist_and_are_not_run_in_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    verdicts = judge(Study(open_store(tmp_path / "store")), read_claims())
    assert {verdict.word for verdict in verdicts} == {"not run"}
    assert all(str(verdict.command).startswith("python run.py -m sweeps=") and verdict.estimate is None for verdict in verdicts)
    assert len({verdict.claim.id for verdict in verdicts}) == len(verdicts)


@pytest.mark.parametrize(
    ("claim", "low", "high", "word"),
    [
        (GREATER, 0.001, 0.1, "replicated"),
        (GREATER, 0.001, 0.005, "replicated"),  # the direction is what is claimed
        (GREATER, -0.05, 0.0099, "contradicted"),
        (GREATER, -0.05, 0.0101, "not separable yet"),
        (dataclasses.replace(GREATER, scale="lab"), -0.05, 0.005, "not separable yet"),
        (dataclasses.replace(GREATER, scale="lab"), -0.05, -0.001, "contradicted"),
        (CLOSE, -0.019, 0.019, "replicated"),
        (CLOSE, -0.021, 0.019, "not separable yet"),
        (CLOSE, 0.021, 0.05, "contradicted"),
        (CLOSE, -0.05, -0.021, "contradicted"),
        (NOT_BETTER, -0.3, 0.009, "replicated"),
        (NOT_BETTER, 0.011, 0.3, "contradicted"),
        (NOT_BETTER, 0.009, 0.3, "not separable yet"),
    ],
)
def test_the_rule(claim: Claim, low: float, high: float, word: str) -> None:
    assert decide(claim, low, high) == word


def test_lab_claims_are_judged_on_direction_only_but_for_close() -> None:
    for claim in read_claims():
        if claim.scale == "lab":
            assert claim.margin == 0 or claim.kind == "close"
            assert claim.direction_only == (claim.kind != "close")


@pytest.mark.parametrize("claim", [*read_claims(), *FAMILY, dataclasses.replace(GREATER, smallest_effect=0.0, scale="lab")])
def test_the_rule_in_words_is_the_rule(claim: Claim) -> None:
    """Its bounds are read back from the sentence, and intervals at either side of them judged."""
    told = rule_of(claim)
    bounds = [
        float(number) / 100 for number in re.findall(r"(\d+\.\d) points|(?:above|below) (0)\b", told) for number in number if number
    ]
    step = 1e-4
    if claim.kind == "close":
        (margin,) = bounds
        assert decide(claim, -margin + step, margin - step) == "replicated"
        assert decide(claim, -margin - step, margin - step) == "not separable yet"
        assert decide(claim, margin + step, 1.0) == decide(claim, -1.0, -margin - step) == "contradicted"
        return
    bound, other = bounds[0], bounds[-1]
    sign = 1 if claim.kind == "greater" else -1
    inside, outside = sorted((bound + sign * step, sign * 1.0)), sorted((other - sign * step, -sign * 1.0))
    assert decide(claim, inside[0], inside[1]) == "replicated"
    assert decide(claim, outside[0], outside[1]) == "contradicted"
    assert decide(claim, min(bound, other) - step, max(bound, other) + step) == "not separable yet"


ACCURACIES = (("Base", "base", 0.2), ("SFT", "sft", 0.5), ("SFT-verified", "sft-verified", 0.45), ("CFT", "cft", 0.8))
SHIFT = (0.0, 0.08, -0.08)  # of the seeds 0, 1 and 2


def verdicts(tmp_path: Path, seeds: int) -> tuple[dict[str, Verdict], dict[str, np.ndarray]]:
    """Verdicts on a family of four, and scores [runs, benchmarks, items] by row."""
    store, outcomes = tmp_path / "store", {}
    for row, method, accuracy in ACCURACIES:
        runs = [
            drawn(f"{method}{seed}", accuracy + (SHIFT[seed] if method != "base" else 0), items=200)
            for seed in range(seeds if method != "base" else 1)
        ]
        for seed, run in enumerate(runs):
            write_cell(store, config_of(method, seed=seed), run)
        outcomes[row] = np.array([list(run.values()) for run in runs], float)
    found = judge(study_of(store, sweeps_folder(tmp_path)), FAMILY)
    return {v.claim.id: v for v in found}, outcomes


CONFIDENCE = 1 - 0.05 / len(FAMILY)
Z = stats.norm.ppf(0.5 + CONFIDENCE / 2)


def over_items(gap: np.ndarray) -> tuple[float, float]:
    """Limits for the mean of differences [benchmarks, items]: score limits where they are -1, 0 or 1, else Student's."""
    limits = []
    for own in gap:
        if set(own) <= {-1, 0, 1}:
            half = brentq_score(own)
        else:
            half = stats.t.interval(CONFIDENCE, len(own) - 1, own.mean(), stats.sem(own))
        limits.append((own.mean() - half[0], half[1] - own.mean()))
    below, above = np.hypot(*np.array(limits)) / len(gap)
    return gap.mean() - below, gap.mean() + above


def brentq_score(own: np.ndarray) -> tuple[float, float]:
    """The differences that a score test does not reject; the restricted estimate maximises the likelihood."""
    n, b, c = len(own), int((own > 0).sum()), int((own < 0).sum())

    def statistic(difference: float) -> float:
        def loss(rest: float) -> float:
            shares = np.maximum([rest + difference, rest, 1 - 2 * rest - difference], 1e-300)
            return float(-np.dot([b, c, n - b - c], np.log(shares)))

        low, high = max(0.0, -difference), (1 - difference) / 2
        rest = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        return float((b - c - n * difference) / np.sqrt(n * (2 * rest + difference - difference**2)))

    middle = (b - c) / n
    low = optimize.brentq(lambda d: statistic(d) - Z, -0.999, middle - 1e-9)
    return low, optimize.brentq(lambda d: statistic(d) + Z, middle + 1e-9, 0.999)


def seeds_by_anova(scores: dict[str, np.ndarray]) -> tuple[float, float, int]:
    """The variance of a run's mean beyond chance over items, the observed one, and its degrees of freedom: arms trained apart."""
    trained = {row: runs for row, runs in scores.items() if row != "Base"}
    means = pd.DataFrame([(row, run.mean()) for row, runs in trained.items() for run in runs], columns=["row", "y"])
    residual = anova_lm(ols("y ~ C(row)", means).fit()).loc["Residual"]
    chance = []
    for runs in trained.values():
        rests = runs - runs.mean(axis=0) - runs.mean(axis=2, keepdims=True) + runs.mean(axis=(0, 2), keepdims=True)
        freedom = (runs.shape[0] - 1) * (runs.shape[2] - 1)
        chance.append((rests**2).sum(axis=(0, 2)).sum() / freedom / runs.shape[2] / runs.shape[1] ** 2)
    return float(residual["mean_sq"] - np.mean(chance)), float(residual["mean_sq"]), int(residual["df"])


def expected_interval(scores: dict[str, np.ndarray], first: str, rivals: list[str]) -> tuple[float, float, float, float, float]:
    """Estimate, limits, standard error and degrees of freedom: hull of the interval against the best rival and of a bootstrap, then
    seeds.
    """
    rng = np.random.default_rng(9)
    means = {row: runs.mean(axis=0) for row, runs in scores.items()}  # [benchmarks, items]
    best = max(rivals, key=lambda row: means[row].mean())
    gap = means[first] - means[best]
    estimate, (low, high) = gap.mean(), over_items(gap)
    if len(rivals) > 1:
        draws = [rng.integers(0, len(own), (10_000, len(own))) for own in means[first]]
        drawn_means = {
            row: np.mean([own[chosen].mean(axis=1) for own, chosen in zip(means[row], draws, strict=True)], axis=0)
            for row in (first, *rivals)
        }
        drawn_gap = drawn_means[first] - np.max([drawn_means[row] for row in rivals], axis=0)
        drawn_low, drawn_high = np.quantile(drawn_gap, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        low, high = min(low, drawn_low, 2 * estimate - drawn_high), max(high, drawn_high, 2 * estimate - drawn_low)
    item_se, n = (high - low) / 2 / Z, gap.size
    runs = [len(scores[row]) for row in (first, best) if row != "Base"]
    if max(runs) == 1:
        return estimate, low, high, item_se, n - 1
    variance, observed, free = seeds_by_anova(scores)
    share = sum(1 / count for count in runs)
    both = item_se**2 + variance * share
    degrees = both**2 / (item_se**4 / (n - 1) + (observed * share) ** 2 / free)
    more = stats.t.ppf(0.5 + CONFIDENCE / 2, degrees) ** 2 * both - (Z * item_se) ** 2
    limits = (estimate - np.sqrt((estimate - low) ** 2 + more), estimate + np.sqrt((high - estimate) ** 2 + more))
    return estimate, *limits, np.sqrt(both), degrees


def word_of(claim: Claim, low: float, high: float) -> str:
    """The verdict by the words of the issue: wholly in the direction, beyond the margin; or the smallest effect is excluded."""
    if claim.kind == "close":
        claimed, excluded = -claim.margin < low <= high < claim.margin, low > claim.margin or high < -claim.margin
    elif claim.kind == "not_better":
        claimed, excluded = high < claim.margin, low > claim.margin
    else:
        claimed, excluded = low > 0, high < 0.01
    return "replicated" if claimed else "contradicted" if excluded else "not separable yet"


@pytest.mark.parametrize("seeds", [1, 3])
def test_verdicts_agree_with_another_computation(tmp_path: Path, seeds: int) -> None:
    found, scores = verdicts(tmp_path, seeds)
    raw = {}
    for name, verdict in found.items():
        claim = verdict.claim
        rivals = [group[0].row for group in claim.rivals]
        estimate, low, high, error, degrees = expected_interval(scores, claim.first[0].row, rivals)
        assert verdict.confidence == pytest.approx(CONFIDENCE)
        assert verdict.estimate == pytest.approx(estimate)
        # against one rival the methods are the same; of two bootstraps of the best of several, the far quantiles differ by chance
        assert (verdict.low, verdict.high) == pytest.approx((low, high), abs=1e-5 if len(rivals) == 1 else 0.006)
        assert verdict.word == word_of(claim, low, high)
        assert verdict.covers == (ITEMS if seeds == 1 else ITEMS_AND_SEEDS)
        assert verdict.qualified == (f"{verdict.word}, on one training run" if seeds == 1 else verdict.word)
        if claim.kind != "close":
            raw[name] = 2 * stats.t.sf(abs(estimate - claim.margin) / error, degrees)
    assert len({verdict.word for verdict in found.values()}) == 3  # or this test would say little
    adjusted = dict(zip(raw, multipletests(list(raw.values()), method="holm")[1], strict=True))
    assert found["close"].p_holm is None
    for name, p_value in adjusted.items():
        assert found[name].p_holm == pytest.approx(p_value, rel=1e-3 if name != "better" else 1.0, abs=1e-8)


def test_what_one_training_run_leaves_open_is_told(tmp_path: Path) -> None:
    found, _ = verdicts(tmp_path, 1)
    for verdict in found.values():
        assert verdict.one_run
        assert "1 seed of each trained arm" in verdict.reason
        assert "One training run of each arm" in verdict.reason
    assert found["close"].settled_by.startswith("at least 2 seeds of each trained arm")
    (tmp_path / "three").mkdir()
    several, _ = verdicts(tmp_path / "three", 3)
    assert "3 seeds of each trained arm" in several["close"].reason
    assert "One training run" not in several["close"].reason
    assert "the margin, four times in five" in several["close"].reason


def test_a_claim_that_names_no_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    wrong = dataclasses.replace(GREATER, first=(Place("CTF"),))
    with pytest.raises(ValueError, match="sweeps/mine.yaml has no cell at row 'CTF'"):
        judge(study_of(tmp_path / "store", sweeps_folder(tmp_path)), [wrong])
