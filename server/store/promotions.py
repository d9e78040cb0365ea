"""Promotions: which policy is in service, what was before, and the way back. Every query on `promotions`.

A rollback is a promotion too, of the policy that was in service before. It goes down the row: what was rolled back is
not come back to by another rollback. Invariant: the newest row is the answer, whoever asks and whatever died meanwhile;
policies are named by their checkpoints' ids, None for the one that a server's own settings name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from honed.server.store.tables import Promotion


class PromotedMeanwhileError(Exception):
    """The promotion that was to be rolled back is no longer the newest."""


class NothingBeforeError(Exception):
    """No policy was in service before this one, or all were rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPromotion:
    number: int
    policy_id: str | None
    returns_to: int | None


_BEGINNING: Final = StoredPromotion(number=0, policy_id=None, returns_to=None)


def newest(connection: Connection) -> StoredPromotion:
    """The one that holds."""
    row = connection.execute(select(*_columns()).order_by(Promotion.number.desc()).limit(1)).one_or_none()
    return _BEGINNING if row is None else StoredPromotion(**row._asdict())


def before(connection: Connection, promotion: StoredPromotion) -> StoredPromotion:
    """What a rollback of `promotion` brings back. Raises NothingBeforeError."""
    if promotion.returns_to is None:
        raise NothingBeforeError
    if promotion.returns_to == _BEGINNING.number:
        return _BEGINNING
    row = connection.execute(select(*_columns()).where(Promotion.number == promotion.returns_to)).one()
    return StoredPromotion(**row._asdict())


def promote(connection: Connection, policy_id: str | None, *, key_id: str | None) -> StoredPromotion:
    """Puts a policy into service; nothing happens where it is. Of two at once the later one holds. In a transaction
    that writes."""
    while True:
        last = newest(connection)
        if last.policy_id == policy_id:
            return last
        try:
            return _add(connection, last, policy_id, returns_to=last.number, key_id=key_id)
        except PromotedMeanwhileError:
            continue


def roll_back(connection: Connection, promotion: StoredPromotion, *, key_id: str | None) -> StoredPromotion:
    """Puts the policy into service that was before `promotion`, the newest. In a transaction that writes. Raises
    PromotedMeanwhileError and NothingBeforeError."""
    last = newest(connection)
    if last.number != promotion.number:
        raise PromotedMeanwhileError
    target = before(connection, last)
    return _add(connection, last, target.policy_id, returns_to=target.returns_to, key_id=key_id)


def _add(
    connection: Connection, last: StoredPromotion, policy_id: str | None, *, returns_to: int | None, key_id: str | None
) -> StoredPromotion:
    """The promotion after `last`. Raises PromotedMeanwhileError where another came first."""
    row = {
        "number": last.number + 1,
        "created": datetime.now(UTC),
        "policy_id": policy_id,
        "replaced_id": last.policy_id,
        "returns_to": returns_to,
        "key_id": key_id,
    }
    try:
        with connection.begin_nested():
            connection.execute(insert(Promotion).values(**row))
    except IntegrityError:
        if newest(connection).number == last.number:
            raise
        raise PromotedMeanwhileError from None
    return StoredPromotion(number=last.number + 1, policy_id=policy_id, returns_to=returns_to)


def _columns() -> list[Any]:
    return [Promotion.number, Promotion.policy_id, Promotion.returns_to]
