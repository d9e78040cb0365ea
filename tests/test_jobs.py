"""The job queue on both databases: who gets which job, who loses it, and what may be asked of it when."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from databases import Postgres
from sqlalchemy import Engine, update

from honed.server.store import jobs
from honed.server.store.database import open_database, reading, writing
from honed.server.store.jobs import ClaimedJob, JobLostError, StoredEvent, StoredJob, Wanted
from honed.server.store.tables import Job

KIND = "fine_tuning"
PATIENCE = timedelta(minutes=1)
WORKERS = 6


@pytest.fixture(autouse=True)
def _ids_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made in the same millisecond too."""
    numbers = itertools.count(1)
    monkeypatch.setattr(jobs, "new_id", lambda prefix: f"{prefix}-{next(numbers):032x}")


def enqueue(store: Engine, **fields: Any) -> str:
    with writing(store) as connection:
        return jobs.enqueue(connection, KIND, **fields)


def claim(store: Engine, **options: Any) -> ClaimedJob | None:
    with writing(store) as connection:
        return jobs.claim(connection, KIND, stale=PATIENCE, **options)


def fall_silent(store: Engine) -> None:
    """All who are at work."""
    with writing(store) as connection:
        connection.execute(update(Job).values(heartbeat=datetime.now(UTC) - 2 * PATIENCE))


def claimed(store: Engine, **options: Any) -> ClaimedJob:
    job = claim(store, **options)
    assert job is not None
    return job


def beat(store: Engine, job: ClaimedJob) -> Wanted | None:
    with writing(store) as connection:
        return jobs.beat(connection, job)


def finish(store: Engine, job: ClaimedJob, **outcome: Any) -> None:
    with writing(store) as connection:
        jobs.finish(connection, job, **outcome)


def put_down(store: Engine, job: ClaimedJob) -> str:
    with writing(store) as connection:
        return jobs.put_down(connection, job)


def ask(store: Engine, job_id: str, wanted: Any) -> bool:
    with writing(store) as connection:
        return jobs.ask(connection, job_id, wanted)


def load(store: Engine, job_id: str) -> StoredJob:
    with reading(store) as connection:
        job = jobs.load(connection, job_id)
    assert job is not None
    return job


def at_once(work: Callable[[int], None]) -> None:
    """By several workers, each with its number."""
    start = threading.Barrier(WORKERS)

    def begin(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(begin, range(WORKERS)))


def test_a_job_goes_from_the_queue_to_its_result(store: Engine) -> None:
    before = datetime.now(UTC)
    job_id = enqueue(store, payload={"model": "tiny"}, prefix="ftjob", key_id="ann")
    waiting = load(store, job_id)
    assert job_id.startswith("ftjob-")
    assert (waiting.state, waiting.payload, waiting.key_id) == ("queued", {"model": "tiny"}, "ann")
    assert (waiting.result, waiting.error, waiting.started, waiting.finished) == ({}, None, None, None)

    job = claimed(store)
    assert job == ClaimedJob(job_id, KIND, {"model": "tiny"}, 1, 0)
    assert load(store, job_id).state == "running"
    assert claim(store) is None, "it is taken"
    assert beat(store, job) is None

    finish(store, job, result={"fine_tuned_model": "ft"})
    done = load(store, job_id)
    assert (done.state, done.result, done.error) == ("succeeded", {"fine_tuned_model": "ft"}, None)
    assert done.started is not None
    assert done.finished is not None
    assert before <= done.created <= done.started <= done.finished
    fall_silent(store)
    assert claim(store) is None, "what has ended is nobody's any more"


def test_a_job_that_fails_says_why(store: Engine) -> None:
    job_id = enqueue(store)
    finish(store, claimed(store), error="no memory")
    assert (load(store, job_id).state, load(store, job_id).error) == ("failed", "no memory")


def test_a_job_with_a_key_is_there_once(store: Engine) -> None:
    first = enqueue(store, key="nightly", payload={"n": 1})
    assert enqueue(store, key="nightly", payload={"n": 2}) == first
    assert load(store, first).payload == {"n": 1}
    finish(store, claimed(store), error="it broke")
    assert enqueue(store, key="nightly") == first
    assert claim(store) is None, "also when it has ended"
    assert enqueue(store) != enqueue(store), "those without are as many as were asked for"


def test_jobs_are_taken_in_their_order_and_by_kind(store: Engine) -> None:
    with writing(store) as connection:
        other = jobs.enqueue(connection, "another")
    ids = [enqueue(store) for _ in range(3)]
    assert [claimed(store).id for _ in range(3)] == ids
    assert claim(store) is None
    assert load(store, other).state == "queued"
    with reading(store) as connection:
        assert jobs.load(connection, "job-none") is None


def test_many_workers_take_each_job_once(store: Engine) -> None:
    ids = [enqueue(store) for _ in range(20)]
    taken: list[tuple[str, int]] = []

    def work(number: int) -> None:
        while len(taken) < len(ids):
            if (job := claim(store, device=f"gpu-{number}")) is not None:
                taken.append((job.id, job.attempt))
                finish(store, job)

    at_once(work)
    assert sorted(taken) == [(job_id, 1) for job_id in ids]


def test_a_device_has_one_job_however_many_ask_at_once(store: Engine) -> None:
    ids = [enqueue(store) for _ in range(WORKERS)]
    taken: list[ClaimedJob] = []

    def work(_: int) -> None:
        if (job := claim(store, device="gpu")) is not None:
            taken.append(job)

    at_once(work)
    (job,) = taken
    assert Counter(load(store, job_id).state for job_id in ids) == {"running": 1, "queued": WORKERS - 1}
    assert claim(store, device="gpu") is None
    other = claimed(store, device="another")
    assert {claimed(store).id, claimed(store).id}.isdisjoint({job.id, other.id}), "without a device there is no limit"
    finish(store, job)
    assert claimed(store, device="gpu").id not in (job.id, other.id)


def test_who_falls_silent_loses_the_job_to_the_next(store: Engine) -> None:
    job_id = enqueue(store)
    silent = claimed(store, device="gpu")
    assert claim(store, device="another") is None, "it is not silent yet"
    fall_silent(store)
    heir = claimed(store, device="another")
    assert (heir.id, heir.attempt, heir.deaths) == (job_id, 2, 1)
    for late in (beat, finish, put_down):
        with pytest.raises(JobLostError, match=job_id):
            late(store, silent)
    assert load(store, job_id).state == "running"
    assert beat(store, heir) is None
    finish(store, heir, result={"by": "heir"})
    with pytest.raises(JobLostError):
        finish(store, silent, error="too late")
    assert (load(store, job_id).state, load(store, job_id).result) == ("succeeded", {"by": "heir"})


def test_a_beat_keeps_the_job(store: Engine) -> None:
    enqueue(store)
    job = claimed(store)
    fall_silent(store)
    beat(store, job)
    assert claim(store) is None
    fall_silent(store)
    assert claimed(store).attempt == 2


def test_a_worker_whose_clock_is_wrong_takes_no_job_away(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one lose its own to others: the clock is the database's."""

    class Wrong(datetime):
        ahead = timedelta()

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + cls.ahead

    store = open_database(postgres.new_store())
    monkeypatch.setattr(jobs, "datetime", Wrong)
    enqueue(store)
    job = claimed(store)
    Wrong.ahead = 2 * PATIENCE
    assert claim(store) is None
    Wrong.ahead = -2 * PATIENCE
    beat(store, job)
    Wrong.ahead = timedelta()
    assert claim(store) is None
    store.dispose()


def test_jobs_that_have_ended(store: Engine) -> None:
    ids = {state: brought_to(store, state) for state in ("succeeded", "failed", "cancelled")}
    others = [brought_to(store, state) for state in ("paused", "running", "queued")]
    with reading(store) as connection:
        assert set(jobs.ended(connection, [*ids.values(), *others, "job-none"])) == set(ids.values())
        assert jobs.ended(connection, [ids["failed"]]) == [ids["failed"]]
        assert jobs.ended(connection, []) == []


def test_the_device_that_lost_a_job_takes_it_again(store: Engine) -> None:
    """A worker that was started again need not wait for another machine."""
    job_id = enqueue(store)
    claimed(store, device="gpu")
    fall_silent(store)
    again = claimed(store, device="gpu")
    assert (again.id, again.attempt) == (job_id, 2)


def test_a_job_that_was_begun_comes_before_one_that_was_not(store: Engine) -> None:
    first, second = enqueue(store), enqueue(store)
    one, _ = claimed(store), claimed(store)
    assert put_down(store, one) == "queued"
    fall_silent(store)
    assert claimed(store).id == second
    assert claimed(store).id == first


def test_of_two_that_take_over_one_gets_it(store: Engine) -> None:
    job_id = enqueue(store)
    claimed(store)
    fall_silent(store)
    taken: list[ClaimedJob] = []

    def work(_: int) -> None:
        if (job := claim(store)) is not None:
            taken.append(job)

    at_once(work)
    assert [(job.id, job.attempt) for job in taken] == [(job_id, 2)]


# How a job comes into a state, and what then happens to it: whether it is allowed, the state and what is wanted.
REFUSED = None
EXPECTED: dict[str, dict[str, tuple[str, str | None] | None]] = {
    "queued": {"pause": ("paused", None), "cancel": ("cancelled", None), "resume": REFUSED},
    "running": {"pause": ("running", "pause"), "cancel": ("running", "cancel"), "resume": ("running", None)},
    "pausing": {"pause": ("running", "pause"), "cancel": ("running", "cancel"), "resume": ("running", None)},
    "cancelling": {"pause": REFUSED, "cancel": ("running", "cancel"), "resume": REFUSED},
    "paused": {"pause": REFUSED, "cancel": ("cancelled", None), "resume": ("queued", None)},
    "succeeded": dict.fromkeys(("pause", "cancel", "resume"), REFUSED),
    "failed": dict.fromkeys(("pause", "cancel", "resume"), REFUSED),
    "cancelled": dict.fromkeys(("pause", "cancel", "resume"), REFUSED),
}


def brought_to(store: Engine, state: str) -> str:
    job_id = enqueue(store)
    if state in ("paused", "cancelled"):
        assert ask(store, job_id, "pause" if state == "paused" else "cancel")
    elif state != "queued":
        job = claimed(store)
        if state in ("pausing", "cancelling"):
            assert ask(store, job_id, "pause" if state == "pausing" else "cancel")
        elif state != "running":
            finish(store, job, error="no memory" if state == "failed" else None)
    return job_id


@pytest.mark.parametrize("state", EXPECTED)
@pytest.mark.parametrize("wanted", ["pause", "cancel", "resume"])
def test_what_may_be_asked_in_each_state(store: Engine, state: str, wanted: str) -> None:
    job_id = brought_to(store, state)
    before = load(store, job_id)
    expected = EXPECTED[state][wanted]
    assert ask(store, job_id, wanted) == (expected is not REFUSED)
    after = load(store, job_id)
    if expected is REFUSED:
        assert after == before
    else:
        assert (after.state, after.wanted) == expected
        assert (after.finished is not None) == (after.state == "cancelled")


def test_a_worker_learns_what_is_wanted_and_puts_the_job_down(store: Engine) -> None:
    job_id = enqueue(store)
    job = claimed(store, device="gpu")
    assert ask(store, job_id, "pause")
    assert beat(store, job) == "pause"
    assert put_down(store, job) == "paused"
    assert (load(store, job_id).state, load(store, job_id).wanted) == ("paused", None)
    fall_silent(store)
    assert claim(store) is None, "a paused job waits for its word"
    with pytest.raises(JobLostError):
        beat(store, job)

    assert ask(store, job_id, "resume")
    again = claimed(store, device="gpu")
    assert (again.id, again.attempt) == (job_id, 2)
    assert ask(store, job_id, "cancel")
    assert put_down(store, again) == "cancelled"
    assert load(store, job_id).finished is not None
    assert claim(store) is None


def test_a_resume_before_the_worker_put_it_down_lets_it_go_on(store: Engine) -> None:
    job_id = enqueue(store)
    job = claimed(store)
    assert ask(store, job_id, "pause")
    assert ask(store, job_id, "resume")
    assert beat(store, job) is None, "a worker that had not looked never knows"

    assert ask(store, job_id, "pause")
    assert beat(store, job) == "pause"
    assert ask(store, job_id, "resume")
    assert put_down(store, job) == "queued", "one that had goes to the next"
    assert claimed(store).attempt == 2


def test_a_job_that_ends_before_it_could_be_cancelled_has_ended(store: Engine) -> None:
    job_id = enqueue(store)
    job = claimed(store)
    assert ask(store, job_id, "cancel")
    finish(store, job, result={"fine_tuned_model": "ft"})
    assert (load(store, job_id).state, load(store, job_id).wanted) == ("succeeded", None)


def test_a_cancel_outlives_its_worker(store: Engine) -> None:
    job_id = enqueue(store)
    claimed(store)
    assert ask(store, job_id, "cancel")
    fall_silent(store)
    heir = claimed(store)
    assert beat(store, heir) == "cancel"
    assert put_down(store, heir) == "cancelled"


def pages(store: Engine, **query: Any) -> list[str]:
    with reading(store) as connection:
        return [job.id for job in jobs.page(connection, KIND, **{"limit": 9} | query)]


def test_pages_of_jobs(store: Engine) -> None:
    ids = [enqueue(store, key_id=key) for key in ("ann", "ben", "ann", None)]
    with writing(store) as connection:
        jobs.enqueue(connection, "another")
    assert pages(store) == ids[::-1]
    assert pages(store, limit=2) == ids[:1:-1]
    assert pages(store, after=ids[2], limit=1) == [ids[1]]
    assert pages(store, key_id="ann") == [ids[2], ids[0]]
    assert pages(store, key_id="nobody") == []


def test_jobs_by_their_metadata(store: Engine) -> None:
    odd = {'a "b" \\ $.[0] \'': 'x"%'}
    given: list[Any] = [{"team": "a"}, {"team": "a", "n": "2"}, {"team": "b"}, odd, {}, None]
    ids = [enqueue(store, payload={"metadata": metadata}) for metadata in given]
    ids.append(enqueue(store))
    assert pages(store, metadata={"team": "a"}) == [ids[1], ids[0]]
    assert pages(store, metadata={"team": "a", "n": "2"}) == [ids[1]]
    assert pages(store, metadata=odd) == [ids[3]]
    assert pages(store, metadata={"team": "A"}) == []
    assert pages(store, metadata=None) == ids[:3:-1]
    assert pages(store, metadata={}) == ids[::-1]


def test_pages_of_events(store: Engine) -> None:
    job_id, other = enqueue(store), enqueue(store)

    def events(of: str = job_id, **query: Any) -> list[StoredEvent]:
        with reading(store) as connection:
            return jobs.events(connection, of, **{"limit": 9} | query)

    assert events() == []
    with writing(store) as connection:
        for number in range(4):
            jobs.add_event(connection, job_id, f"Step {number}", data={"step": number, "train/loss": 0.5})
            jobs.add_event(connection, other, "other")
        jobs.add_event(connection, job_id, "Trouble", level="error")
    found = events()
    assert [event.message for event in found] == ["Trouble", "Step 3", "Step 2", "Step 1", "Step 0"]
    trouble, step = found[:2]
    assert (trouble.level, trouble.kind, trouble.data) == ("error", "message", {})
    assert (step.level, step.kind, step.data) == ("info", "metrics", {"step": 3, "train/loss": 0.5})
    assert step.created.tzinfo is not None
    assert events(limit=2) == found[:2]
    assert events(limit=2, after=found[1].id) == found[2:4]
    assert events(after=found[4].id) == []
    assert len(events(other)) == 4
