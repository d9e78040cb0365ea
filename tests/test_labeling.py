"""Labeling tasks in the store, on both databases: made, listed, counted, compared, erased."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from completions import count
from labeling_tasks import (
    NOW,
    TEXTS,
    make_task,
    ranking_of,
    sampled,
    say,
    store_task,
    take,
    taken,
    task_row,
    until_blocked,
)
from sqlalchemy import Engine, select
from sqlalchemy.engine import URL

from honed.server.store import labelers, labeling, sampling
from honed.server.store.agreement import agreement
from honed.server.store.database import open_database, reading, writing
from honed.server.store.erasure import delete_completions, erase_completion, erase_user
from honed.server.store.labeling import PassedOverError
from honed.server.store.leases import LEASE_S, order_shown
from honed.server.store.rankings import (
    UnknownTaskError,
)
from honed.server.store.tables import Assignment, Choice, Completion, Feedback, Message, Target, Task
from honed.server.store.users import hash_user, load_salt, set_consent

LATER = NOW + timedelta(seconds=LEASE_S)


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


def test_what_was_denied_stays_denied(store: Engine) -> None:
    """An allowance after a denial is for what comes then, and the prompt was sampled before both."""
    prompt = sampled(store, "Deny me", user="ada")
    assert prompt.user_hash is not None
    with writing(store) as connection:
        set_consent(connection, prompt.user_hash, trainable=False)
        set_consent(connection, prompt.user_hash, trainable=True)
    with pytest.raises(PassedOverError) as error:
        store_task(store, prompt)
    assert error.value.obstacle == "withdrawn"


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


def test_an_erased_task_cannot_be_judged(store: Engine, store_url: URL) -> None:
    """Nor can one whose erasure is not over yet."""
    source = sampled(store, "Erase me")
    task = store_task(store, source)
    taken(store, "ada")
    other, raised = open_database(store_url), []

    def judge() -> None:
        with pytest.raises(UnknownTaskError) as error:
            say(other, task.id, "ada")
        raised.append(error)

    thread = Thread(target=judge)
    with writing(store) as connection:
        delete_completions(connection, [source.completion_id])
        thread.start()
        until_blocked(store)
    thread.join()
    other.dispose()
    assert len(raised) == 1
    assert take(store, "ada") is None
    with reading(store) as connection:
        assert labeling.get_task(connection, task.id, now=NOW) is None
