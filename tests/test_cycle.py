"""Which step of a cycle comes next and what it is made of, by the rows alone: jobs are claimed and finished here as
workers do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from completions import add
from exchanged import order, say
from fine_tuning_server import register, stored
from sqlalchemy import Engine

from honed.server.store import cycles, jobs, promotions
from honed.server.store.cycles import CycleGoingOnError, PolicyTriedOutError
from honed.server.store.database import reading, writing
from honed.server.store.jobs import StoredJob
from honed.training.cycle import STEPS, Schedule, advance, start

PASSED = {"candidate": {"name": "m-ppo", "id": "ckpt-m-ppo"}, "promote": True, "reasons": ["better"]}
REFUSED = PASSED | {"promote": False, "reasons": ["worse"]}


def begin(store: Engine, **asked: Any) -> str:
    with writing(store) as connection:
        return start(connection, "base", asked).id


def steps(store: Engine, cycle_id: str) -> dict[str, StoredJob]:
    with reading(store) as connection:
        return cycles.steps(connection, cycle_id, STEPS)


def work(store: Engine, result: Mapping[str, Any] | None = None, error: str | None = None) -> StoredJob:
    """Takes the job that waits and ends it. A training job makes `m-` and the last word of its name."""
    with writing(store) as connection:
        job = jobs.claim(connection, "fine_tuning") or jobs.claim(connection, "evaluation")
        assert job is not None
        made = {"fine_tuned_model": f"m-{job.payload.get('suffix')}"}
        jobs.finish(connection, job, result=None if error else (result or made), error=error)
    return stored(store, job.id)


def gone_through(store: Engine, report: Mapping[str, Any], **asked: Any) -> StoredJob:
    """A cycle without demonstrations, up to and with what its report leads to."""
    register(store, "m-ppo", "ppo")
    cycle_id = begin(store, **asked)
    for _ in ("reward", "judge", "ppo"):
        advance(store)
        work(store)
    advance(store)
    work(store, report)
    advance(store)
    return stored(store, cycle_id)


def in_service(store: Engine) -> promotions.StoredPromotion:
    with reading(store) as connection:
        return promotions.newest(connection)


def test_each_step_starts_from_what_those_before_it_made(store: Engine) -> None:
    for number in range(3):
        say(store, add(store, f"Question {number}"), "correction", text="So.")
    asked = {"all": {"test": 0.3}, "reward": {"epochs": 1}, "evaluation": {"samples": 3}}
    cycle_id = begin(store, demonstrations=3, seed=7, settings=asked)
    for name in STEPS[:-1]:
        advance(store)
        assert work(store).id == steps(store, cycle_id)[name].id
    advance(store)
    made = steps(store, cycle_id)
    orders = {name: job.payload for name, job in made.items()}
    assert [job.kind for job in made.values()] == [*["fine_tuning"] * 4, "evaluation"]
    assert [(orders[name]["method"], orders[name]["model"]) for name in STEPS[:-1]] == [
        ("supervised", "base"), ("reward", "m-sft"), ("reward", "m-sft"), ("ppo", "m-sft")
    ]  # fmt: skip
    common = {"validation": 0.2, "test": 0.3}
    assert orders["sft"]["settings"] == orders["ppo"]["settings"] == common
    assert orders["reward"]["settings"] == common | {"epochs": 1}
    assert orders["judge"]["settings"] == common | {"epochs": 1, "judge": True}
    assert orders["ppo"]["reward_model"] == "m-reward"
    assert {order["seed"] for order in orders.values()} == {7}
    assert orders["evaluation"] == {
        "candidate": "m-ppo", "incumbent": "base", "judge_model": "m-judge", "seed": 7,
        "settings": common | {"samples": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "step", "named"),
    [
        ({"ppo": {"iteration": 4}}, "ppo", "iteration: Extra inputs are not permitted"),
        ({"reward": {"model": "other"}}, "reward", "model is the job's own to set"),
        ({"all": {"learning_rate": 1e-5}}, "evaluation", "learning_rate: Extra inputs are not permitted"),
        ({"evaluation": {"judge_url": "http://127.0.0.1:1/v1"}}, "evaluation", "judge_url is the job's own to set"),
    ],
)
def test_what_the_last_step_would_be_refused_for_ends_the_cycle_at_once(
    store: Engine, settings: dict[str, Any], step: str, named: str
) -> None:
    cycle_id = begin(store, settings=settings)
    advance(store)
    cycle = stored(store, cycle_id)
    assert (cycle.state, steps(store, cycle_id)) == ("failed", {})
    assert cycle.error is not None
    assert cycle.error.startswith(f"The step {step} cannot be asked for: ")
    assert named in cycle.error


def test_sft_is_a_step_where_enough_is_new(store: Engine) -> None:
    say(store, add(store, "One"), "correction", text="So.")
    first = begin(store, demonstrations=1)
    advance(store)
    assert set(steps(store, first)) == {"sft"}
    work(store)
    advance(store)
    work(store, error="the disk is full")
    advance(store)
    assert stored(store, first).state == "failed"
    say(store, add(store, "Two"), "correction", text="So.")
    with writing(store) as connection:
        since = steps(store, first)["sft"].created
        assert cycles.count_since(connection, ("correction",), since) == 1
    second = begin(store, demonstrations=2)
    advance(store)
    assert set(steps(store, second)) == {"reward"}, "what was learned from is not new, though the cycle failed"
    assert orders_model(store, second) == "base"


def orders_model(store: Engine, cycle_id: str) -> str:
    return str(steps(store, cycle_id)["reward"].payload["model"])


def test_whoever_looks_and_however_often_each_step_is_there_once(store: Engine) -> None:
    cycle_id = begin(store)
    for _ in range(3):
        assert advance(store)
    with reading(store) as connection:
        assert len(jobs.page(connection, "fine_tuning", limit=10)) == 1
    work(store)
    for _ in range(3):
        advance(store)
    assert list(steps(store, cycle_id)) == ["reward", "judge"]


def test_a_cycle_that_another_looks_after_is_left_to_it(store: Engine) -> None:
    if store.dialect.name == "sqlite":
        return  # whose transactions that write come one after the other
    cycle_id = begin(store)
    with writing(store) as connection:
        assert cycles.hold(connection, cycle_id) is not None
        advance(store)
        assert steps(store, cycle_id) == {}


@pytest.mark.parametrize(("share", "decision"), [(100, "promoted"), (25, "canary")])
def test_what_the_gate_lets_through_is_put_into_service(store: Engine, share: int, decision: str) -> None:
    cycle = gone_through(store, PASSED, share=share)
    assert (cycle.state, cycle.result["decision"], cycle.result["reasons"]) == ("succeeded", decision, ["better"])
    assert cycle.finished is not None
    newest = in_service(store)
    if decision == "promoted":
        assert (newest.policy_id, newest.candidate_id) == ("ckpt-m-ppo", None)
    else:
        assert (newest.policy_id, newest.candidate_id, newest.share) == (None, "ckpt-m-ppo", 25)
        assert newest.advances
    assert not advance(store)


def test_what_the_gate_refuses_is_not(store: Engine) -> None:
    cycle = gone_through(store, REFUSED)
    assert (cycle.state, cycle.result["decision"], cycle.result["reasons"]) == ("succeeded", "refused", ["worse"])
    assert in_service(store).number == 0


def test_what_was_measured_against_another_policy_is_refused(store: Engine) -> None:
    register(store, "other")
    cycle_id = begin(store)
    with writing(store) as connection:
        promotions.promote(connection, "ckpt-other", key_id=None)
    register(store, "m-ppo", "ppo")
    for _ in ("reward", "judge", "ppo"):
        advance(store)
        work(store)
    advance(store)
    work(store, PASSED)
    advance(store)
    cycle = stored(store, cycle_id)
    assert cycle.result["decision"] == "refused"
    assert "measured against the old one" in cycle.result["reasons"][0]
    assert in_service(store).policy_id == "ckpt-other"


def test_a_person_may_have_the_last_word(store: Engine) -> None:
    cycle = gone_through(store, PASSED, approve=True, share=100)
    assert (cycle.state, cycle.result["decision"]) == ("paused", "proposed")
    advance(store)
    assert in_service(store).number == 0
    with writing(store) as connection:
        assert not cycles.approve(connection, "cycle-none")
        assert cycles.approve(connection, cycle.id)
        assert not cycles.approve(connection, cycle.id), "it proposes nothing any more"
    advance(store)
    assert in_service(store).policy_id == "ckpt-m-ppo"
    assert stored(store, cycle.id).result["decision"] == "promoted"


def test_what_is_proposed_can_be_refused(store: Engine) -> None:
    cycle = gone_through(store, PASSED, approve=True)
    with writing(store) as connection:
        assert jobs.ask(connection, cycle.id, "cancel")
        assert not cycles.approve(connection, cycle.id)
    assert not advance(store)
    assert (stored(store, cycle.id).state, in_service(store).number) == ("cancelled", 0)


def test_a_step_that_fails_ends_the_cycle_with_its_reason(store: Engine) -> None:
    cycle_id = begin(store)
    advance(store)
    step = work(store, error="there are no rankings")
    advance(store)
    cycle = stored(store, cycle_id)
    assert (cycle.state, cycle.error) == ("failed", f"The step reward ({step.id}) failed: there are no rankings")
    assert begin(store) != cycle_id, "the next may begin"


def test_a_cancelled_cycle_ends_with_the_step_that_it_is_at(store: Engine) -> None:
    cycle_id = begin(store)
    advance(store)
    with writing(store) as connection:
        claimed = jobs.claim(connection, "fine_tuning")
        assert claimed is not None
        assert jobs.ask(connection, cycle_id, "cancel")
    advance(store)
    with writing(store) as connection:
        assert jobs.beat(connection, claimed) == "cancel"
        jobs.put_down(connection, claimed)
    advance(store)
    cycle = stored(store, cycle_id)
    assert (cycle.state, cycle.error, list(steps(store, cycle_id))) == ("cancelled", None, ["reward"])


def test_a_cancel_between_two_steps_ends_the_cycle(store: Engine) -> None:
    cycle_id = begin(store)
    advance(store)
    work(store)
    with writing(store) as connection:
        assert jobs.ask(connection, cycle_id, "cancel")
    advance(store)
    assert (stored(store, cycle_id).state, list(steps(store, cycle_id))) == ("cancelled", ["reward"])


def test_one_cycle_at_a_time_and_none_while_a_policy_is_tried_out(store: Engine) -> None:
    cycle_id = begin(store)
    with pytest.raises(CycleGoingOnError, match=cycle_id):
        begin(store)
    with writing(store) as connection:
        assert jobs.ask(connection, cycle_id, "cancel")
    register(store, "m-ppo", "ppo")
    with writing(store) as connection:
        promotions.try_out(connection, "ckpt-m-ppo", share=10, advances=False, key_id=None)
    with pytest.raises(PolicyTriedOutError):
        begin(store)
    with writing(store) as connection:
        promotions.promote(connection, "ckpt-m-ppo", key_id=None)
    assert stored(store, begin(store)).payload["model"] == "m-ppo", "it begins with what is in service"


def test_a_schedule_starts_a_cycle_when_enough_was_compared(store: Engine) -> None:
    def said(count: int) -> None:
        for _ in range(count):
            completion_id = add(store, "Q", "a", "b")
            order(store, (completion_id, 0, 1), (completion_id, 1, 2), kind="comparison")

    daily, always = Schedule(2, timedelta(days=1), "base"), Schedule(2, timedelta(0), "base")
    said(1)
    assert daily.start_if_due(store) is None
    said(1)
    first = daily.start_if_due(store)
    assert first is not None
    assert first.payload["model"] == "base"
    said(2)
    assert always.start_if_due(store) is None, "one goes on"
    with writing(store) as connection:
        assert jobs.ask(connection, first.id, "cancel")
    assert daily.start_if_due(store) is None, "at most daily"
    second = always.start_if_due(store)
    assert second is not None
    with writing(store) as connection:
        assert jobs.ask(connection, second.id, "cancel")
    assert always.start_if_due(store) is None, "nothing came since"
