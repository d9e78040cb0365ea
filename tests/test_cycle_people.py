"""A cycle whose gate asks people: it waits for them, goes by what they say, and can be ended without them."""

from __future__ import annotations

from typing import Any

import pytest
from completions import add
from fine_tuning_server import register, stored
from labeling_tasks import say, take, taken
from sqlalchemy import Engine
from test_cycle import PASSED, begin, collect, gone_through, in_service, said, work
from test_evaluation_people import example

from honed.server.store import cycles, erasure, promotions
from honed.server.store.database import writing
from honed.server.store.jobs import StoredJob
from honed.training.cycle import advance
from honed.training.evaluation.people import ask

SETTINGS = {"people": 10, "temperature": 1.0, "max_new_tokens": 8, "min_win_rate": 0.5, "seed": 0}


def asked_about(store: Engine, people: int = 10) -> dict[str, Any]:
    """The report of a gate that lets the candidate through and has asked labelers about so many answers."""
    rows = [{side: [{"text": side, "tokens": 1, "ended": True}] for side in ("candidate", "incumbent")}] * people
    prompts = [example(add(store, f"Held out {number}"), f"Held out {number}") for number in range(people)]
    return ask(store, PASSED | {"settings": SETTINGS | {"people": people}}, prompts, rows)


def in_people_s_hands(store: Engine, people: int = 10, **asked: Any) -> StoredJob:
    return gone_through(store, asked_about(store, people), **asked)


def judge(store: Engine, best: str, count: int) -> None:
    for _ in range(count):
        lease = taken(store, "ada")
        labels = {answer.text: [answer.label] for answer in lease.answers}
        ranking = sorted(labels.values(), key=lambda group: group != labels[best])
        say(store, lease.task_id, "ada", ranking=ranking)


@pytest.mark.parametrize(("best", "decision"), [("candidate", "canary"), ("incumbent", "refused")])
def test_labelers_are_waited_for_and_decide(store: Engine, best: str, decision: str) -> None:
    collect(store)
    cycle = in_people_s_hands(store)
    assert (cycle.state, cycles.asks_people(cycle), in_service(store).candidate_id) == ("running", True, None)
    assert "m-ppo waits for labelers: 10 pairs of answers." in said(store, cycle.id)
    judge(store, best, 9)
    assert advance(store) is False, "who waits for people is no work"
    cycle = stored(store, cycle.id)
    assert (cycle.state, cycle.result["evaluation"]["people"]["waiting"]) == ("running", 1)
    judge(store, best, 1)
    advance(store)
    cycle = stored(store, cycle.id)
    assert (cycle.state, cycle.result["decision"]) == ("succeeded", decision)
    assert not cycles.asks_people(cycle)
    assert "win rate by people" in cycle.result["reasons"][-1]
    assert in_service(store).candidate_id == ("ckpt-m-ppo" if best == "candidate" else None)
    assert sum("waits for labelers" in line for line in said(store, cycle.id)) == 1


def test_nobody_has_to_wait_for_labelers(store: Engine) -> None:
    collect(store)
    cycle = in_people_s_hands(store)
    with writing(store) as connection:
        assert cycles.cancel(connection, cycle.id)
    advance(store)
    assert (stored(store, cycle.id).state, in_service(store).candidate_id) == ("cancelled", None)
    assert take(store, "ada") is None, "and they have nothing to do for it"


def test_what_people_let_through_stays_so_until_it_is_approved(store: Engine) -> None:
    """Whatever is erased meanwhile."""
    collect(store)
    cycle = in_people_s_hands(store, approve=True)
    judge(store, "candidate", 10)
    advance(store)
    assert (stored(store, cycle.id).state, in_service(store).candidate_id) == ("paused", None)
    prompts = stored(store, cycle.id).result["evaluation"]["people"]["of"]
    erasure.erase_completion(store, prompts[0])
    with writing(store) as connection:
        assert cycles.approve(connection, cycle.id)
    advance(store)
    assert stored(store, cycle.id).result["decision"] == "canary"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_end_before_anybody_looked_takes_all_back(store: Engine, *, is_cancelled: bool) -> None:
    """The evaluation has asked, and the cycle has not noted it yet."""
    collect(store)
    register(store, "m-ppo", "ppo")
    cycle_id = begin(store)
    for _ in ("reward", "judge", "ppo"):
        advance(store)
        work(store)
    advance(store)
    report = asked_about(store)
    assert take(store, "ada") is not None
    if is_cancelled:
        work(store, report)
        with writing(store) as connection:
            assert cycles.cancel(connection, cycle_id)
    else:
        work(store, error="the disk is full")
    advance(store)
    assert stored(store, cycle_id).state == ("cancelled" if is_cancelled else "failed")
    assert take(store, "ben") is None


def test_what_waits_for_approval_waits_for_no_labeler(store: Engine) -> None:
    """Of what was skipped another could judge, for nothing."""
    collect(store)
    cycle = in_people_s_hands(store, approve=True, people=11)
    judge(store, "candidate", 10)
    say(store, taken(store, "ada").task_id, "ada", "skip")
    advance(store)
    assert stored(store, cycle.id).state == "paused"
    assert take(store, "ben") is None


def test_nobody_is_asked_about_what_cannot_go_into_service_any_more(store: Engine) -> None:
    collect(store)
    cycle = in_people_s_hands(store)
    register(store, "other", "ppo")
    with writing(store) as connection:
        promotions.promote(connection, "ckpt-other", key_id=None)
    advance(store)
    ended = stored(store, cycle.id)
    assert (ended.state, ended.result["decision"]) == ("succeeded", "refused")
    assert ended.result["reasons"][0].startswith("Other policies are in service")
    assert take(store, "ada") is None
