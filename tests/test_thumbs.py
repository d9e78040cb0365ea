"""Thumbs by policy: whose word counts, since when, and along which index."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from completions import add, logged
from query_plans import plan
from sqlalchemy import Engine

from honed.server.store import feedback, thumbs
from honed.server.store.database import reading, writing
from honed.server.store.feedback import Kind, NewFeedback
from honed.server.store.thumbs import Thumbs

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def judge(
    store: Engine, completion_id: str, number: int, *, choice: int = 0, kind: Kind = "thumb", **author: str
) -> None:
    """`author`: key_id and labeler."""
    time.sleep(0.002)  # words of one millisecond have no order
    new = NewFeedback(
        completion_id=completion_id,
        choice=choice,
        kind=kind,
        source="user",
        number=number,
        key_id=author.get("key_id", "key-1"),
        labeler=author.get("labeler"),
    )
    with writing(store) as connection:
        feedback.add(connection, new, scope=None)


def counted(store: Engine) -> dict[str, Thumbs]:
    with reading(store) as connection:
        return thumbs.count(connection)


def counted_since(store: Engine, since: datetime, *policy_ids: str) -> dict[str, Thumbs]:
    with reading(store) as connection:
        return thumbs.count_since(connection, policy_ids, since)


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def test_nothing_is_nothing(store: Engine) -> None:
    assert counted(store) == counted_since(store, NOON, "a", "b") == {}


def test_thumbs_are_the_policys_that_answered(store: Engine) -> None:
    for policy_id, numbers in {"a": (1, 1, 0), "b": (0,)}.items():
        for number in numbers:
            judge(store, add(store, policy_id=policy_id, assigned=True), number)
    judge(store, add(store, policy_id="b", assigned=True), 7, kind="rating")
    expected = {"a": Thumbs(up=2, down=1), "b": Thumbs(up=0, down=1)}
    assert counted(store) == expected
    assert counted_since(store, an_hour_ago(), "a", "b") == expected
    assert counted_since(store, an_hour_ago(), "b", "c") == {"b": expected["b"]}


def test_the_newest_word_of_each_person_on_each_answer_counts(store: Engine) -> None:
    answered = add(store, "Q", "one", "two", policy_id="a", assigned=True)
    for number in (1, 1, 0):
        judge(store, answered, number)
    assert counted(store) == {"a": Thumbs(up=0, down=1)}
    judge(store, answered, 1, key_id="key-2")
    judge(store, answered, 1, labeler="ann")
    judge(store, answered, 1, labeler="ben")
    judge(store, answered, 0, labeler="ben")
    judge(store, answered, 1, choice=1)
    judge(store, answered, 1, kind="rating")
    assert counted(store) == {"a": Thumbs(up=3, down=2)}


def test_where_policies_are_compared_labelers_of_one_key_are_one(store: Engine) -> None:
    answered = add(store, "Q", "one", "two", policy_id="a", assigned=True)
    for number in range(5):
        judge(store, answered, 0, labeler=f"labeler {number}")
    assert counted_since(store, an_hour_ago(), "a") == {"a": Thumbs(down=1)}
    judge(store, answered, 1)
    assert counted_since(store, an_hour_ago(), "a") == {"a": Thumbs(up=1)}, "the newest word"
    judge(store, answered, 0, choice=1)
    judge(store, answered, 0, key_id="key-2")
    assert counted_since(store, an_hour_ago(), "a") == {"a": Thumbs(up=1, down=2)}
    assert counted(store) == {"a": Thumbs(up=1, down=7)}


def test_only_what_was_answered_since_then_counts_where_the_server_chose_the_policy(store: Engine) -> None:
    """Not what is said now of an old answer, nor of one that was asked of this policy by its name, nor of what was made
    for labelers."""
    now = datetime.now(UTC)
    old = logged(policy_id="a").created_s - 7200
    judge(store, add(store, policy_id="a", assigned=True, created_s=old), 1)
    judge(store, add(store, policy_id="a"), 1)
    judge(store, add(store, policy_id="a", source="labeling"), 1)
    assert counted_since(store, now - timedelta(hours=1), "a") == {}
    assert counted_since(store, now - timedelta(hours=3), "a") == {"a": Thumbs(up=1)}
    judge(store, add(store, policy_id="a", assigned=True), 0)
    assert counted_since(store, now - timedelta(hours=1), "a") == {"a": Thumbs(down=1)}
    assert counted_since(store, now + timedelta(hours=1), "a") == {}


def test_counting_goes_along_indices(store: Engine) -> None:
    judge(store, add(store, policy_id="a"), 1)
    with reading(store) as connection:
        whole = plan(connection, thumbs.count_query())
        since = plan(connection, thumbs.count_since_query(["a", "b"], datetime.now(UTC)))
    assert "completions" not in whole, "their number does not matter"
    if store.dialect.name == "sqlite":  # PostgreSQL's choice depends on how many there are
        assert re.search(r"SEARCH feedback USING INDEX ix_feedback_kind_\w+ \(kind=\?\)", whole)
        assert re.search(r"SEARCH feedback USING INDEX \S+ \(\w+=\? AND id>\?\)", since)
    for how in (whole, since):
        assert "Seq Scan" not in how
        assert "SCAN feedback" not in how
        assert "SCAN completions" not in how
