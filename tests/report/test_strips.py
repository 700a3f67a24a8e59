"""Strips and series: places on the axis, round ticks, and no two series that look the same."""

import pytest

from cft_lab.report.strips import Strip, StripGroup, accuracy_plot, colour_of, effect_plot, marker_of, shared_limits, ticks


def test_no_two_series_share_colour_and_marker() -> None:
    looks = [(colour_of(style), marker_of(style)) for style in range(31)]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 0.9, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (-0.34, 0.21, [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2]),
        (-0.012, 0.013, [-0.01, -0.005, 0.0, 0.005, 0.01]),
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_an_axis_holds_all_ends_and_zero() -> None:
    plot = effect_plot("t", [Strip("a", "", 0.1, 0.05, 0.2, published=0.3), Strip("b", "", 0.02)])
    assert 0 < plot.at(0.0) < plot.at(0.05) < plot.at(0.3) < 100
    flat = effect_plot("t", [Strip("a", "", 0.0, 0.0, 0.0)])
    assert flat.at(0.0) == 50
    assert flat.ticks
    accuracies = accuracy_plot("t", [StripGroup("", (Strip("a", "", 0.7),))], shared_limits([0.71, None]))
    assert (accuracies.low, accuracies.high) == (0.0, 0.8)
    assert shared_limits([]) == (0.0, 0.1)
