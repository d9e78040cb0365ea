"""Win rates: by hand where that can be done, by simulation where the truth is known, finite where it is hard."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.training.evaluation import statistics
from honed.training.evaluation.statistics import (
    Duel,
    binomial_interval,
    duel,
    length_controlled,
    mean_interval,
    rate_of,
    resampled,
)


def simulated(prompts: int, *, better: float, longer: float, spread: float, taste: float, seed: int) -> list[Duel]:
    """Two answers of each policy a prompt, whose worth is Gumbel noise (so that pairs are decided as by Bradley and
    Terry), plus `better` for the candidate, plus `taste` for the bounded length of an answer."""
    draw = np.random.default_rng(seed)
    scale = math.sqrt(longer**2 + 2 * spread**2)
    found = []
    for _ in range(prompts):
        lengths = 100 + draw.normal(0, spread, (2, 2)) + np.array([[longer], [0]])
        worth = draw.gumbel(size=(2, 2)) + np.array([[better], [0]])
        outcomes, differences = [], []
        for i in range(2):
            for j in range(2):
                difference = round(lengths[0, i] - lengths[1, j])
                outcomes.append(float(worth[0, i] - worth[1, j] + taste * math.tanh(difference / scale) > 0))
                differences.append(float(difference))
        found.append(Duel(tuple(outcomes), tuple(differences)))
    return found


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_each_answer_meets_each_of_the_others() -> None:
    met = duel(["aa", "b"], ["c", "ddd"], [1.0, 0.0], [0.5, 1.0])
    assert met.outcomes == (1.0, 0.5, 0.0, 0.0)  # equal scores tie
    assert met.lengths == (1, -1, 0, -2)
    assert met.share == 0.375


def test_equal_texts_tie_whatever_the_judge_says() -> None:
    assert duel(["same"], ["same"], [2.0], [1.0]) == Duel((0.5,), (0.0,))


def test_a_mean_and_its_interval_are_those_of_the_resampled_prompts() -> None:
    """Of 0 and 1 at equal shares, 95 % of the means of 100 lie within 1.96 * 0.05 of a half."""
    found = mean_interval([0.0, 1.0] * 50, seed=3)
    assert found.mean == 0.5
    assert (found.low, found.high) == pytest.approx((0.402, 0.598), abs=0.015)
    assert astuple(mean_interval([0.25] * 12, seed=0)) == pytest.approx((0.25, 0.25, 0.25))


def test_draws_of_prompts_are_as_large_as_what_they_are_drawn_from() -> None:
    drawn = resampled(7, seed=0)
    assert set(drawn.sum(axis=1)) == {7.0}
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert np.array_equal(drawn, resampled(7, seed=0))
    assert not np.array_equal(drawn, resampled(7, seed=1))


@pytest.mark.parametrize("better", [0.0, 0.6])
def test_intervals_hold_the_truth_about_as_often_as_they_say(better: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    rounds, truth = 120, logistic(better)
    raw = controlled = 0
    for seed in range(rounds):
        duels = simulated(50, better=better, longer=0, spread=30, taste=0.0, seed=seed)
        rates = [mean_interval([each.share for each in duels], seed), length_controlled(duels, seed)]
        raw += rates[0].low <= truth <= rates[0].high
        controlled += rates[1].low <= truth <= rates[1].high
    assert 0.88 * rounds <= raw <= 0.99 * rounds
    assert controlled >= 0.92 * rounds


def test_length_is_taken_out_of_what_a_judge_likes_beside_other_things() -> None:
    duels = simulated(400, better=0.5, longer=40, spread=40, taste=2.0, seed=0)
    assert mean_interval([each.share for each in duels], 0).mean > 0.74
    found = length_controlled(duels, 0)
    assert found.low < logistic(0.5) < found.high
    assert found.mean == pytest.approx(logistic(0.5), abs=0.05)


@pytest.mark.parametrize("longer", [10.0, 60.0, 400.0], ids=["often", "nearly always", "always"])
def test_a_judge_that_likes_nothing_but_length_promotes_nobody(longer: float) -> None:
    """However often the longer answers win, with and without any shorter ones to tell it by."""
    lengths = np.random.default_rng(1).normal(longer, 25, (200, 4)).round()
    duels = [
        Duel(tuple(0.5 + 0.5 * float(np.sign(length)) for length in row), tuple(map(float, row))) for row in lengths
    ]
    raw = mean_interval([each.share for each in duels], 0)
    found = length_controlled(duels, 0)
    assert raw.low > (0.95 if longer > 10 else 0.55)
    assert found.low < 0.5 < found.high
    assert found.mean == pytest.approx(0.5, abs=0.1)


def test_what_is_always_longer_by_the_same_could_be_anything() -> None:
    found = length_controlled([Duel((1.0,), (7.0,))] * 50, 0)
    assert found.mean == pytest.approx(0.5, abs=0.02)
    assert found.low < 0.1
    assert found.high > 0.9


def test_who_wins_at_any_length_wins_at_equal_lengths() -> None:
    lengths = np.random.default_rng(2).normal(0, 20, (60, 4)).round()
    duels = [Duel((1.0,) * 4, tuple(map(float, row))) for row in lengths]
    assert length_controlled(duels, 0).low > 0.9
    lost = [Duel((0.0,) * 4, each.lengths) for each in duels]
    assert length_controlled(lost, 0).high < 0.1


def test_without_any_difference_of_length_it_is_the_win_rate() -> None:
    duels = [Duel((1.0, 0.0, 1.0, 1.0), (0.0,) * 4)] * 40
    assert length_controlled(duels, 0).mean == pytest.approx(0.75, abs=0.002)


def test_two_of_the_same_are_at_one_half() -> None:
    duels = [Duel((0.5, 1.0, 0.0, 0.5), (0.0, 3.0, -3.0, 0.0))] * 30
    found = length_controlled(duels, 0)
    assert found.mean == pytest.approx(0.5, abs=1e-12)
    assert found.low < 0.5 < found.high


def test_what_is_fitted_in_parts_is_what_is_fitted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    duels = simulated(20, better=0.3, longer=10, spread=20, taste=1.0, seed=4)
    whole = length_controlled(duels, 0)
    monkeypatch.setattr(statistics, "_AT_ONCE", 5000)
    assert astuple(length_controlled(duels, 0)) == pytest.approx(astuple(whole), abs=1e-9)


outcomes = st.sampled_from([0.0, 0.5, 1.0])
pairs = st.lists(st.tuples(outcomes, st.integers(-5000, 5000)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(pairs, min_size=10, max_size=25))
def test_any_outcomes_have_finite_rates_in_order(rows: list[list[tuple[float, int]]]) -> None:
    duels = [Duel(tuple(won for won, _ in row), tuple(float(length) for _, length in row)) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 50)
        for found in (length_controlled(duels, 0), mean_interval([each.share for each in duels], 0)):
            assert 0 <= found.low <= found.high <= 1
            assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.lists(pairs, min_size=10, max_size=25))
def test_the_fit_is_where_the_slope_is_nothing(rows: list[list[tuple[float, int]]]) -> None:
    """Of the penalised likelihood, whatever the outcomes: Newton's steps have arrived."""
    lengths = np.array([length for row in rows for _, length in row], dtype=float)
    won = np.array([won for row in rows for won, _ in row])
    bounded = np.tanh(lengths / (np.sqrt((lengths**2).mean()) or 1.0))
    weights = np.full((1, len(won)), 1 / len(won))
    theta = float(statistics._fit(bounded, won, weights)[0][0])

    def slope(phi: float) -> tuple[float, float]:
        error = won - 1 / (1 + np.exp(-np.clip(theta + phi * bounded, -700, 700)))
        return float(error.mean() - 1e-3 * theta), float((error * bounded).mean() - 1e-6 * phi)

    low, high = -1e6, 1e6  # the slope along phi falls: bisect to where it is 0, and there theta's has to be 0 too
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle)[1] > 0 else (low, middle)
    assert slope(low)[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("wins", "losses", "low", "high"),
    [(4, 0, 0.3976, 1.0), (6, 0, 0.5407, 1.0), (0, 5, 0.0, 0.5218), (8, 2, 0.4439, 0.9748), (5, 5, 0.1871, 0.8129)],
)
def test_the_interval_of_a_few_wins(wins: int, losses: int, low: float, high: float) -> None:
    """Tables of Clopper and Pearson's."""
    assert binomial_interval(wins, losses) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_of_many_wins_is_that_of_the_normal_distribution() -> None:
    low, high = binomial_interval(6000, 4000)
    assert (low, high) == pytest.approx((0.6 - 1.96 * 0.0049, 0.6 + 1.96 * 0.0049), abs=1e-4)


def test_a_few_wins_among_ties_show_nothing() -> None:
    """Hardly a draw of prompts has none of the four, but of equal policies one has them once in sixteen times."""
    few, enough = (rate_of([1.0] * won + [0.5] * (50 - won), 0) for won in (4, 6))
    assert few["low"] < 0.5 < few["mean"]
    assert enough["low"] > 0.5
    assert rate_of([0.5] * 20, 0)["low"] == 0.5
