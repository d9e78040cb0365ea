"""Who gets which labeling task, and who does not, on both databases and on two servers at once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from completions import count
from databases import Postgres
from labeling_tasks import (
    NOW,
    TEXTS,
    make_task,
    say,
    take,
    taken,
    task_row,
    until_blocked,
)
from query_plans import plan
from sqlalchemy import Engine, select, text, update
from sqlalchemy.engine import URL

from honed.server.store import leases
from honed.server.store.database import open_database, reading, writing
from honed.server.store.leases import LABELS, LEASE_S, order_shown
from honed.server.store.tables import Assignment, Completion, Feedback
from honed.server.store.users import hash_user, set_consent

LATER = NOW + timedelta(seconds=LEASE_S)


def test_a_lease_shows_a_conversation_and_answers_in_an_order_of_the_labelers_own(store: Engine) -> None:
    tasks = [make_task(store, f"Question {number}", wanted=2) for number in range(12)]
    orders = set()
    for labeler in ("ada", "bob"):
        for task in tasks:
            lease = taken(store, labeler)
            assert lease == taken(store, labeler), "the same again"
            assert lease.task_id == task.id
            assert lease.messages == [{"role": "user", "content": f"Question {tasks.index(task)}"}]
            assert [answer.label for answer in lease.answers] == list(LABELS[:4])
            order = order_shown(task.id, labeler, range(4))
            assert [answer.text for answer in lease.answers] == [TEXTS[choice] for choice in order]
            orders.add(tuple(order))
            say(store, task.id, labeler)
    assert len(orders) > 5
    assert take(store, "ada") is None


def test_the_lot_is_fair() -> None:
    firsts = Counter(order_shown(f"task-{number}", "ada", range(4))[0] for number in range(4000))
    assert sorted(firsts) == [0, 1, 2, 3]
    assert all(abs(times - 1000) < 150 for times in firsts.values()), "five standard deviations"
    assert len({tuple(order_shown("task-1", f"labeler-{number}", range(4))) for number in range(500)}) == 24


def test_a_task_has_as_many_labelers_as_wanted(store: Engine) -> None:
    task = make_task(store, wanted=2)
    assert [take(store, name) is not None for name in ("ada", "bob", "cy")] == [True, True, False]
    say(store, task.id, "ada")
    assert take(store, "cy") is None, "who has judged keeps the seat"
    assert task_row(store, task.id).is_open
    say(store, task.id, "bob")
    assert not task_row(store, task.id).is_open
    assert take(store, "cy") is None


def test_a_lease_runs_out(store: Engine) -> None:
    task = make_task(store)
    lease = taken(store, "ada")
    assert lease.leased_until == NOW + timedelta(minutes=30)
    almost = LATER - timedelta(seconds=1)
    assert take(store, "bob", almost) is None
    assert taken(store, "ada", almost) == lease, "asking again does not prolong it"
    assert taken(store, "bob", LATER).task_id == task.id
    assert take(store, "ada", LATER) is None


def test_who_let_a_lease_run_out_may_take_the_task_again(store: Engine) -> None:
    task = make_task(store)
    taken(store, "ada")
    again = taken(store, "ada", LATER)
    assert (again.task_id, again.leased_until) == (task.id, LATER + timedelta(minutes=30))
    assert count(store, Assignment) == 1


def test_who_skips_leaves_the_seat_and_does_not_get_the_task_again(store: Engine) -> None:
    first, second = make_task(store, "One"), make_task(store, "Two")
    taken(store, "ada")
    say(store, first.id, "ada", "skip")
    assert task_row(store, first.id).is_open
    assert taken(store, "ada").task_id == second.id
    assert taken(store, "bob").task_id == first.id
    assert count(store, Feedback) == 0


def test_a_server_that_waited_counts_the_seats_again(store: Engine, store_url: URL) -> None:
    """Its query began while the seat was free; when it gets the row, somebody else has the seat."""
    got = _lease_while_another_does(store, store_url, wanted=1)
    assert got == [None]


def test_the_only_task_is_waited_for(store: Engine, store_url: URL) -> None:
    """It is locked by another labeler's lease, which leaves a seat."""
    (got,) = _lease_while_another_does(store, store_url, wanted=2)
    assert got is not None


def _lease_while_another_does(engine: Engine, url: URL, *, wanted: int) -> list[Any]:
    make_task(engine, wanted=wanted)
    other, got = open_database(url), []
    thread = Thread(target=lambda: got.append(take(other, "bob")))
    with writing(engine) as connection:
        assert leases.lease(connection, "ada", now=NOW) is not None
        thread.start()
        until_blocked(engine)
    thread.join()
    other.dispose()
    return got


def test_nobody_waits_for_a_task_while_there_is_another(postgres: Postgres) -> None:
    """SQLite has one writer at a time."""
    store_url = postgres.new_store()
    store = open_database(store_url)
    make_task(store, "One"), make_task(store, "Two")
    other = open_database(store_url)
    with writing(store) as first, writing(other) as second:
        second.execute(text("SET LOCAL lock_timeout = '10s'"))
        one, two = leases.lease(first, "ada", now=NOW), leases.lease(second, "bob", now=NOW)
    assert one is not None
    assert two is not None
    assert one.task_id < two.task_id
    other.dispose()
    store.dispose()


@pytest.mark.parametrize("wanted", [1, 3])
def test_many_labelers_on_two_servers(store: Engine, store_url: URL, wanted: int) -> None:
    """Each leases until there is nothing left, and ranks all: a seat that is taken is never free again."""
    other = open_database(store_url)
    tasks = [make_task(store, f"Question {number}", wanted=wanted) for number in range(10)]
    names = [f"labeler-{number}" for number in range(6)]
    start = Barrier(len(names))

    def work(name: str) -> list[str]:
        engine = store if names.index(name) % 2 else other
        got = []
        start.wait()
        while (lease := take(engine, name)) is not None:
            got.append(lease.task_id)
            say(engine, lease.task_id, name)
        return got

    with ThreadPoolExecutor(len(names)) as pool:
        gotten = list(pool.map(work, names))
    other.dispose()
    for got in gotten:
        assert len(got) == len(set(got)), "nobody gets a task twice"
    with reading(store) as connection:
        rows = connection.execute(select(Assignment.task_id, Assignment.state)).all()
    assert Counter(rows) == {(task.id, "ranked"): wanted for task in tasks}
    assert not any(task_row(store, task.id).is_open for task in tasks)
    assert count(store, Feedback) == 10 * wanted


def test_the_last_seats_are_given_once(store: Engine, store_url: URL) -> None:
    other = open_database(store_url)
    for number in range(5):
        task = make_task(store, f"Question {number}", wanted=3)
        start = Barrier(8)

        def lease(name: str, start: Barrier = start) -> Any:
            start.wait()
            return take(store if name < "e" else other, name)

        with ThreadPoolExecutor(8) as pool:
            got = [each for each in pool.map(lease, "abcdefgh") if each is not None]
        assert [each.task_id for each in got] == [task.id] * 3
        with writing(store) as connection:
            connection.execute(text("DELETE FROM tasks"))
    other.dispose()


def test_the_next_task_is_found_along_the_indices(store: Engine) -> None:
    for number in range(3):
        make_task(store, f"Question {number}")
    with reading(store) as connection:
        found = plan(connection, leases.next_query("ada", NOW, after=""))
    assert "ix_tasks_is_open_id" in found
    assert "Seq Scan" not in found
    assert "SCAN" not in found
    assert "TEMP B-TREE" not in found


def test_what_a_user_denied_is_shown_to_nobody_any_more(store: Engine) -> None:
    """Neither to who has it on lease, nor to the next one."""
    private, harmless = make_task(store, "Private", wanted=2), make_task(store, "Harmless", wanted=2)
    with writing(store) as connection:
        connection.execute(
            update(Completion).where(Completion.id == private.completion_id).values(user_hash=hash_user("salt", "ann"))
        )
    assert taken(store, "ada").task_id == private.id
    with writing(store) as connection:
        assert set_consent(connection, hash_user("salt", "ann"), trainable=False) == 1
    assert {taken(store, labeler).task_id for labeler in ("ada", "bob")} == {harmless.id}
