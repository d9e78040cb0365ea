"""What a reward model's evaluation says, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from honed.training.accuracy import BOOTSTRAPS, MAX_POINTS, Pair, Scored, calibration, evaluate, interval, pairs_of
from honed.training.groups import Group
from honed.training.trees import Tree


def scored(
    ranks: tuple[int, ...],
    numbers: tuple[float, ...],
    *,
    sources: tuple[str | None, ...] | None = None,
    labeler: str | None = None,
) -> Scored:
    """Answers of 1, 2, ... tokens."""
    answers = tuple((7,) * length for length in range(1, len(ranks) + 1))
    return Scored(Group(Tree((1,), answers), ranks, sources or (None,) * len(ranks), labeler), numbers)


def pair(difference: float, *, is_right: bool = True) -> Pair:
    return Pair(difference if is_right else -difference, (None, None), None)


def test_pairs_are_those_that_are_not_tied() -> None:
    """Ranks 1, 2, 2: the winner's number less the loser's."""
    assert [each.difference for each in pairs_of(scored((2, 1, 2), (0.5, 2.0, 3.0)))] == [1.5, -1.0]
    assert list(pairs_of(scored((1, 1), (0.0, 1.0)))) == []


def test_answers_of_the_same_tokens_are_no_pair() -> None:
    """Two that differ only after they were cut: no model can tell them apart."""
    tree = Tree((1,), ((5, 6), (5, 6), (7,)))
    each = Scored(Group(tree, (1, 2, 3), (None,) * 3, None), (0.0, 0.0, -1.0))
    assert [found.difference for found in pairs_of(each)] == [1.0, 1.0]


def test_equal_numbers_are_not_right() -> None:
    assert not Pair(0.0, (None, None), None).is_right


def test_the_evaluation_by_hand() -> None:
    """Three pairs of the first prompt, of which two are right, and the wrong one of the second."""
    some = [
        scored((1, 2, 3), (2.0, 1.0, 1.5), sources=("a", "b", "b"), labeler="ann"),
        scored((2, 1), (1.0, 0.0), sources=("a", None), labeler="bob"),
    ]
    report = evaluate(some)
    assert report["accuracy"] == 2 / 4
    assert (report["pairs"], report["prompts"]) == (4, 2)
    first = sum(math.log1p(math.exp(-d)) for d in (1.0, 0.5, -0.5)) / 3
    assert report["loss"] == pytest.approx((first + math.log1p(math.exp(1.0))) / 2)
    assert report["by_labeler"] == {"ann": {"accuracy": 2 / 3, "pairs": 3}, "bob": {"accuracy": 0.0, "pairs": 1}}
    assert report["by_source"] == {"a": {"accuracy": 2 / 3, "pairs": 3}, "b": {"accuracy": 2 / 3, "pairs": 3}}
    assert report["by_source_pair"] == {"a > b": {"accuracy": 1.0, "pairs": 2}, "b > b": {"accuracy": 0.0, "pairs": 1}}
    assert report["reward_by_length"] == [[1, 2.0], [2, 1.0], [3, 1.5], [1, 1.0], [2, 0.0]]
    assert report["accuracy_low"] == 0.0
    assert report["accuracy_high"] == 2 / 3


def test_a_prompt_whose_answers_all_tie_does_not_count() -> None:
    report = evaluate([scored((1, 1), (0.0, 5.0)), scored((1, 2), (1.0, 0.0))])
    assert (report["prompts"], report["pairs"], report["accuracy"]) == (1, 1, 1.0)
    assert report["loss"] == pytest.approx(math.log1p(math.exp(-1.0)))
    assert len(report["reward_by_length"]) == 4


def test_the_loss_of_a_hopeless_pair_is_its_distance() -> None:
    """Where the exponential would overflow."""
    assert evaluate([scored((1, 2), (0.0, 2000.0))])["loss"] == 2000.0
    assert evaluate([scored((1, 2), (2000.0, 0.0))])["loss"] == 0.0


def test_the_interval_is_of_prompts_and_not_of_pairs() -> None:
    """Ten prompts of ten pairs, half of them all right and half all wrong: as uncertain as ten pairs, whose standard
    deviation is sqrt(0.25 / 10), and not as a hundred."""
    grouped = interval([[pair(1.0, is_right=even)] * 10 for even in (True, False) * 5])
    deviation = math.sqrt(0.25 / 10)
    assert grouped[0] == pytest.approx(0.5 - 1.96 * deviation, abs=0.06)
    assert grouped[1] == pytest.approx(0.5 + 1.96 * deviation, abs=0.06)
    assert grouped == interval([[pair(1.0, is_right=even)] * 10 for even in (True, False) * 5])


def test_the_interval_of_what_is_always_right_is_a_point() -> None:
    assert interval([[pair(1.0)], [pair(2.0)]]) == (1.0, 1.0)
    assert BOOTSTRAPS >= 1000


def test_calibration_by_hand() -> None:
    """log 3 apart is sure to three quarters, bin 5 of 10; equal is a half, bin 0; far apart is bin 9."""
    three = math.log(3)
    bins = calibration([pair(three), pair(three), pair(three), pair(three, is_right=False), pair(0.0), pair(900.0)])
    assert [each["pairs"] for each in bins] == [1, 4, 1]
    assert [each["predicted"] for each in bins] == pytest.approx([0.5, 0.75, 1.0])
    assert [each["observed"] for each in bins] == [0.0, 0.75, 1.0]


def test_not_all_points_are_kept() -> None:
    some = [scored((1, 2, 3, 4), (3.0, 2.0, 1.0, 0.0))] * (MAX_POINTS // 4 + 5)
    assert len(evaluate(some)["reward_by_length"]) == MAX_POINTS
