"""A policy that is tried out beside the one in service: who gets it, what is seen of it, and what follows from that.

`gets_candidate` says whose requests it answers, `decide` what shall become of it: pure functions both. `Watch` gathers
what `decide` goes by: thumbs from the store, so those of all its servers, and answers that failed, which are counted in
this server's memory only; so each server judges failures by its own requests, and one that was restarted counts anew.
What it writes down is followed by `policies.py`, as any promotion is. Invariants: only requests for `honed` count, for
who names a policy is no sample of the users; of several servers that decide at once one is heard; a user who got the
candidate keeps it while its share grows; all servers agree on who that is.

Votes and answers are taken to be independent. They are looked at again and again, so an interval has to be three
standard errors wide before it counts. Of equal policies, looked at after each of 1,000 votes a side, two or three in a
hundred are rolled back (`tests/test_canary.py` plays it); with two standard errors it would be one in five.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from math import sqrt
from typing import Final

from sqlalchemy import Connection

from honed.server.engines import Engines
from honed.server.served import Outcomes, ServedPolicy
from honed.server.settings import WHOLE_SHARE, Settings
from honed.server.storage import Storage
from honed.server.store import promotions, thumbs
from honed.server.store.promotions import PromotedMeanwhileError, StoredPromotion
from honed.server.store.statistics import proportion
from honed.server.store.thumbs import Thumbs

logger = logging.getLogger(__name__)

Z: Final = 3.0
MIN_VOTES: Final = 20  # and answers, on each side, before they are compared


@dataclass(frozen=True, slots=True)
class Step:
    """`share`: the candidate's next one; WHOLE_SHARE is a promotion, 0 a rollback."""

    share: int
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a policy, since the candidate began to be tried out."""

    thumbs: Thumbs
    outcomes: Outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When the share grows: after so many seconds and answers in the last one; and through which shares, ascending."""

    step_s: float
    min_answers: int
    shares: Sequence[int]


def gets_candidate(candidate_id: str, share: int, user: str | None) -> bool:
    """Whether the candidate answers. By the user, where the request names one, else drawn anew."""
    if user is None:
        return secrets.randbelow(100) < share
    digest = blake2b(f"{candidate_id}:{user}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < share


def difference(hits: int, total: int, other_hits: int, other_total: int, z: float = Z) -> tuple[float, float]:
    """The interval of the first share less the second, of two independent samples, none empty: Newcombe's hybrid of
    Wilson's intervals (Statistics in Medicine 17, 1998, pages 873 to 890, method 10)."""
    one, other = proportion(hits, total, z), proportion(other_hits, other_total, z)
    assert one is not None, "there is a sample"
    assert other is not None, "there is a sample"
    apart = one.share - other.share
    below = sqrt((one.share - one.low) ** 2 + (other.high - other.share) ** 2)
    above = sqrt((one.high - one.share) ** 2 + (other.share - other.low) ** 2)
    return apart - below, apart + above


def decide(
    promotion: StoredPromotion, rules: Rules, candidate: Seen, current: Seen, *, answers: int, seconds: float
) -> Step | None:
    """What follows; None where all stays as it is. `answers`: the candidate's since it has this share, which was
    `seconds` ago."""
    worse = _liked_less(candidate.thumbs, current.thumbs) or _fails_more(candidate.outcomes, current.outcomes)
    if worse is not None:
        return Step(0, worse)
    if not promotion.advances or seconds < rules.step_s or answers < rules.min_answers:
        return None
    share = next((share for share in rules.shares if share > promotion.share), WHOLE_SHARE)
    seen = f"{answers} answers in {seconds:.0f} s to {promotion.share} % of the users"
    return Step(share, f"After {seen} it is not found to be worse.")


def _liked_less(candidate: Thumbs, current: Thumbs) -> str | None:
    if min(candidate.total, current.total) < MIN_VOTES:
        return None
    _, above = difference(candidate.up, candidate.total, current.up, current.total)
    if above >= 0:
        return None
    ups = _of(candidate.up, candidate.total), _of(current.up, current.total)
    return f"Users like it less: thumbs up {ups[0]}, against {ups[1]}."


def _fails_more(candidate: Outcomes, current: Outcomes) -> str | None:
    if min(candidate.total, current.total) < MIN_VOTES:
        return None
    below, _ = difference(candidate.failed, candidate.total, current.failed, current.total)
    if below <= 0:
        return None
    return (
        f"It fails more often: {_of(candidate.failed, candidate.total)} answers, against "
        f"{_of(current.failed, current.total)}."
    )


def _of(hits: int, total: int) -> str:
    return f"{hits} of {total}"


class Watch:
    """Over the candidate, which is the engines'. `thumbs`: on it and on the policy in service, by id, as answers to
    requests for `honed` since it began to be tried out, as of the last look."""

    def __init__(self, settings: Settings, storage: Storage, engines: Engines) -> None:
        self.thumbs: dict[str, Thumbs] = {}
        self._rules = Rules(
            step_s=settings.canary_step_s,
            min_answers=settings.canary_min_answers,
            shares=settings.canary_shares,
        )
        self._storage = storage
        self._engines = engines
        self._number: int | None = None  # the promotion that has given the candidate its share
        self._policies: tuple[ServedPolicy, ServedPolicy] | None = None
        self._began = self._step_began = (Outcomes(), Outcomes())

    def candidate_for(self, promotion: StoredPromotion, end_user: str | None) -> ServedPolicy | None:
        """The candidate, where it is to answer this user, and can."""
        candidate = self._engines.candidate
        if candidate is None or not candidate.is_alive:
            return None
        return candidate if gets_candidate(candidate.policy.id, promotion.seen_share, end_user) else None

    def begin(self, candidate: ServedPolicy, promotion: StoredPromotion) -> None:
        """From here on its share of the users gets the candidate."""
        whose = f"{'unseen by' if promotion.is_shadow else 'for'} {promotion.share} % of the users"
        logger.info("%s (%s): %s by promotion %d", candidate.policy.name, candidate.policy.id, whose, promotion.number)
        self._engines.candidate = candidate

    def let_go(self, promotion: StoredPromotion) -> None:
        """Gives up the candidate where this promotion, which is to be followed, has nothing to do with it: its place
        may be needed."""
        candidate = self._engines.candidate
        if candidate is not None and candidate.policy.id not in (promotion.policy_id, promotion.candidate_id):
            self._engines.candidate = None
        if promotion.candidate_id is None:
            self.thumbs, self._number, self._policies = {}, None, None

    async def look(self, promotion: StoredPromotion, candidate: ServedPolicy, current: ServedPolicy) -> Step | None:
        """Raises StoreUnavailable."""
        if not candidate.is_alive:
            return Step(0, "Its engine has stopped; the log says why.")
        self._note(promotion, candidate, current)
        ids = (candidate.policy.id, current.policy.id)
        self.thumbs = await self._storage.read(_count, promotion, ids)
        assert promotion.created is not None, "it has a candidate"
        return decide(
            promotion,
            self._rules,
            Seen(self.thumbs[ids[0]], candidate.outcomes - self._began[0]),
            Seen(self.thumbs[ids[1]], current.outcomes - self._began[1]),
            answers=(candidate.outcomes - self._step_began[0]).answered,
            seconds=(datetime.now(UTC) - promotion.created).total_seconds(),
        )

    async def carry_out(self, step: Step, promotion: StoredPromotion, candidate_id: str) -> StoredPromotion | None:
        """Writes down what was decided; None where another server was first. Raises StoreUnavailable."""
        write, reason, number = self._storage.write, step.reason, promotion.number
        try:
            if step.share == 0:
                made = await write(promotions.roll_back, promotion, key_id=None, reason=reason)
            elif step.share == WHOLE_SHARE:
                made = await write(promotions.promote, candidate_id, key_id=None, reason=reason, expected=number)
            else:
                made = await write(
                    promotions.try_out,
                    candidate_id,
                    share=step.share,
                    advances=True,
                    key_id=None,
                    reason=reason,
                    expected=number,
                )
        except PromotedMeanwhileError:
            return None
        level = logging.WARNING if step.share == 0 else logging.INFO
        logger.log(level, "%s: from %d %% to %d %%. %s", candidate_id, promotion.share, step.share, step.reason)
        return made

    def _note(self, promotion: StoredPromotion, candidate: ServedPolicy, current: ServedPolicy) -> None:
        """From when on outcomes are counted."""
        now = (candidate.outcomes, current.outcomes)
        if self._policies != (candidate, current):
            self._policies, self._began = (candidate, current), now
        if self._number != promotion.number:
            self._number, self._step_began = promotion.number, now


def _count(connection: Connection, promotion: StoredPromotion, policy_ids: tuple[str, ...]) -> dict[str, Thumbs]:
    found = thumbs.count_since(connection, policy_ids, promotions.tried_since(connection, promotion))
    return {policy_id: found.get(policy_id, Thumbs()) for policy_id in policy_ids}
