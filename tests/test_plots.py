"""Plots: what they show, that they are bytes for bytes the same, and that no name of a labeler breaks one."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from honed.training.reports import plots
from honed.training.reports.numbers import amount, duration, number, percent, said
from honed.training.reports.plots import Bar, Limit, Line, correlation, is_noisy, smoothed, wilson


def texts(svg: str) -> list[str]:
    """What can be read in a plot."""
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]


def parsed(svg: str) -> str:
    """The plot with the namespace that a page does not need and an XML parser does."""
    return svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)


LINES = [Line("train", range(1, 31), [0.7 - 0.01 * n + 0.02 * (-1) ** n for n in range(30)])]


def curves(*lines: Line, limits: tuple[Limit, ...] = (), is_share: bool = False) -> list[str]:
    return texts(parsed(plots.curves("one", "Loss", lines, unit="nats", limits=limits, is_share=is_share)))


def test_lines_are_named_at_their_ends_with_their_last_values() -> None:
    held_out = Line("held out", [10, 20, 30], [0.7, 0.6, math.nan])
    shown = curves(Line("train", [1, 2, 30], [0.9, 0.8, 0.65]), held_out)
    assert {"train 0.65", "held out 0.6", "nats", "step"} <= set(shown)


def test_a_single_line_needs_no_name() -> None:
    shown = curves(Line("train", [1, 2], [0.25, 0.5]), is_share=True)
    assert "50.0 %" in shown
    assert not any("train" in each for each in shown)


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [0.0, 0.0], [1e-9, 2e-9], [-1e12, 1e12]])
def test_any_series_can_be_drawn(values: list[float]) -> None:
    assert "step" in curves(Line("a", range(len(values)), values), limits=(Limit("budget", 50),))


def test_a_limit_far_above_is_named_at_the_edge() -> None:
    line = Line("KL", [1, 2, 3], [1.0, 2.0, 6.0])
    assert "budget 50 ↑" in curves(line, limits=(Limit("budget", 50),))
    assert "budget 8" in curves(line, limits=(Limit("budget", 8),))


def test_labels_that_would_touch_are_moved_apart() -> None:
    lines = [Line(name, [1, 2], [0.0, 1 + 0.001 * n]) for n, name in enumerate("abc")]
    svg = parsed(plots.curves("one", "Loss", lines))
    heights = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>[abc] 1', svg)]
    assert len(heights) == 3
    assert min(abs(a - b) for a, b in pairwise(heights)) > 9.5  # the size of the font


def test_the_same_numbers_make_the_same_bytes() -> None:
    first, second = (plots.curves("one", "Loss", LINES) for _ in range(2))
    assert first == second
    assert not re.search(r"20\d\d-\d\d", first)


def test_two_plots_of_a_page_share_no_id() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', plots.curves(name, "Loss", LINES))) for name in ("one", "two")]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_what_is_referred_to_is_there() -> None:
    few = plots.curves("few", "Loss", [Line("a", [1, 2], [1.0, 2.0])])  # with markers, which are drawn once and used
    dots = plots.scatter("dots", "Length", [(1, 2), (2, 3), (3, 5)], x_label="tokens", y_label="reward")
    assert "<use " in few
    for svg in (few, dots):
        used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
        assert used
        assert used == set(re.findall(r'\bid="([^"]+)"', svg))


def test_nothing_global_is_changed() -> None:
    before = dict(matplotlib.rcParams)
    plots.curves("one", "Loss", LINES)
    assert dict(matplotlib.rcParams) == before


def test_colors_are_the_pages() -> None:
    svg = plots.curves("one", "Loss", LINES)
    assert "stroke: var(--blue, #0072b2)" in svg
    assert not re.search(r": #[0-9a-f]{6}", svg)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$x^$", r"$\frac", "日本語", "a\0b\n", 'a" onload="x'])
def test_a_bar_can_have_any_name(name: str) -> None:
    svg = parsed(plots.bars("bars", 'By "labeler" <b>', [Bar(name, 0.75, 40)], counted="pairs"))
    shown = texts(svg)
    assert name.replace("\0", " ").replace("\n", " ")[:16] in {each[:16] for each in shown}
    assert "75 % of 40 pairs" in shown
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == 'By "labeler" <b>'


def test_calibration_has_a_dot_a_bin() -> None:
    points = [(0.55, 0.5, 100), (0.75, 0.8, 30), (0.95, 1.0, 1), (0.6, 0.0, 3)]
    svg = plots.calibration("calibration", "Calibration", points)
    assert svg.count("<use ") == 4


def test_a_scatter_says_its_correlation() -> None:
    line = plots.scatter("dots", "Length", [(1, 3), (2, 2), (3, 1)], x_label="tokens", y_label="reward")
    assert "r = −1" in texts(parsed(line))
    flat = plots.scatter("dots", "Length", [(1, 2), (2, 2), (3, 2)], x_label="tokens", y_label="reward")
    assert not any(each.startswith("r =") for each in texts(parsed(flat)))


def test_correlation_by_hand() -> None:
    """x - mean: -1 0 1; y - mean: -1 1 0; covariance 1/3, variances 2/3."""
    assert correlation([(1, 1), (2, 3), (3, 2)]) == pytest.approx(0.5)
    assert correlation([(1, 1), (2, 2)]) is None
    assert correlation([(1, 1), (1, 2), (1, 3)]) is None


def test_wilson_by_hand() -> None:
    """Of 10 of 20: (0.5 + 3.8416 / 40) / 1.19208 = 0.5, reach 1.96 / 1.19208 * sqrt(0.0125 + 0.002401) = 0.20070."""
    assert wilson(0.5, 20) == pytest.approx((0.29930, 0.70070), abs=1e-5)
    assert wilson(0.5, 0) == (0.0, 1.0)
    low, high = wilson(1.0, 5)
    assert (low < 0.6, high) == (True, pytest.approx(1.0))


def test_smoothing_is_symmetric_and_keeps_a_straight_line() -> None:
    values = np.arange(48, dtype=float)
    assert smoothed(values)[4:-4] == pytest.approx(values[4:-4])
    assert smoothed(values[::-1]) == pytest.approx(smoothed(values)[::-1])
    assert smoothed(np.full(30, 2.0)) == pytest.approx(np.full(30, 2.0))


def test_smoothing_passes_over_what_is_missing() -> None:
    values = np.full(60, 3.0)
    values[[10, 11]] = np.nan
    assert smoothed(values) == pytest.approx(np.full(60, 3.0))


def test_a_schedule_is_not_noise() -> None:
    schedule = np.array([*np.linspace(0, 1, 10), *np.linspace(1, 0.1, 90)])
    assert not is_noisy(schedule)
    assert is_noisy(schedule + 0.05 * np.resize([0, 1, -1], 100))
    assert not is_noisy(np.array([0.0, 1.0, 0.0]))


def test_numbers_are_short() -> None:
    values = (0, 1204, 0.61449, 12.345, 99.96, 1234.5, -0.5, 0.02, 2.1e-5, 3e9, 2.5e8, math.nan, math.inf, None)
    assert [number(value) for value in values] == [
        "0", "1,204", "0.614", "12.3", "100", "1,234", "−0.5", "0.02", "2.1e-5", "3,000,000,000", "250,000,000",
        "–", "–", "–",
    ]  # fmt: skip
    assert [number(value) for value in (12345678.5, -1e-4)] == ["1.2e7", "−0.0001"]


def test_a_metric_is_said_as_is_usual_for_it() -> None:
    given = {"ppo/score": -0.0004, "validation/accuracy": 0.7123, "train/loss": 0.6, "train/learning_rate": 5e-6}
    assert [said(name, value) for name, value in given.items()] == ["0.00", "71.2 %", "0.600", "5e-6"]
    assert (said("ppo/kl", math.nan), said("ppo/kl", None), percent(math.nan)) == ("–", "–", "–")


def test_counts_and_durations() -> None:
    assert [amount(count) for count in (512, 12_400, 134_515_008, 7e9)] == ["512", "12.4 k", "135 M", "7 G"]
    seconds = (0, 59.6, 724, 12_000, 187_200, -1, math.inf)
    assert [duration(each) for each in seconds] == ["0 s", "1 min 0 s", "12 min 4 s", "3 h 20 min", "2 d 4 h", "–", "–"]


@pytest.mark.parametrize("values", [[0.0], [0.0] * 5, [-1.0, 2.0, 2.0], [1e-9, -1e9], [3.0] * 300])
def test_a_histogram_has_all_values_and_zero_in_its_middle(values: list[float]) -> None:
    svg = plots.histogram("differences", "Differences", values, x_label="better", unit="prompts")
    shown = texts(parsed(svg))
    assert {"better", "prompts", "0"} <= set(shown)
    assert svg == plots.histogram("differences", "Differences", values, x_label="better", unit="prompts")
