"""What labelers say of tasks: stored once, all of it or nothing, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from completions import count
from labeling_tasks import (
    NOW,
    TEXTS,
    given,
    make_task,
    ranking_of,
    say,
    states,
    taken,
    task_row,
)
from sqlalchemy import Engine

from honed.server.store import labeling
from honed.server.store.database import reading
from honed.server.store.feedback import KeyReusedError, RankedAnswer
from honed.server.store.labeling import StoredAssignment
from honed.server.store.leases import LEASE_S
from honed.server.store.rankings import (
    AlreadyJudgedError,
    IncompleteRankingError,
    NotLeasedError,
    UnknownTaskError,
)
from honed.server.store.tables import Assignment, Feedback, Target

LATER = NOW + timedelta(seconds=LEASE_S)


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


def test_of_several_best_answers_the_first_gets_the_texts(store: Engine) -> None:
    task = make_task(store)
    ranking = ranking_of(taken(store, "ada"), (TEXTS[3], TEXTS[2]), (TEXTS[0], TEXTS[1]))
    say(store, task.id, "ada", ranking=ranking, comment="Hm.")
    assert [(each.kind, each.choice) for each in given(store)] == [("ranking", 2), ("comment", 2)]


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
