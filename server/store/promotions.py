"""Promotions: which policy is in service, which one is tried out beside it, what was before, and the way back. Every
query on `promotions`.

A rollback is a promotion too, of the policy that was in service before. It goes down the row: what was rolled back is
not come back to by another rollback. A policy that is tried out (the candidate) gets a share of the users, and is
promoted or taken out; each change is a row. Invariant: the newest row alone is the answer, whoever asks and whatever
died meanwhile; policies are named by their checkpoints' ids, None for the one that a server's own settings name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from honed.server.store.tables import Checkpoint, Promotion


class PromotedMeanwhileError(Exception):
    """The promotion that was to be changed is no longer the newest."""


class NothingBeforeError(Exception):
    """No policy was in service before this one, or all were rolled back."""


class InServiceError(Exception):
    """The policy that is in service cannot be tried out beside itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPromotion:
    """`share`: per cent of the users who get the candidate; 0 without one. `advances`: whether the share grows by
    itself. `is_shadow`: the candidate answers them too, and they do not see it. `created`: None of what was before the
    first."""

    number: int
    created: datetime | None
    policy_id: str | None
    returns_to: int | None
    candidate_id: str | None = None
    share: int = 0
    advances: bool = False
    is_shadow: bool = False

    @property
    def seen_share(self) -> int:
        """Of the users to whom the candidate's answers go."""
        return 0 if self.is_shadow else self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A promotion for people to read. `policy` and `candidate` are checkpoints' names; `policy` is None for what a
    server's own settings name."""

    number: int
    created: datetime
    policy: str | None
    candidate: str | None
    share: int
    is_shadow: bool
    reason: str | None


_BEGINNING: Final = StoredPromotion(number=0, created=None, policy_id=None, returns_to=None)


def newest(connection: Connection) -> StoredPromotion:
    """The one that holds."""
    row = connection.execute(select(*_columns()).order_by(Promotion.number.desc()).limit(1)).one_or_none()
    return _BEGINNING if row is None else StoredPromotion(**row._asdict())


def before(connection: Connection, promotion: StoredPromotion) -> StoredPromotion:
    """What a rollback of `promotion` brings back; that is the same policy where only a candidate is taken out. Raises
    NothingBeforeError."""
    if promotion.candidate_id is not None:
        return promotion
    if promotion.returns_to is None:
        raise NothingBeforeError
    if promotion.returns_to == _BEGINNING.number:
        return _BEGINNING
    row = connection.execute(select(*_columns()).where(Promotion.number == promotion.returns_to)).one()
    return StoredPromotion(**row._asdict())


def promote(
    connection: Connection,
    policy_id: str | None,
    *,
    key_id: str | None,
    reason: str | None = None,
    expected: int | None = None,
) -> StoredPromotion:
    """Puts a policy into service, and ends whatever is tried out; nothing happens where that is so. Of two at once the
    later one holds, unless `expected` says which promotion is to be the newest. In a transaction that writes. Raises
    PromotedMeanwhileError where another is."""
    while True:
        last = _expected(connection, expected)
        if last.policy_id == policy_id and last.candidate_id is None:
            return last
        returns_to = last.returns_to if last.policy_id == policy_id else last.number
        row = {"policy_id": policy_id, "returns_to": returns_to, "key_id": key_id, "reason": reason}
        try:
            return _add(connection, last, row)
        except PromotedMeanwhileError:
            continue


def try_out(
    connection: Connection,
    candidate_id: str,
    *,
    share: int,
    advances: bool,
    is_shadow: bool = False,
    key_id: str | None,
    reason: str | None = None,
    expected: int | None = None,
) -> StoredPromotion:
    """Gives `share` per cent of the users to a candidate, in the place of another where there is one; `is_shadow`: to
    answer them unseen. Of two at once the later one holds, unless `expected` says which promotion is to be the newest.
    In a transaction that writes. Raises InServiceError, and PromotedMeanwhileError where another is the newest."""
    assert 0 < share <= 100, share
    assert not (is_shadow and advances), "what nobody sees is found neither good nor bad by users"
    while True:
        last = _expected(connection, expected)
        if last.policy_id == candidate_id:
            raise InServiceError
        row = {
            "policy_id": last.policy_id,
            "returns_to": last.returns_to,
            "candidate_id": candidate_id,
            "share": share,
            "advances": advances,
            "is_shadow": is_shadow,
            "key_id": key_id,
            "reason": reason,
        }
        try:
            return _add(connection, last, row)
        except PromotedMeanwhileError:
            continue


def roll_back(
    connection: Connection, promotion: StoredPromotion, *, key_id: str | None, reason: str | None = None
) -> StoredPromotion:
    """Takes the candidate of `promotion`, the newest, out; where it has none, puts the policy into service that was
    before. In a transaction that writes. Raises PromotedMeanwhileError and NothingBeforeError."""
    last = _expected(connection, promotion.number)
    target = before(connection, last)
    row = {"policy_id": target.policy_id, "returns_to": target.returns_to, "key_id": key_id, "reason": reason}
    return _add(connection, last, row)


def tried_since(connection: Connection, promotion: StoredPromotion) -> datetime:
    """When the candidate of `promotion` began to be tried out, seen or unseen as it is: the first of the promotions
    without a gap that have it."""
    assert promotion.candidate_id is not None
    another = or_(
        Promotion.candidate_id.is_(None),
        Promotion.candidate_id != promotion.candidate_id,
        Promotion.is_shadow != promotion.is_shadow,
    )
    last_without = select(func.max(Promotion.number)).where(another, Promotion.number < promotion.number)
    number = connection.execute(last_without).scalar_one() or _BEGINNING.number
    began: datetime = connection.execute(select(Promotion.created).where(Promotion.number == number + 1)).scalar_one()
    return began


def history(connection: Connection, *, below: int | None, limit: int) -> tuple[Sequence[Change], bool]:
    """A page of all changes, the newest first, and whether more follow. `below`: the number that the last page ended
    with."""
    policy, candidate = aliased(Checkpoint), aliased(Checkpoint)
    query = (
        select(
            Promotion.number,
            Promotion.created,
            policy.name.label("policy"),
            candidate.name.label("candidate"),
            Promotion.share,
            Promotion.is_shadow,
            Promotion.reason,
        )
        .outerjoin(policy, policy.id == Promotion.policy_id)
        .outerjoin(candidate, candidate.id == Promotion.candidate_id)
        .order_by(Promotion.number.desc())
        .limit(limit + 1)
    )
    if below is not None:
        query = query.where(Promotion.number < below)
    found = [Change(**row._asdict()) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def _expected(connection: Connection, number: int | None) -> StoredPromotion:
    """The newest. Raises PromotedMeanwhileError where it is not the one that was expected."""
    last = newest(connection)
    if number is not None and last.number != number:
        raise PromotedMeanwhileError
    return last


def _add(connection: Connection, last: StoredPromotion, fields: dict[str, Any]) -> StoredPromotion:
    """The promotion after `last`. Raises PromotedMeanwhileError where another came first."""
    nobody = {"candidate_id": None, "share": 0, "advances": False, "is_shadow": False}
    row = nobody | fields | {"number": last.number + 1, "created": datetime.now(UTC), "replaced_id": last.policy_id}
    try:
        with connection.begin_nested():
            connection.execute(insert(Promotion).values(**row))
    except IntegrityError:
        if newest(connection).number == last.number:
            raise
        raise PromotedMeanwhileError from None
    return StoredPromotion(**{column.key: row[column.key] for column in _columns()})


def _columns() -> list[Any]:
    return [
        Promotion.number,
        Promotion.created,
        Promotion.policy_id,
        Promotion.returns_to,
        Promotion.candidate_id,
        Promotion.share,
        Promotion.advances,
        Promotion.is_shadow,
    ]
