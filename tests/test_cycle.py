"""Which step of a cycle comes next and what it is made of, by the rows alone: jobs are claimed and finished here as
workers do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from completions import add
from databases import Postgres
from exchanged import order, say
from fine_tuning_server import register, stored
from sqlalchemy import Engine

from honed.server.store import cycles, jobs, promotions
from honed.server.store.database import open_database, reading, writing
from honed.server.store.jobs import StoredJob
from honed.training.cycle import Schedule, advance
from honed.training.planning.cycle_steps import STEPS

PASSED = {
    "candidate": {"name": "m-ppo", "id": "ckpt-m-ppo"}, "incumbent": {"name": "base", "id": "ckpt-base"},
    "promote": True, "reasons": ["better"],
}  # fmt: skip
REFUSED = PASSED | {"promote": False, "reasons": ["worse"]}


def collect(store: Engine, count: int = 80) -> None:
    """Rankings of prompts that nobody in particular asked: some in each split."""
    for number in range(count):
        completion_id = add(store, f"What is {number}?", "a", "b")
        order(store, (completion_id, 0, 1), (completion_id, 1, 2))


def demonstrate(store: Engine, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        say(store, add(store, f"Show {number}"), "correction", text="So.")


@pytest.fixture
def filled(store: Engine) -> Engine:
    collect(store)
    return store


def begin(store: Engine, **asked: Any) -> str:
    with writing(store) as connection:
        return cycles.start(connection, "base", asked, key_id=None).id


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


def test_each_step_starts_from_what_those_before_it_made(filled: Engine) -> None:
    demonstrate(filled, 30)
    asked = {"all": {"test": 0.3}, "reward": {"epochs": 1}, "evaluation": {"samples": 3}}
    cycle_id = begin(filled, demonstrations=30, seed=7, settings=asked)
    for name in STEPS[:-1]:
        advance(filled)
        assert work(filled).id == steps(filled, cycle_id)[name].id
    advance(filled)
    made = steps(filled, cycle_id)
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
        ({"reward": {"judge": True}}, None, "settings.reward: judge would mix the prompts of the steps"),
        ({"ppo": {"validation": 0.5}}, None, "settings.ppo: validation would mix the prompts of the steps"),
        ({"all": {"test": 60}}, None, "settings.all: validation and test are shares"),
        ({"all": {"judge": True}}, None, "judge is not for it"),
    ],
)
def test_what_the_last_step_would_be_refused_for_ends_the_cycle_at_once(
    store: Engine, settings: dict[str, Any], step: str | None, named: str
) -> None:
    cycle_id = begin(store, settings=settings)
    advance(store)
    cycle = stored(store, cycle_id)
    assert (cycle.state, steps(store, cycle_id)) == ("failed", {})
    assert cycle.error is not None
    assert step is None or cycle.error.startswith(f"The step {step} cannot be asked for: ")
    assert named in cycle.error


def test_texts_that_are_not_there_end_the_cycle_at_once(filled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONED_PRETRAINING", "nowhere.jsonl")
    cycle_id = begin(filled)
    advance(filled)
    assert steps(filled, cycle_id) == {}
    error = stored(filled, cycle_id).error
    assert error is not None
    assert error.startswith("The step ppo cannot be asked for: HONED_PRETRAINING: nowhere.jsonl cannot be read")


def test_sft_is_a_step_where_enough_is_new_to_what_is_in_service(filled: Engine) -> None:
    demonstrate(filled, 30)
    register(filled, "m-sft")
    register(filled, "m-ppo", "ppo", parent_id="ckpt-m-sft")
    first = begin(filled, demonstrations=30)
    advance(filled)
    assert set(steps(filled, first)) == {"sft"}
    work(filled)
    advance(filled)
    work(filled, error="the disk is full")
    advance(filled)
    assert stored(filled, first).state == "failed"
    second = begin(filled, demonstrations=30, share=100)
    for name in STEPS:
        advance(filled)
        assert name in steps(filled, second), "what nobody in service has learned is new still"
        work(filled, PASSED if name == "evaluation" else None)
    advance(filled)
    assert in_service(filled).policy_id == "ckpt-m-ppo"
    demonstrate(filled, 1, start=30)
    third = begin(filled, demonstrations=2)
    advance(filled)
    assert steps(filled, third)["reward"].payload["model"] == "m-ppo"
    assert said(filled, third)[1] == "New demonstrations: 1. The steps are reward, judge, ppo, evaluation."


def test_too_few_prompts_to_measure_on_end_the_cycle_at_once(store: Engine) -> None:
    collect(store, 28)
    cycle_id = begin(store)
    advance(store)
    cycle = stored(store, cycle_id)
    assert (cycle.state, steps(store, cycle_id)) == ("failed", {})
    assert cycle.error is not None
    assert cycle.error.startswith(
        "The step evaluation cannot be asked for: it needs 10 held-out prompts, and there are "
    )


def test_demonstrations_that_cannot_be_split_are_no_step(filled: Engine) -> None:
    """All of one user, so that nothing of them is left to measure on, or to train on."""
    for number in range(30):
        say(filled, add(filled, f"Show {number}", user="ann"), "correction", text="So.")
    cycle_id = begin(filled)
    advance(filled)
    assert set(steps(filled, cycle_id)) == {"reward"}
    assert said(filled, cycle_id)[1].startswith("New demonstrations: 30. They do not suffice: ")


def test_what_cannot_be_trained_on_ends_the_cycle_at_once(store: Engine) -> None:
    cycle_id = begin(store)
    advance(store)
    cycle = stored(store, cycle_id)
    assert (cycle.state, steps(store, cycle_id)) == ("failed", {})
    assert cycle.error is not None
    assert cycle.error.startswith("The step reward cannot be asked for: There is nothing to train on: the store has no")


def said(store: Engine, cycle_id: str) -> list[str]:
    """The events, the oldest first."""
    with reading(store) as connection:
        return [event.message for event in jobs.events(connection, cycle_id, limit=100)][::-1]


def test_whoever_looks_and_however_often_each_step_is_there_once(filled: Engine) -> None:
    cycle_id = begin(filled)
    for _ in range(3):
        assert advance(filled)
    with reading(filled) as connection:
        assert len(jobs.page(connection, "fine_tuning", limit=10)) == 1
    work(filled)
    for _ in range(3):
        advance(filled)
    assert list(steps(filled, cycle_id)) == ["reward", "judge"]


def test_a_cycle_that_another_looks_after_is_left_to_it(postgres: Postgres) -> None:
    """On SQLite transactions that write come one after the other."""
    store = open_database(postgres.new_store())
    collect(store)
    cycle_id = begin(store)
    with writing(store) as connection:
        assert cycles.hold(connection, cycle_id) is not None
        assert advance(store), "there is work for it, whoever looks after it"
        assert steps(store, cycle_id) == {}
    store.dispose()


@pytest.mark.parametrize(("share", "decision"), [(100, "promoted"), (25, "canary")])
def test_what_the_gate_lets_through_is_put_into_service(filled: Engine, share: int, decision: str) -> None:
    cycle = gone_through(filled, PASSED, share=share)
    assert (cycle.state, cycle.result["decision"], cycle.result["reasons"]) == ("succeeded", decision, ["better"])
    assert cycle.finished is not None
    newest = in_service(filled)
    if decision == "promoted":
        assert (newest.policy_id, newest.candidate_id) == ("ckpt-m-ppo", None)
    else:
        assert (newest.policy_id, newest.candidate_id, newest.share) == (None, "ckpt-m-ppo", 25)
        assert newest.advances
    assert not advance(filled)


def test_what_the_gate_refuses_is_not(filled: Engine) -> None:
    cycle = gone_through(filled, REFUSED)
    assert (cycle.state, cycle.result["decision"], cycle.result["reasons"]) == ("succeeded", "refused", ["worse"])
    assert in_service(filled).number == 0


def test_what_was_measured_against_another_policy_is_refused(filled: Engine) -> None:
    register(filled, "other")
    cycle_id = begin(filled)
    with writing(filled) as connection:
        promotions.promote(connection, "ckpt-other", key_id=None)
    register(filled, "m-ppo", "ppo")
    for _ in ("reward", "judge", "ppo"):
        advance(filled)
        work(filled)
    advance(filled)
    work(filled, PASSED)
    advance(filled)
    cycle = stored(filled, cycle_id)
    assert cycle.result["decision"] == "refused"
    assert "it was measured against those" in cycle.result["reasons"][0]
    assert in_service(filled).policy_id == "ckpt-other"


@pytest.mark.parametrize(("incumbent", "decision"), [("ckpt-other", "promoted"), ("ckpt-base", "refused")])
def test_only_what_it_was_measured_against_is_replaced(filled: Engine, incumbent: str, decision: str) -> None:
    register(filled, "other")
    with writing(filled) as connection:
        promotions.promote(connection, "ckpt-other", key_id=None)
    cycle = gone_through(filled, PASSED | {"incumbent": {"name": "other", "id": incumbent}}, share=100)
    assert cycle.payload["model"] == "other"
    assert cycle.result["decision"] == decision


def test_a_person_may_have_the_last_word(filled: Engine) -> None:
    cycle = gone_through(filled, PASSED, approve=True, share=100)
    assert (cycle.state, cycle.result["decision"]) == ("paused", "proposed")
    advance(filled)
    assert in_service(filled).number == 0
    with writing(filled) as connection:
        assert not cycles.approve(connection, "cycle-none")
        assert cycles.approve(connection, cycle.id)
        assert not cycles.approve(connection, cycle.id), "it proposes nothing any more"
    advance(filled)
    assert in_service(filled).policy_id == "ckpt-m-ppo"
    assert stored(filled, cycle.id).result["decision"] == "promoted"


def test_what_is_proposed_can_be_refused(filled: Engine) -> None:
    cycle = gone_through(filled, PASSED, approve=True)
    with writing(filled) as connection:
        assert cycles.cancel(connection, cycle.id)
        assert not cycles.approve(connection, cycle.id)
        assert not cycles.cancel(connection, cycle.id)
    assert not advance(filled)
    refused = stored(filled, cycle.id)
    assert (refused.state, refused.result["decision"], in_service(filled).number) == ("cancelled", "refused", 0)
    assert said(filled, cycle.id)[-1] == "m-ppo: refused. A person refused it."


def test_a_step_that_fails_ends_the_cycle_with_its_reason(filled: Engine) -> None:
    cycle_id = begin(filled)
    advance(filled)
    step = work(filled, error="there are no rankings")
    advance(filled)
    cycle = stored(filled, cycle_id)
    assert (cycle.state, cycle.error) == ("failed", f"The step reward ({step.id}) failed: there are no rankings")
    assert begin(filled) != cycle_id, "the next may begin"


def test_a_row_that_is_not_as_it_should_be_fails_its_cycle_alone(filled: Engine) -> None:
    cycle_id = begin(filled, settings={"all": 5})
    assert not advance(filled)
    cycle = stored(filled, cycle_id)
    assert cycle.state == "failed"
    assert cycle.error is not None
    assert cycle.error.startswith("TypeError: ")


def test_a_step_that_somebody_paused_is_waited_for_by_nobody(filled: Engine) -> None:
    cycle_id = begin(filled)
    assert advance(filled)
    with writing(filled) as connection:
        assert jobs.ask(connection, steps(filled, cycle_id)["reward"].id, "pause")
    assert not advance(filled)
    assert stored(filled, cycle_id).state == "running"


def test_a_cancelled_cycle_ends_with_the_step_that_it_is_at(filled: Engine) -> None:
    cycle_id = begin(filled)
    advance(filled)
    with writing(filled) as connection:
        claimed = jobs.claim(connection, "fine_tuning")
        assert claimed is not None
        assert cycles.cancel(connection, cycle_id)
        assert jobs.beat(connection, claimed) == "cancel", "without anybody who looks after the cycle"
        jobs.put_down(connection, claimed)
    advance(filled)
    cycle = stored(filled, cycle_id)
    assert (cycle.state, cycle.error, list(steps(filled, cycle_id))) == ("cancelled", None, ["reward"])


def test_a_cancel_between_two_steps_ends_the_cycle(filled: Engine) -> None:
    cycle_id = begin(filled)
    advance(filled)
    work(filled)
    with writing(filled) as connection:
        assert cycles.cancel(connection, cycle_id)
    advance(filled)
    assert (stored(filled, cycle_id).state, list(steps(filled, cycle_id))) == ("cancelled", ["reward"])


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
        assert cycles.cancel(connection, second.id)
    third = always.start_if_due(store)
    assert third is not None, "nothing was learned from what came before"
    with writing(store) as connection:
        cycles.end(connection, third.id, "succeeded", result={})
    assert always.start_if_due(store) is None, "nothing came since"
    said(2)
    fourth = always.start_if_due(store)
    assert fourth is not None
    with writing(store) as connection:
        cycles.wait(connection, fourth.id, {"candidate": "m-ppo", "decision": "proposed"})
        assert cycles.cancel(connection, fourth.id)
    assert always.start_if_due(store) is None, "a person decided"


def test_a_schedule_waits_while_a_policy_is_tried_out(filled: Engine) -> None:
    register(filled, "m-ppo", "ppo")
    with writing(filled) as connection:
        promotions.try_out(connection, "ckpt-m-ppo", share=10, advances=False, key_id=None)
    assert Schedule(1, timedelta(0), "base").start_if_due(filled) is None
