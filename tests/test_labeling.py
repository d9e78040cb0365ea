"""Labeling tasks in the store, on both databases: made, leased, judged, closed, compared, erased."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from completions import count
from conftest import eventually
from labeling_tasks import NOW, TEXTS, make_task, ranking_of, sampled, say, store_task, take, taken
from sqlalchemy import Engine, select, text
from sqlalchemy.engine import URL
from test_sampling import plan

from honed.server.store import feedback, labelers, labeling, leases, sampling
from honed.server.store.agreement import agreement
from honed.server.store.database import open_database, reading, writing
from honed.server.store.erasure import erase_completion, erase_user
from honed.server.store.feedback import KeyReusedError, RankedAnswer, StoredFeedback
from honed.server.store.labeling import PassedOverError, StoredAssignment
from honed.server.store.leases import LABELS, LEASE_S, order_shown
from honed.server.store.rankings import (
    AlreadyJudgedError,
    IncompleteRankingError,
    NotLeasedError,
    UnknownTaskError,
)
from honed.server.store.tables import Assignment, Choice, Completion, Feedback, Message, Target, Task
from honed.server.store.users import hash_user, load_salt, set_consent

LATER = NOW + timedelta(seconds=LEASE_S)


def given(engine: Engine) -> list[StoredFeedback]:
    with reading(engine) as connection:
        return feedback.list_feedback(connection, scope=None, order="asc")[0]


def task_row(engine: Engine, task_id: str) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(Task).where(Task.id == task_id)).one()


def states(engine: Engine, now: Any = NOW) -> dict[str, Counter[Any]]:
    with reading(engine) as connection:
        return labelers.progress(connection, now=now).labelers


# Tasks


def test_a_task_is_a_prompt_and_its_answers(store: Engine) -> None:
    prompt = sampled(store, "Who?", user="ada", key_id="key-9")
    task = store_task(store, prompt, wanted=3)
    assert (task.policy_id, task.wanted, task.is_open, task.counts) == ("ckpt-2", 3, True, Counter())
    row = task_row(store, task.id)
    assert (row.prefix, row.user_hash) == (prompt.prefix, prompt.user_hash)
    assert row.user_hash == hash_user(load_salt(store), "ada")
    with reading(store) as connection:
        answers = connection.execute(select(Completion).where(Completion.id == task.completion_id)).one()
        whole = labeling.get_task(connection, task.id, now=NOW)
        assert sampling.sample(connection, 0) is None
    assert (answers.source, answers.derived_from, answers.key_id) == ("labeling", prompt.completion_id, "key-9")
    assert (answers.retrievable, answers.trainable, answers.user_hash) == (False, True, prompt.user_hash)
    assert whole is not None
    assert (whole.task, whole.derived_from) == (task, prompt.completion_id)
    assert whole.messages == prompt.messages
    assert tuple(choice.text for choice in whole.choices) == TEXTS
    assert whole.assignments == []


def test_a_prompt_makes_one_task(store: Engine) -> None:
    prompt, same = sampled(store, "Who?"), sampled(store, " who? ")
    store_task(store, prompt)
    before = [count(store, table) for table in (Completion, Choice, Message, Task)]
    with pytest.raises(PassedOverError) as error:
        store_task(store, same)
    assert error.value.obstacle == "taken"
    assert [count(store, table) for table in (Completion, Choice, Message, Task)] == before


def test_what_was_taken_back_meanwhile_makes_none(store: Engine) -> None:
    erased, denied = sampled(store, "Erase me"), sampled(store, "Deny me", user="ada")
    erase_completion(store, erased.completion_id)
    assert denied.user_hash is not None
    with writing(store) as connection:
        set_consent(connection, denied.user_hash, trainable=False)
    for prompt in (erased, denied):
        with pytest.raises(PassedOverError) as error:
            store_task(store, prompt)
        assert error.value.obstacle == "withdrawn"
    assert (count(store, Task), count(store, Completion)) == (0, 1)


def test_a_user_who_has_enough_tasks_gets_no_more(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_PER_USER", 1)
    prompts = [sampled(store, f"Question {number}", user="ada") for number in range(2)]
    store_task(store, prompts[0])
    with pytest.raises(PassedOverError) as error:
        store_task(store, prompts[1])
    assert error.value.obstacle == "user_limit"
    assert count(store, Task) == 1


def test_two_servers_that_sample_the_same_prompt_make_one_task(store: Engine, store_url: URL) -> None:
    other = open_database(store_url)
    prompts = [sampled(store, f"Question {number}") for number in range(6)]
    start = Barrier(2)

    def make(engine: Engine) -> list[str]:
        start.wait()
        outcomes = []
        for prompt in prompts:
            try:
                outcomes.append(store_task(engine, prompt).id)
            except PassedOverError as error:
                outcomes.append(error.obstacle)
        return outcomes

    with ThreadPoolExecutor(2) as pool:
        mine, others = pool.map(make, [store, other])
    other.dispose()
    for pair in zip(mine, others, strict=True):
        assert pair.count("taken") == 1
    assert count(store, Task) == 6
    assert count(store, Completion) == 12, "the answers of who was slower are gone"


def test_lists_are_cut_into_pages(store: Engine) -> None:
    ids = [make_task(store, f"Question {number}").id for number in range(5)]
    lease = taken(store, "ada")
    assert lease.task_id == ids[0]
    say(store, ids[0], "ada")
    taken(store, "ada")
    with reading(store) as connection:
        first, more = labeling.list_tasks(connection, now=NOW, limit=3)
        rest, end = labeling.list_tasks(connection, now=NOW, limit=3, after=first[-1].id)
        open_ones, _ = labeling.list_tasks(connection, now=NOW, is_open=True)
        done, _ = labeling.list_tasks(connection, now=NOW, is_open=False)
        later, _ = labeling.list_tasks(connection, now=LATER)
    assert ([task.id for task in first + rest], more, end) == (ids, True, False)
    assert [task.id for task in open_ones] == ids[1:]
    assert [(task.id, task.is_open, task.counts) for task in done] == [(ids[0], False, {"ranked": 1})]
    assert [task.counts for task in first] == [{"ranked": 1}, {"leased": 1}, {}]
    assert [task.counts for task in later[:2]] == [{"ranked": 1}, {}]


# Leases


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
        _until_blocked(engine)
    thread.join()
    other.dispose()
    return got


def _until_blocked(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        time.sleep(0.1)  # SQLite does not tell; whoever comes later than this finds no lock, and the same answer
        return
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    def is_blocked() -> bool:
        with reading(engine) as connection:
            return bool(connection.execute(waiting).scalar_one())

    eventually(is_blocked)


def test_nobody_waits_for_a_task_while_there_is_another(store: Engine, store_url: URL) -> None:
    if store.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    make_task(store, "One"), make_task(store, "Two")
    other = open_database(store_url)
    with writing(store) as first, writing(other) as second:
        one, two = leases.lease(first, "ada", now=NOW), leases.lease(second, "bob", now=NOW)
    assert one is not None
    assert two is not None
    assert one.task_id < two.task_id
    other.dispose()


@pytest.mark.parametrize("wanted", [1, 3])
def test_many_labelers_on_two_servers(store: Engine, store_url: URL, wanted: int) -> None:
    """Each leases until there is nothing left, ranks most, skips some, and lets none go."""
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
            is_skip = name == names[0] and len(got) % 3 == 0
            say(engine, lease.task_id, name, "skip" if is_skip else "ranked")
        return got

    with ThreadPoolExecutor(len(names)) as pool:
        gotten = list(pool.map(work, names))
    other.dispose()
    for got in gotten:
        assert len(got) == len(set(got)), "nobody gets a task twice"
    with reading(store) as connection:
        rows = connection.execute(select(Assignment.task_id, Assignment.state)).all()
    ranked = Counter(task_id for task_id, state in rows if state == "ranked")
    assert ranked == {task.id: wanted for task in tasks}
    assert {state for _, state in rows} <= {"ranked", "skipped"}
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


# Verdicts


def test_a_ranking_is_feedback(store: Engine) -> None:
    task = make_task(store)
    lease = taken(store, "ada")
    groups = ranking_of(lease, (TEXTS[2],), (TEXTS[3], TEXTS[0]), (TEXTS[1],))
    stored = say(store, task.id, "ada", ranking=groups)
    (ranking,) = given(store)
    assert (ranking.kind, ranking.source, ranking.labeler, ranking.choice) == ("ranking", "labeler", "ada", 2)
    assert ranking.policy_id == "ckpt-2"
    assert ranking.targets == (
        RankedAnswer(task.completion_id, 2, 1),
        RankedAnswer(task.completion_id, 0, 2),
        RankedAnswer(task.completion_id, 3, 2),
        RankedAnswer(task.completion_id, 1, 4),
    )
    assert stored.kinds == ("ranking",)
    assert stored.groups == [sorted(group) for group in groups]
    with reading(store) as connection:
        whole = labeling.get_task(connection, task.id, now=NOW)
    assert whole is not None
    assert whole.assignments == [
        StoredAssignment(
            labeler="ada",
            state="ranked",
            leased_until=lease.leased_until,
            finished=NOW,
            feedback_id=ranking.id,
            ranking=[[2], [0, 3], [1]],
        )
    ]


def test_texts_are_feedback_on_the_best_answer(store: Engine) -> None:
    task = make_task(store)
    ranking = ranking_of(taken(store, "ada"), (TEXTS[1],), (TEXTS[0], TEXTS[2], TEXTS[3]))
    said = {"demonstration": "Paris, of course. Ask me@example.com.", "comment": "Hm."}
    assert say(store, task.id, "ada", ranking=ranking, **said).kinds == ("ranking", "correction", "comment")
    assert [(each.kind, each.text, each.choice, each.labeler, each.source) for each in given(store)] == [
        ("ranking", None, 1, "ada", "labeler"),
        ("correction", "Paris, of course. Ask [EMAIL].", 1, "ada", "labeler"),
        ("comment", "Hm.", 1, "ada", "labeler"),
    ]


def test_all_bad_is_no_ranking_and_takes_a_seat(store: Engine) -> None:
    task = make_task(store)
    taken(store, "ada")
    assert say(store, task.id, "ada", "all_bad", demonstration="Paris.").kinds == ("correction",)
    assert [(each.kind, each.choice) for each in given(store)] == [("correction", 0)]
    assert not task_row(store, task.id).is_open
    assert states(store) == {"ada": {"all_bad": 1}}
    assert count(store, Target) == 0


@pytest.mark.parametrize(
    "said",
    [
        {"verdict": "ranked"},
        {"verdict": "ranked", "comment": "Hm.", "demonstration": "Paris."},
        {"verdict": "all_bad"},
        {"verdict": "all_bad", "demonstration": "Paris."},
        {"verdict": "skip"},
        {"verdict": "skip", "comment": "Hm."},
    ],
)
@pytest.mark.parametrize("key", [None, "again-1"])
def test_the_same_verdict_twice_is_counted_once(store: Engine, said: dict[str, Any], key: str | None) -> None:
    task = make_task(store)
    taken(store, "ada")
    first = say(store, task.id, "ada", **said, idempotency_key=key)
    before = [count(store, table) for table in (Feedback, Target, Assignment)]
    second = say(store, task.id, "ada", **said, idempotency_key=key, now=LATER)
    assert (second.finished, second.groups, second.verdict) == (first.finished, first.groups, first.verdict)
    assert second.kinds == ()
    assert [count(store, table) for table in (Feedback, Target, Assignment)] == before


def test_ties_have_no_order(store: Engine) -> None:
    task = make_task(store)
    taken(store, "ada")
    first = say(store, task.id, "ada", ranking=[["B"], ["D", "A"], ["C"]])
    assert say(store, task.id, "ada", ranking=[["B"], ["A", "D"], ["C"]]).groups == first.groups


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"verdict": "ranked"}, {"verdict": "ranked", "ranking": [["D"], ["B"], ["C"], ["A"]]}),
        ({"verdict": "ranked"}, {"verdict": "ranked", "comment": "Hm."}),
        ({"verdict": "ranked"}, {"verdict": "skip"}),
        ({"verdict": "skip"}, {"verdict": "ranked"}),
        ({"verdict": "skip"}, {"verdict": "skip", "comment": "Hm."}),
        ({"verdict": "skip"}, {"verdict": "all_bad"}),
        ({"verdict": "skip", "comment": "Hm."}, {"verdict": "all_bad", "comment": "Hm."}),
        ({"verdict": "all_bad"}, {"verdict": "all_bad", "demonstration": "Paris."}),
    ],
)
def test_the_first_word_stands(store: Engine, first: dict[str, Any], second: dict[str, Any]) -> None:
    task = make_task(store)
    taken(store, "ada")
    say(store, task.id, "ada", **first)
    before = given(store)
    with pytest.raises(AlreadyJudgedError):
        say(store, task.id, "ada", **second)
    assert given(store) == before


def test_who_has_no_lease_cannot_judge(store: Engine) -> None:
    task = make_task(store)
    with pytest.raises(NotLeasedError):
        say(store, task.id, "ada")
    with pytest.raises(UnknownTaskError):
        say(store, "task-none", "ada")
    assert count(store, Feedback) == 0


def test_a_lease_that_ran_out_is_good_while_nobody_has_the_seat(store: Engine) -> None:
    free, lost = make_task(store, "One"), make_task(store, "Two")
    for name in ("ada", "bob"):
        taken(store, name)
    taken(store, "cy", LATER)
    assert taken(store, "cy", LATER).task_id == free.id
    with pytest.raises(NotLeasedError):
        say(store, free.id, "ada", now=LATER)
    assert say(store, lost.id, "bob", now=LATER).finished == LATER
    say(store, free.id, "cy", now=LATER)
    with pytest.raises(NotLeasedError):
        say(store, free.id, "ada", now=LATER)


@pytest.mark.parametrize(
    "ranking",
    [
        [["A"], ["B"], ["C"]],
        [["A"], ["B"], ["C"], ["D"], ["E"]],
        [["A"], ["B"], ["C"], ["C"]],
        [["A"], ["B"], ["C"], ["D", "D"]],
        [["A", "B", "C"], ["I"]],
    ],
)
def test_a_ranking_has_each_answer_once(store: Engine, ranking: list[list[str]]) -> None:
    task = make_task(store)
    taken(store, "ada")
    with pytest.raises(IncompleteRankingError) as error:
        say(store, task.id, "ada", ranking=ranking)
    assert error.value.labels == "ABCD"
    assert count(store, Feedback) == 0
    assert states(store) == {"ada": {"leased": 1}}


def test_nine_answers_can_be_ranked(store: Engine) -> None:
    task = make_task(store, texts=tuple(f"Answer {number}" for number in range(9)))
    assert [answer.label for answer in taken(store, "ada").answers] == list("ABCDEFGHI")
    say(store, task.id, "ada", ranking=[list("IHG"), list("FEDCBA")])
    assert [target.rank for target in given(store)[0].targets] == [1] * 3 + [4] * 6


def test_a_key_that_was_used_for_another_task_undoes_everything(store: Engine) -> None:
    first, second = make_task(store, "One"), make_task(store, "Two")
    taken(store, "ada")
    say(store, first.id, "ada", idempotency_key="k")
    taken(store, "ada")
    with pytest.raises(KeyReusedError):
        say(store, second.id, "ada", idempotency_key="k", comment="Hm.")
    assert [each.completion_id for each in given(store)] == [first.completion_id]
    assert states(store) == {"ada": {"ranked": 1, "leased": 1}}
    assert task_row(store, second.id).is_open


# Progress and agreement


def test_progress_counts_tasks_and_labelers(store: Engine) -> None:
    tasks = [make_task(store, f"Question {number}", wanted=2) for number in range(3)]
    for name, verdict in (("ada", "ranked"), ("bob", "all_bad")):
        assert taken(store, name).task_id == tasks[0].id
        say(store, tasks[0].id, name, verdict)
    taken(store, "ada")
    say(store, tasks[1].id, "ada", "skip")
    taken(store, "ada")
    with reading(store) as connection:
        now = labelers.progress(connection, now=NOW)
        later = labelers.progress(connection, now=LATER)
    assert (now.open, now.done) == (2, 1)
    assert now.labelers == {"ada": {"ranked": 1, "skipped": 1, "leased": 1}, "bob": {"all_bad": 1}}
    assert now.total == {"ranked": 1, "skipped": 1, "leased": 1, "all_bad": 1}
    assert later.labelers["ada"] == {"ranked": 1, "skipped": 1}


def test_an_empty_store_has_no_progress(store: Engine) -> None:
    with reading(store) as connection:
        progress = labelers.progress(connection, now=NOW)
        assert (progress.open, progress.done, progress.total) == (0, 0, Counter())
        assert labelers.judgements(connection) == []


def test_agreement_is_over_answers_whatever_their_letters(store: Engine) -> None:
    """Ada and Bob see other letters and order the answers alike; Cy turns them round; a task with one labeler, one
    that was skipped and one that was all bad say nothing."""
    tasks = [make_task(store, f"Question {number}", wanted=3) for number in range(4)]
    best_first = [(text_,) for text_ in TEXTS]
    for name in ("ada", "bob", "cy"):
        for task in tasks[:2]:
            order = best_first[::-1] if name == "cy" else best_first
            say(store, task.id, name, ranking=ranking_of(taken(store, name), *order))
    say(store, taken(store, "ada").task_id, "ada")
    say(store, taken(store, "bob").task_id, "bob", "skip")
    say(store, taken(store, "cy").task_id, "cy", "all_bad")
    with reading(store) as connection:
        found = labelers.judgements(connection)
    assert {judgement.task_id for judgement in found} == {task.id for task in tasks[:2]}
    assert len(found) == 6
    (ada,) = [j for j in found if (j.task_id, j.labeler) == (tasks[0].id, "ada")]
    assert ada.ranks == {0: 1, 1: 2, 2: 3, 3: 4}
    assert ada.lengths == {choice: len(text_) for choice, text_ in enumerate(TEXTS)}
    assert ada.shown == tuple(order_shown(tasks[0].id, "ada", range(4)))
    result = agreement(found)
    assert result.pairwise is not None
    assert (result.pairwise.value, result.pairwise.pairs) == (pytest.approx(1 / 3), 36)
    assert [(each.labeler, each.tasks) for each in result.labelers] == [("ada", 2), ("bob", 2), ("cy", 2)]


# Erasure


def _judged_tasks(engine: Engine) -> tuple[str, str]:
    """Two tasks with all that hangs on them; the completions that they were sampled from, Ada's and nobody's."""
    sources = []
    for prompt, user in (("Ada's question", "ada"), ("Anybody's", None)):
        source = sampled(engine, prompt, user=user)
        sources.append(source.completion_id)
        task = store_task(engine, source)
        taken(engine, "cy")
        say(engine, task.id, "cy", demonstration="Paris.", comment="Hm.")
    return sources[0], sources[1]


TABLES = (Task, Assignment, Completion, Choice, Feedback, Target, Message)


@pytest.mark.parametrize(
    "erase",
    [
        lambda engine, completion_id: erase_completion(engine, completion_id),
        lambda engine, _: erase_user(engine, hash_user(load_salt(engine), "ada")),
    ],
    ids=["completion", "user"],
)
def test_a_task_goes_with_what_it_was_sampled_from(store: Engine, erase: Callable[[Engine, str], Any]) -> None:
    hers, anybodys = _judged_tasks(store)
    before = {table: count(store, table) for table in TABLES}
    erased = erase(store, hers)
    assert (erased.completions, erased.feedback) == (2, 3)
    assert {table: count(store, table) for table in TABLES} == {table: rows // 2 for table, rows in before.items()}
    with reading(store) as connection:
        (task,), _ = labeling.list_tasks(connection, now=NOW)
        whole = labeling.get_task(connection, task.id, now=NOW)
    assert whole is not None
    assert whole.derived_from == anybodys


def test_an_erased_task_cannot_be_judged(store: Engine) -> None:
    source = sampled(store, "Erase me")
    task = store_task(store, source)
    taken(store, "ada")
    erase_completion(store, source.completion_id)
    with pytest.raises(UnknownTaskError):
        say(store, task.id, "ada")
    assert take(store, "ada") is None
    with reading(store) as connection:
        assert labeling.get_task(connection, task.id, now=NOW) is None
