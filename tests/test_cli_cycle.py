"""`honed cycle`, `honed approve` and a worker's schedule as commands, up to where training begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from test_cycle import collect, in_service
from test_cycle_people import in_people_s_hands, judge
from typer.testing import CliRunner

from honed.cli import app
from honed.server.store import cycles, jobs
from honed.server.store.database import database_url, open_database, reading, writing
from honed.server.store.jobs import StoredJob
from honed.server.store.migrations import migrate

EMPTY = "The step reward cannot be asked for: There is nothing to train on: the store has no"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The store of a home of its own."""
    monkeypatch.setenv("HONED_HOME", str(tmp_path))
    for name in ("HONED_DATABASE_URL", "HONED_MODEL"):
        monkeypatch.delenv(name, raising=False)
    engine = open_database(database_url(None, tmp_path))
    migrate(engine)
    yield engine
    engine.dispose()


def honed(*arguments: str, fails: bool = False) -> str:
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code != 0) == fails, done.output
    return " ".join(done.output.split())


def newest(store: Engine) -> StoredJob:
    with reading(store) as connection:
        cycle = cycles.newest(connection)
    assert cycle is not None
    return cycle


def propose(store: Engine, cycle_id: str) -> None:
    """As its gate would."""
    report = {"candidate": {"name": "new", "id": "ckpt-new"}, "promote": False, "reasons": ["It wins."]}
    result: dict[str, Any] = {
        "steps": ["evaluation"],
        "decision": "proposed",
        "candidate": "new",
        "reasons": ["It wins."],
    }
    with writing(store) as connection:
        key = cycles.step_key(cycle_id, "evaluation")
        jobs.enqueue(connection, "evaluation", key=key)
        job = jobs.claim(connection, "evaluation")
        assert job is not None
        jobs.finish(connection, job, result=report)
        cycles.wait(connection, cycle_id, result | {"reasons": report["reasons"]})


def test_a_cycle_without_data_says_what_is_missing(own: Engine) -> None:
    assert EMPTY in honed("cycle", "--device", "cpu", fails=True)
    assert newest(own).state == "failed"


def test_options_are_what_the_cycle_is_asked_for_with(own: Engine) -> None:
    collect(own)
    options = ("--approve", "--share", "25", "--demonstrations", "7", "--seed", "3", "--model", "mine")
    cycle_id = honed("cycle", "--queue", *options, "--set", "ppo.kl-coefficient=0.1", "--set", "all.dtype=float32")
    cycle = newest(own)
    assert cycle.id == cycle_id
    named = ("approve", "share", "demonstrations", "seed", "model")
    assert [cycle.payload[name] for name in named] == [True, 25, 7, 3, "mine"]
    assert cycle.payload["settings"] == {
        "all": {"dtype": "float32"}, "sft": {}, "reward": {}, "ppo": {"kl_coefficient": 0.1}, "evaluation": {}
    }  # fmt: skip
    said = honed("cycle", "--queue", "--share", "50", fails=True)
    assert f"{cycle_id} has not ended" in said
    other = [*options[:-1], "other", "--set", "ppo.kl-coefficient=0.1", "--set", "all.dtype=float32"]
    assert "other options" in honed("cycle", "--queue", *other, fails=True), "it begins with another model"
    assert "other options" in said


@pytest.mark.parametrize("wrong", ["ppo.iterations", "ppo=4", "nobody.x=4", ".x=4", "ppo.=4"])
def test_settings_are_written_in_one_way(own: Engine, wrong: str) -> None:
    assert f"--set {wrong}: write STAGE.NAME=VALUE" in honed("cycle", "--set", wrong, fails=True)


def test_what_a_cycle_proposes_is_decided_by_a_person(own: Engine) -> None:
    assert "proposes nothing" in honed("approve", fails=True)
    collect(own)
    cycle_id = honed("cycle", "--queue", "--approve")
    assert f"{cycle_id} proposes nothing" in honed("approve", fails=True)
    propose(own, cycle_id)
    assert f"{cycle_id} proposes new: honed approve" in honed("cycle", fails=True)
    assert "new: refused. It wins." in honed("approve"), "by what its evaluation says in the end"
    assert in_service(own).number == 0


def test_a_cycle_that_waits_for_labelers_says_so_and_goes_on_when_they_have_answered(own: Engine) -> None:
    collect(own)
    cycle = in_people_s_hands(own, settings={stage: {} for stage in ("all", "sft", "reward", "ppo", "evaluation")})
    waits = honed("cycle", "--model", "base")
    assert f"Going on with {cycle.id}. m-ppo waits for labelers: 0 prompts judged, 10 not." in waits
    assert f"{cycle.id} proposes nothing" in honed("approve", fails=True)
    judge(own, "candidate", 10)
    assert "m-ppo: canary." in honed("cycle", "--model", "base")
    assert in_service(own).candidate_id == "ckpt-m-ppo"


def test_a_worker_starts_a_cycle_when_enough_was_compared(own: Engine) -> None:
    collect(own, 2)
    honed("worker", "--once", "--device", "cpu", "--cycle-after", "3")
    with reading(own) as connection:
        assert cycles.newest(connection) is None
    honed("worker", "--once", "--device", "cpu", "--cycle-after", "2", "--cycle-hours", "0.5", "--model", "mine")
    first = newest(own)
    assert (first.state, first.payload["model"]) == ("failed", "mine"), "two do not suffice to train on"
    honed("worker", "--once", "--device", "cpu", "--cycle-after", "1")
    assert newest(own).id == first.id, "at most daily"


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["--cycle-hours", "1"], {}, "--cycle-hours says nothing without --cycle-after"),
        ([], {"HONED_JUDGE_URL": "http://127.0.0.1:1/v1"}, "HONED_JUDGE_URL and HONED_JUDGE_NAME: set both"),
        ([], {"HONED_JUDGE_KEY": "secret"}, "HONED_JUDGE_URL and HONED_JUDGE_NAME: set both"),
        ([], {"HONED_PRETRAINING": "nowhere.jsonl"}, "HONED_PRETRAINING: nowhere.jsonl cannot be read"),
    ],
)
def test_a_worker_refuses_what_says_nothing(
    own: Engine, monkeypatch: pytest.MonkeyPatch, options: list[str], environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    output = honed("worker", "--once", *options, fails=True)
    assert said in output
    assert "secret" not in output
