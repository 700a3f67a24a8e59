"""Claims: effects from published.csv, the rule, and verdicts against another computation by scipy and statsmodels."""

import csv
import dataclasses
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from made_results import config_of, drawn, study_of, sweeps_folder, write_cell
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cft_lab.report.claims import Claim, Place, Verdict, decide, effect_to_find, judge, needed, read_claims
from cft_lab.report.measure import Compared
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


def test_lab_claims_are_judged_on_direction_only() -> None:
    for claim in read_claims():
        if claim.scale == "lab":
            assert claim.margin == 0 or claim.kind == "close"


def verdicts(tmp_path: Path) -> tuple[dict[str, Verdict], dict[str, np.ndarray]]:
    """Verdicts on a family of four, and scores [items of both benchmarks] of single runs by row."""
    store = tmp_path / "store"
    outcomes = {}
    for row, method, accuracy in (
        ("Base", "base", 0.2),
        ("SFT", "sft", 0.5),
        ("SFT-verified", "sft-verified", 0.45),
        ("CFT", "cft", 0.8),
    ):
        outcomes[row] = drawn(method, accuracy, items=200)
        write_cell(store, config_of(method), outcomes[row])
    found = judge(study_of(store, sweeps_folder(tmp_path)), FAMILY)
    return {v.claim.id: v for v in found}, {row: np.array(list(one.values()), float) for row, one in outcomes.items()}


def test_verdicts_agree_with_another_computation(tmp_path: Path) -> None:
    found, scores = verdicts(tmp_path)
    assert {name: verdict.word for name, verdict in found.items()} == {
        "better": "replicated",
        "worse": "contradicted",
        "close": "not separable yet",
        "not better": "contradicted",
    }
    confidence = 1 - 0.05 / 4
    for name, first, second in (("worse", "Base", "CFT"), ("close", "SFT", "SFT-verified"), ("not better", "SFT", "Base")):
        gap = scores[first] - scores[second]  # [benchmarks, items]
        se = np.sqrt((gap.var(axis=1, ddof=1) / gap.shape[1]).sum()) / 2
        half = stats.norm.ppf(0.5 + confidence / 2) * se
        verdict = found[name]
        assert verdict.confidence == pytest.approx(confidence)
        assert verdict.estimate == pytest.approx(gap.mean())
        assert verdict.low == pytest.approx(gap.mean() - half, abs=0.006)  # score intervals against the normal ones
        assert verdict.high == pytest.approx(gap.mean() + half, abs=0.006)
        assert verdict.covers == ITEMS


def test_p_values_are_adjusted_over_the_family_as_statsmodels_does(tmp_path: Path) -> None:
    found, scores = verdicts(tmp_path)
    raw = {}
    for verdict in found.values():
        rival = "SFT" if verdict.claim.id == "better" else verdict.claim.rivals[0][0].row
        gap = scores[verdict.claim.first[0].row] - scores[rival]
        se = np.sqrt((gap.var(axis=1, ddof=1) / gap.shape[1]).sum()) / 2
        raw[verdict.claim.id] = 2 * stats.norm.sf(abs(gap.mean()) / se)
    expected = dict(zip(raw, multipletests(list(raw.values()), method="holm")[1], strict=True))
    assert found["close"].p_holm == pytest.approx(expected["close"], rel=0.15)
    for name in ("better", "worse", "not better"):
        assert (found[name].p_holm or 0) < 1e-6
        assert expected[name] < 1e-6


def test_what_is_needed_is_found_by_the_power_of_a_normal_test() -> None:
    compared = Compared(0.002, -0.02, 0.03, 0.008, 0.006, 30.0, ITEMS_AND_SEEDS, 1000, 3, 0)
    claim = dataclasses.replace(GREATER, smallest_effect=0.03)
    seeds, items, both = needed(claim, compared, 0.99)
    assert seeds is not None
    assert items is not None
    assert both is None

    def power(item_variance: float, seed_variance: float) -> float:
        return float(stats.norm.sf(stats.norm.ppf(0.995) - 0.03 / np.sqrt(item_variance + seed_variance)))

    assert power(0.008**2, 0.006**2 * 3 / seeds) >= 0.8
    assert power(0.008**2 * 1000 / items, 0.006**2) >= 0.8 > power(0.008**2 * 1000 / (items - 1), 0.006**2)


def test_where_neither_alone_would_do_both_together_are_told() -> None:
    compared = Compared(0.002, -0.02, 0.03, 0.008, 0.006, 30.0, ITEMS_AND_SEEDS, 1000, 3, 0)
    seeds, items, both = needed(dataclasses.replace(GREATER, smallest_effect=0.01), compared, 0.99)
    assert (seeds, items) == (None, None)
    assert both is not None
    error = np.hypot(0.008 * np.sqrt(1000 / both[1]), 0.006 * np.sqrt(3 / both[0]))
    assert 0.8 <= stats.norm.sf(stats.norm.ppf(0.995) - 0.01 / error) < 0.82


def test_near_a_bound_the_distance_to_it_is_what_has_to_be_found() -> None:
    compared = Compared(0.032, 0.024, 0.041, 0.002, 0.001, 30.0, ITEMS_AND_SEEDS, 1000, 3, 0)
    near = dataclasses.replace(CLOSE, margin=0.03)
    assert effect_to_find(near, compared, 0.99) == pytest.approx(0.002)
    _, items, _ = needed(near, compared, 0.99)
    assert items is None or items > 5000
    assert effect_to_find(dataclasses.replace(near, margin=0.005), compared, 0.99) == 0.005  # these items cannot find it yet


def test_a_claim_that_names_no_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    wrong = dataclasses.replace(GREATER, first=(Place("CTF"),))
    with pytest.raises(ValueError, match="sweeps/mine.yaml has no cell at row 'CTF'"):
        judge(study_of(tmp_path / "store", sweeps_folder(tmp_path)), [wrong])
