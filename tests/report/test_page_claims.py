"""What the page says of claims follows from claims and verdicts, in words and in places."""

from __future__ import annotations

import dataclasses

import pytest

from cft_lab.report.claims import CONTRADICTED, NOT_RUN, NOT_SEPARABLE, REPLICATED, Claim, Verdict, decide, read_claims
from cft_lab.report.page_claims import against_imitation, finding, region, rule, scale_claims, short_label, side

CLAIMS = read_claims()
LAB = [claim for claim in CLAIMS if claim.scale == "lab"]
PAPER = [claim for claim in CLAIMS if claim.scale == "paper"]


def judged(claim: Claim, word: str) -> Verdict:
    return Verdict(claim, word) if word == NOT_RUN else Verdict(claim, word, 0.01, -0.02, 0.04, 0.99)


def test_labels_are_short_tell_claims_apart_and_name_the_models_of_the_claim() -> None:
    for family in (PAPER, LAB):
        labels = [short_label(claim) for claim in family]
        assert len(set(labels)) == len(labels)
        assert max(map(len, labels)) < 60
    by_id = {claim.id: short_label(claim) for claim in CLAIMS}
    assert by_id["lab-cft-beats-sft-deepseek"] == "lab-llama: CFT \N{MINUS SIGN} best SFT"
    assert by_id["matches-models-with-more-data"] == "Qwen2.5-Math-7B-CFT \N{MINUS SIGN} best of 3"
    assert by_id["temperature-hurts"] == "Direct inference: T=0.0 \N{MINUS SIGN} T=0.6"
    assert by_id["two-stage-not-better"] == "Two-stage self-critique \N{MINUS SIGN} Direct inference"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_the_stretch_of_a_claim_is_where_it_is_replicated(claim: Claim) -> None:
    low, high = region(claim)
    inside = (max(low, -0.5) + 1e-6, min(high, 0.5) - 1e-6)
    assert decide(claim, *inside) == REPLICATED
    for end, step in ((low, -1e-6), (high, 1e-6)):
        if abs(end) < 1:
            assert decide(claim, min(inside[0], end + step), max(inside[1], end + step)) != REPLICATED


def test_words_are_defined_for_each_kind_and_scale() -> None:
    paper, lab = scale_claims([judged(claim, NOT_RUN) for claim in CLAIMS])
    assert [one.partition(":")[0] for one in paper.rules] == ["One is better", "One is not better", "Two are close"]
    assert any("the smallest effect of interest" in one for one in paper.rules)
    assert not any("the smallest effect of interest" in one for one in lab.rules)
    assert set(lab.rules) == {rule(claim) for claim in LAB}
    claims = {(claim.scale, claim.kind): claim for claim in CLAIMS}
    assert side(claims["lab", "not_better"]) == "claimed: below 0"
    assert side(claims["paper", "not_better"]) == "claimed: below +1 points"


def test_verdicts_on_one_training_run_say_so() -> None:
    lone = [dataclasses.replace(judged(claim, REPLICATED), one_run=True) for claim in LAB[:2]]
    (scale,) = scale_claims([*lone, judged(LAB[2], REPLICATED)])
    assert scale.finding.endswith("2 of these verdicts stand on one training run of each arm.")
    assert scale.plot is not None
    assert [strip.note.endswith("on one training run") for strip in scale.plot.groups[0].strips] == [True, True, False]


def test_claims_about_imitation_are_those_of_cft_against_sft() -> None:
    assert sum(map(against_imitation, LAB)) == 7
    assert sum(map(against_imitation, PAPER)) == 7


def test_a_finding_counts_the_words_and_never_mixes_scales() -> None:
    words = [CONTRADICTED, CONTRADICTED, NOT_SEPARABLE]
    ours = [claim for claim in LAB if against_imitation(claim)]
    rest = [claim for claim in LAB if not against_imitation(claim)]
    verdicts = [judged(claim, words[place % 3]) for place, claim in enumerate(ours)] + [judged(one, REPLICATED) for one in rest]
    told = finding(verdicts)
    assert "of the 7 claims that critique fine-tuning beats imitation, none is replicated, 5 are contradicted and 2 are not" in told
    assert f"of the other {len(rest)} claims, {len(rest)} are replicated (" in told
    assert rest[0].statement in told
    paper, lab = scale_claims([*(judged(claim, NOT_RUN) for claim in PAPER), *verdicts])
    assert (paper.tally, paper.judged, paper.plot) == ((), (), None)
    assert paper.finding.startswith("Nothing is said here about the paper's models")
    assert dict(lab.tally) == {REPLICATED: len(rest), CONTRADICTED: 5, NOT_SEPARABLE: 2}


def test_a_strip_says_the_whole_verdict_in_words() -> None:
    verdict = dataclasses.replace(judged(PAPER[0], NOT_SEPARABLE), published=0.05)
    (scale,) = scale_claims([verdict])
    assert scale.plot is not None
    (strip,) = scale.plot.groups[0].strips
    assert strip.told == (
        "DeepSeek-Math-7B: CFT \N{MINUS SIGN} best SFT: +1.0 points [-2.0, +4.0], claimed: above 0, not separable yet; "
        "published +5.0"
    )
    assert 0 < scale.plot.at(-0.02) < scale.plot.at(0.0) < scale.plot.at(0.05) < 100
    assert scale.plot.at(float("inf")) == 100
