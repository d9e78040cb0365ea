"""The rows that say which policy is in service."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from policies_server import Home
from sqlalchemy import Engine, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from honed.server.store import promotions
from honed.server.store.database import reading, writing
from honed.server.store.promotions import NothingBeforeError, PromotedMeanwhileError, StoredPromotion
from honed.server.store.tables import Promotion


@pytest.fixture
def checkpoints(store_url: URL, tmp_path: Path) -> dict[str, str]:
    """Ids by name, of three in the store."""
    home = Home.at(tmp_path / "home", store_url)
    for name in ("a", "b", "c"):
        home.add(name)
    return home.ids


def in_store(store: Engine, change: str, *arguments: object) -> StoredPromotion:
    with writing(store) as connection:
        made: StoredPromotion = getattr(promotions, change)(connection, *arguments, key_id="key-1")
    return made


def newest(store: Engine) -> StoredPromotion:
    with reading(store) as connection:
        return promotions.newest(connection)


def test_rollbacks_go_down_the_row(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, c = checkpoints.values()
    assert newest(store).policy_id is None
    for policy_id in (a, b, b, c):
        in_store(store, "promote", policy_id)
    for expected in (b, a):
        assert in_store(store, "roll_back", newest(store)).policy_id == expected
    in_store(store, "promote", c)
    for expected in (a, None):
        assert in_store(store, "roll_back", newest(store)).policy_id == expected
    with pytest.raises(NothingBeforeError):
        in_store(store, "roll_back", newest(store))
    with reading(store) as connection:
        columns = (Promotion.number, Promotion.replaced_id, Promotion.policy_id, Promotion.key_id)
        rows = connection.execute(select(*columns).order_by(Promotion.number)).all()
    steps = list(itertools.pairwise((None, a, b, c, b, a, c, a, None)))
    assert [tuple(row) for row in rows] == [(number + 1, *step, "key-1") for number, step in enumerate(steps)]


def test_only_the_newest_is_rolled_back(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    old = in_store(store, "promote", a)
    in_store(store, "promote", b)
    with pytest.raises(PromotedMeanwhileError):
        in_store(store, "roll_back", old)


def test_promotions_at_once_get_a_number_each(store: Engine, checkpoints: dict[str, str]) -> None:
    ids = list(checkpoints.values())
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda number: in_store(store, "promote", ids[number % 3]), range(60)))
    with reading(store) as connection:
        rows = connection.execute(
            select(Promotion.number, Promotion.policy_id, Promotion.replaced_id).order_by(Promotion.number)
        ).all()
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert [row.replaced_id for row in rows] == [None, *(row.policy_id for row in rows[:-1])]
    assert len(rows) > 10


def test_what_the_store_does_not_know_is_not_promoted(store: Engine) -> None:
    with pytest.raises(IntegrityError):
        in_store(store, "promote", "ckpt-nobodys")
