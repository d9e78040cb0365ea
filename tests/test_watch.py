"""Rule 11: a run watches itself. Each way to go wrong, just within its bound and just over it."""

from __future__ import annotations

import math
import re

import pytest

from honed.training.watch import RATIO_TOLERANCE, Watch

WELL = {
    "ppo/first_ratio_error": 0.0,
    "ppo/kl": 1.0,
    "ppo/entropy": 2.0,
    "ppo/length": 40.0,
    "ppo/score": 0.0,
    "ppo/value_loss": 0.1,
}


def watch() -> Watch:
    return Watch(kl_budget=50.0, min_entropy=0.05, max_length_growth=3.0)


def seen(*rounds: dict[str, float]) -> list[str | None]:
    """What a watch says of each round; what is not named is well."""
    one = watch()
    return [one.see(WELL | numbers) for numbers in rounds]


def test_nothing_is_said_of_a_run_that_does_well() -> None:
    assert seen(*[{"ppo/kl": kl, "ppo/score": kl / 10} for kl in range(20)]) == [None] * 20


@pytest.mark.parametrize(
    ("name", "good", "bad", "reason"),
    [
        ("ppo/first_ratio_error", RATIO_TOLERANCE, 0.02, r"off by 0\.02 before anything was learned.*dropout"),
        ("ppo/kl", 50.0, 50.1, r"KL 50\.1 nats an answer is over the budget of 50.*Raise --kl-coefficient"),
        ("ppo/entropy", 0.05, 0.049, r"Entropy 0\.049 nats a token is under 0\.05.*Raise --kl-coefficient"),
    ],
)
def test_a_number_over_its_bound_stops_the_run(name: str, good: float, bad: float, reason: str) -> None:
    """From the first round on."""
    fine, stopped = seen({name: good}, {name: bad})
    assert fine is None
    assert stopped is not None
    assert re.search(reason, stopped)
    assert seen({name: bad}) == [stopped]


@pytest.mark.parametrize("name", ["ppo/first_ratio_error", "ppo/kl", "ppo/entropy"])
def test_what_is_no_number_stops_the_run(name: str) -> None:
    assert seen({name: math.nan})[0] is not None


def test_a_reward_that_rises_with_length_stops_the_run() -> None:
    """Three times the first round's length is allowed; more only where the reward did not rise."""
    said = seen(
        {}, {"ppo/length": 120.0, "ppo/score": 2.0}, {"ppo/length": 121.0, "ppo/score": -0.1}, {"ppo/length": 121.0}
    )
    assert said == [None] * 4
    (*_, stopped) = seen({}, {"ppo/length": 121.0, "ppo/score": 0.1})
    assert stopped is not None
    assert stopped.startswith("Answers grew from 40 to 121 tokens while their reward rose")


def test_a_value_loss_far_over_that_of_the_first_rounds_stops_the_run() -> None:
    """Twenty times the median of three, one of which may be an exception."""
    first = [{"ppo/value_loss": loss} for loss in (0.1, 5.0, 0.2)]
    assert seen(*first, {"ppo/value_loss": 4.0}, {"ppo/value_loss": 0.1}) == [None] * 5
    (*fine, stopped) = seen(*first, {"ppo/value_loss": 4.1})
    assert fine == [None] * 3
    assert stopped is not None
    assert stopped.startswith("The value loss went from 0.2 to 4.1: the critic diverges.")


def test_a_value_loss_that_is_small_in_units_of_reward_never_stops_a_run() -> None:
    assert seen(*[{"ppo/value_loss": 1e-4}] * 3, {"ppo/value_loss": 0.9}) == [None] * 4


def test_the_first_rounds_have_no_usual_value_loss() -> None:
    assert seen({"ppo/value_loss": 0.1}, {"ppo/value_loss": 0.1}, {"ppo/value_loss": 90.0}) == [None] * 3
