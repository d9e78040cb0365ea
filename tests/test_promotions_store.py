"""The rows that say which policy is in service."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from databases import Postgres
from policies_server import Home
from sqlalchemy import Engine, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from honed.server.store import migrations, promotions
from honed.server.store.database import database_url, open_database, reading, writing
from honed.server.store.migrations import migrate
from honed.server.store.promotions import (
    InServiceError,
    NothingBeforeError,
    PromotedMeanwhileError,
    StoredPromotion,
)
from honed.server.store.tables import Promotion


@pytest.fixture
def checkpoints(store_url: URL, tmp_path: Path) -> dict[str, str]:
    """Ids by name, of three in the store."""
    home = Home.at(tmp_path / "home", store_url)
    for name in ("a", "b", "c"):
        home.add(name)
    return home.ids


def in_store(store: Engine, change: str, *arguments: object, **options: object) -> StoredPromotion:
    with writing(store) as connection:
        made: StoredPromotion = getattr(promotions, change)(connection, *arguments, key_id="key-1", **options)
    return made


def try_out(store: Engine, candidate_id: str, share: int = 10, **options: object) -> StoredPromotion:
    return in_store(store, "try_out", candidate_id, **({"share": share, "advances": False} | options))


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


def test_a_candidate_comes_in_beside_the_current_policy(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    first = in_store(store, "promote", a)
    row = try_out(store, b, 10, advances=True)
    assert (row.policy_id, row.candidate_id, row.share, row.advances) == (a, b, 10, True)
    assert (row.number, row.returns_to) == (first.number + 1, first.returns_to)
    assert row.created is not None
    with pytest.raises(InServiceError):
        try_out(store, a)
    assert newest(store) == row


def test_a_candidate_is_promoted_and_rolled_back(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    in_store(store, "promote", a)
    try_out(store, b)
    row = in_store(store, "promote", b)
    assert (row.policy_id, row.candidate_id, row.share) == (b, None, 0)
    back = in_store(store, "roll_back", row)
    assert (back.policy_id, back.candidate_id) == (a, None), "what was tried out is not tried out again"
    assert in_store(store, "roll_back", back).policy_id is None


def test_a_rollback_takes_only_the_candidate_out(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, c = checkpoints.values()
    in_store(store, "promote", a)
    in_store(store, "promote", b)
    row = in_store(store, "roll_back", try_out(store, c))
    assert (row.policy_id, row.candidate_id, row.share) == (b, None, 0)
    assert newest(store) == row
    assert in_store(store, "roll_back", row).policy_id == a


def test_promoting_what_is_current_ends_what_is_tried_out(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    in_store(store, "promote", a)
    tried = try_out(store, b)
    row = in_store(store, "promote", a)
    assert (row.number, row.policy_id, row.candidate_id) == (tried.number + 1, a, None)
    assert in_store(store, "promote", a) == row
    assert in_store(store, "roll_back", row).policy_id is None, "it is no way back to itself"


def test_another_policy_in_service_ends_what_is_tried_out(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, c = checkpoints.values()
    in_store(store, "promote", a)
    try_out(store, b)
    row = in_store(store, "promote", c)
    assert (row.policy_id, row.candidate_id) == (c, None)
    assert in_store(store, "roll_back", row).policy_id == a


def test_the_settings_own_policy_may_have_a_candidate(store: Engine, checkpoints: dict[str, str]) -> None:
    a, _, _ = checkpoints.values()
    row = try_out(store, a)
    assert (row.policy_id, row.candidate_id) == (None, a)
    back = in_store(store, "roll_back", row)
    with pytest.raises(NothingBeforeError):
        in_store(store, "roll_back", back)


def test_what_is_no_longer_expected_is_refused(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, c = checkpoints.values()
    row = try_out(store, a)
    other = try_out(store, b)
    for change in (
        lambda: try_out(store, a, 50, expected=row.number),
        lambda: in_store(store, "promote", a, expected=row.number),
        lambda: in_store(store, "roll_back", row),
    ):
        with pytest.raises(PromotedMeanwhileError):
            change()
    assert newest(store) == other
    assert try_out(store, c, 50, expected=other.number).candidate_id == c


def test_of_many_that_advance_at_once_one_does(store: Engine, checkpoints: dict[str, str]) -> None:
    a, _, _ = checkpoints.values()
    row = try_out(store, a, 1)

    def advance(_: int) -> bool:
        try:
            try_out(store, a, 10, expected=row.number)
        except PromotedMeanwhileError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(advance, range(12))) == 1
    assert newest(store).number == row.number + 1


def test_since_when_a_candidate_is_tried_out(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    rows = [try_out(store, a, 1)]
    rows.append(in_store(store, "roll_back", rows[-1]))
    rows += [try_out(store, a, share) for share in (1, 10, 50)]
    rows.append(try_out(store, b))
    rows += [try_out(store, a, 10, is_shadow=is_shadow) for is_shadow in (True, True, False)]
    with reading(store) as connection:
        began = [promotions.tried_since(connection, row) for row in rows if row.candidate_id is not None]
    created = [row.created for row in rows]
    assert began == [*(created[number] for number in (0, 2, 2, 2, 5, 6, 6, 8))]


def test_a_candidate_in_the_shadow_has_no_users(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    row = try_out(store, a, 30, is_shadow=True)
    assert (row.share, row.seen_share, newest(store)) == (30, 0, row)
    assert (seen := try_out(store, b, 30)).seen_share == 30
    assert not in_store(store, "roll_back", seen).is_shadow
    with reading(store) as connection:
        page, _ = promotions.history(connection, below=None, limit=3)
    assert [change.is_shadow for change in page] == [False, False, True]


def test_the_history_is_for_people(store: Engine, checkpoints: dict[str, str]) -> None:
    a, b, _ = checkpoints.values()
    try_out(store, a, 1, advances=True)
    try_out(store, a, 50, reason="It is not worse.")
    in_store(store, "promote", a)
    in_store(store, "roll_back", try_out(store, b), reason="Its engine has stopped.")
    with reading(store) as connection:
        page, has_more = promotions.history(connection, below=None, limit=3)
        rest, has_rest = promotions.history(connection, below=page[-1].number, limit=3)
    shown = [(row.number, row.policy, row.candidate, row.share, row.reason) for row in (*page, *rest)]
    assert shown == [
        (5, "a", None, 0, "Its engine has stopped."),
        (4, "a", "b", 10, None),
        (3, "a", None, 0, None),
        (2, None, "a", 50, "It is not worse."),
        (1, None, "a", 1, None),
    ]
    assert (has_more, has_rest) == (True, False)


def test_the_migration_keeps_what_was_promoted(tmp_path: Path, postgres: Postgres) -> None:
    for url in (database_url(None, tmp_path), postgres.new_database()):
        engine = open_database(url)
        with writing(engine) as connection:
            config = migrations._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "m0003")
            connection.execute(
                text("INSERT INTO promotions (number, created, returns_to) VALUES (1, '2026-01-01 00:00:00', 0)")
            )
        migrate(engine)
        row = newest(engine)
        assert (row.number, row.returns_to, row.candidate_id, row.share, row.advances) == (1, 0, None, 0, False)
        assert row.is_shadow is False
        with reading(engine) as connection:
            ((change,), _) = promotions.history(connection, below=None, limit=1)
        assert change.reason is None
        engine.dispose()
