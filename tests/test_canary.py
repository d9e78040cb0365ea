"""Who gets a candidate, and what is decided about it: numbers worked out by hand, and games of chance."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from honed.server.canary import MIN_VOTES, Rules, Seen, Step, decide, difference, gets_candidate
from honed.server.served import Outcomes
from honed.server.settings import WHOLE_SHARE
from honed.server.store.promotions import StoredPromotion
from honed.server.store.thumbs import Thumbs

RULES = Rules(step_s=3600, min_answers=20, shares=(1, 10, 50))
NOTHING = Seen(Thumbs(), Outcomes())
USERS = [f"user {number}" for number in range(5000)]


def tried(share: int = 10, *, advances: bool = True) -> StoredPromotion:
    return StoredPromotion(
        number=3, created=datetime(2026, 1, 1, tzinfo=UTC), policy_id="a", returns_to=0,
        candidate_id="b", share=share, advances=advances,
    )  # fmt: skip


def decided(candidate: Seen, current: Seen, *, answers: int = 0, seconds: float = 0, share: int = 10) -> Step | None:
    return decide(tried(share), RULES, candidate, current, answers=answers, seconds=seconds)


def liked(up: int, down: int) -> Seen:
    return Seen(Thumbs(up, down), Outcomes())


def failing(failed: int, answered: int) -> Seen:
    return Seen(Thumbs(), Outcomes(answered, failed))


def test_a_user_has_one_policy_however_often_and_wherever_it_is_asked() -> None:
    first = [gets_candidate("ckpt-1", 30, user) for user in USERS]
    assert first == [gets_candidate("ckpt-1", 30, user) for user in USERS]
    assert [gets_candidate("ckpt-1", 50, each) for each in ("ann", "ben", "cleo", "\ud800", "")] == [
        True, False, False, True, True
    ], "servers of another version agree"  # fmt: skip


@pytest.mark.parametrize("share", [1, 10, 50, 99])
def test_the_share_is_that_of_the_users(share: int) -> None:
    chosen = sum(gets_candidate("ckpt-1", share, user) for user in USERS)
    assert abs(chosen / len(USERS) - share / 100) < 0.03
    drawn = sum(gets_candidate("ckpt-1", share, None) for _ in USERS)
    assert abs(drawn / len(USERS) - share / 100) < 0.04, "more than five standard errors"


def test_all_or_nobody() -> None:
    for user in (*USERS[:100], None):
        assert gets_candidate("ckpt-1", 100, user)
        assert not gets_candidate("ckpt-1", 0, user)


def test_who_has_it_keeps_it_while_the_share_grows() -> None:
    shares = (1, 10, 50, 100)
    for user in USERS:
        got = [gets_candidate("ckpt-1", share, user) for share in shares]
        assert got == sorted(got)


def test_another_candidate_is_given_to_others() -> None:
    one, two = ({user for user in USERS if gets_candidate(each, 10, user)} for each in ("ckpt-1", "ckpt-2"))
    assert len(one & two) < len(one) / 2


def test_the_interval_of_a_difference() -> None:
    """The first two rows of table II of Newcombe's paper, method 10: 56/70 less 48/80, 9/10 less 3/10."""
    assert difference(56, 70, 48, 80, z=1.959964) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference(9, 10, 3, 10, z=1.959964) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    below, above = difference(48, 80, 56, 70, z=1.959964)
    assert (below, above) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_nothing_is_decided_of_nothing() -> None:
    assert decided(NOTHING, NOTHING) is None
    few = MIN_VOTES - 1
    assert decided(liked(0, few), liked(1000, 0)) is None
    assert decided(liked(0, 1000), liked(few, 0)) is None
    assert decided(failing(few, 0), failing(0, 1000)) is None
    assert decided(failing(1000, 0), failing(0, few)) is None


def test_one_that_users_like_less_is_taken_out() -> None:
    step = decided(liked(8, 32), liked(300, 100))
    assert step == Step(0, "Users like it less: thumbs up 8 of 40, against 300 of 400.")
    assert decided(liked(300, 100), liked(8, 32)) is None, "better is not worse"
    assert decided(liked(26, 14), liked(300, 100)) is None, "it may be chance"


def test_one_that_fails_more_often_is_taken_out() -> None:
    assert decided(failing(10, 10), failing(0, 100)) == Step(
        0, "It fails more often: 10 of 20 answers, against 0 of 100."
    )
    assert decided(failing(0, 100), failing(10, 10)) is None
    assert decided(failing(1, 99), failing(0, 100)) is None


def test_it_is_taken_out_also_when_it_was_to_advance() -> None:
    step = decided(liked(8, 32), liked(300, 100), answers=1000, seconds=1e6)
    assert step is not None
    assert step.share == 0


@pytest.mark.parametrize(
    ("share", "following"), [(1, 10), (10, 50), (50, WHOLE_SHARE), (3, 10), (70, WHOLE_SHARE), (100, WHOLE_SHARE)]
)
def test_shares_grow_to_a_promotion(share: int, following: int) -> None:
    step = decided(NOTHING, NOTHING, answers=20, seconds=3600, share=share)
    assert step is not None
    assert step.share == following
    assert f"{share} % of the users" in step.reason


def test_shares_grow_after_a_time_and_answers_and_where_that_is_wanted() -> None:
    assert decided(NOTHING, NOTHING, answers=19, seconds=1e6) is None
    assert decided(NOTHING, NOTHING, answers=1000, seconds=3599) is None
    fixed = tried(advances=False)
    assert decide(fixed, RULES, NOTHING, NOTHING, answers=1000, seconds=1e6) is None


def is_taken_out(chance: random.Random, candidate: float, current: float, votes: int) -> bool:
    """Whether a policy that is liked with a probability is ever, looked at after each vote on both."""
    ups = [0, 0]
    for number in range(1, votes + 1):
        ups = [up + (chance.random() < rate) for up, rate in zip(ups, (candidate, current), strict=True)]
        if decided(*(liked(up, number - up) for up in ups)) is not None:
            return True
    return False


def test_looking_again_and_again_takes_few_good_ones_out_and_most_bad_ones() -> None:
    chance = random.Random(1)

    def play(candidate: float, games: int) -> int:
        return sum(is_taken_out(chance, candidate, 0.7, 1000) for _ in range(games))

    assert play(0.7, 300) <= 9, "three in a hundred"
    assert play(0.75, 100) <= 1
    assert play(0.5, 100) >= 99
