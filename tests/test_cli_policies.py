"""`honed promote`, `honed rollback` and `honed lineage` on both databases, with checkpoints as training leaves them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from completions import add
from conftest import eventually, running
from exchanged import order, say
from policies_server import Home
from sqlalchemy import Engine, select
from sqlalchemy.engine import URL
from typer.testing import CliRunner, Result

from honed.cli import app
from honed.models.checkpoint import read_lineage
from honed.server.store import promotions
from honed.server.store.database import reading, writing
from honed.server.store.erasure import erase_completion
from honed.server.store.snapshots import Part, register_checkpoint, write_snapshot
from honed.server.store.tables import Completion


@pytest.fixture
def home(tmp_path: Path, store_url: URL, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HONED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HONED_DATABASE_URL", store_url.render_as_string(hide_password=False))
    return Home.at(tmp_path / "home", store_url)


def honed(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def said(*words: str) -> str:
    result = honed(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> str:
    result = honed(*words)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    return result.stderr


def in_service(store: Engine) -> str | None:
    with reading(store) as connection:
        return promotions.newest(connection).policy_id


# Promotions


def test_a_policy_is_put_into_service_and_back(home: Home, store: Engine) -> None:
    home.add("one")
    home.add("two", stage="dpo")
    assert in_service(store) is None
    assert said("promote", "one") == "one is in service now. Servers of this store follow within seconds.\n"
    assert said("promote", "one") == "one is in service already.\n"
    assert said("promote", "two").startswith("two is in service now.")
    assert in_service(store) == home.ids["two"]
    assert said("rollback").startswith("one is in service now.")
    assert in_service(store) == home.ids["one"]
    assert said("rollback").startswith("What the settings of each server name (HONED_MODEL) is in service now.")
    assert in_service(store) is None
    assert refused("rollback") == "honed: no other policy was in service before: there is nothing to go back to.\n"


def test_a_policy_is_put_into_the_shadow_and_out(home: Home, store: Engine) -> None:
    home.add("one")
    home.add("two")
    said("promote", "one")
    assert said("promote", "two", "--shadow", "10") == (
        "two answers 10 % of the users too, unseen. Servers of this store follow within seconds.\n"
    )
    with reading(store) as connection:
        newest = promotions.newest(connection)
    assert (newest.policy_id, newest.candidate_id) == (home.ids["one"], home.ids["two"])
    assert (newest.share, newest.is_shadow, newest.advances) == (10, True, False)
    assert refused("promote", "one", "--shadow", "10") == (
        "honed: one is in service: there is nothing to compare it with.\n"
    )
    assert honed("promote", "two", "--shadow", "0").exit_code == 2
    assert said("rollback").startswith("one is in service now.")
    with reading(store) as connection:
        assert promotions.newest(connection).candidate_id is None


def test_a_server_follows(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("honed.server.policies.FOLLOW_S", 0.05)
    home.add("base")
    home.add("one")
    with running(home.settings()) as server, server.http() as http:

        def current() -> str:
            name: str = http.get("/v1/policies").json()["data"][0]["id"]
            return name

        said("promote", "one")
        eventually(lambda: current() == home.ids["one"])
        said("rollback")
        eventually(lambda: current() == home.ids["base"])


def test_what_cannot_be_promoted_is_said(home: Home, store: Engine) -> None:
    assert refused("promote", "one") == "honed: the store has no policy one.\n"
    home.add("mine-sft")
    home.add("yours-ppo", stage="ppo")
    home.add("judge", stage="reward")
    home.add("elsewhere", is_registered=False)
    assert "the store has no policy mine-stf: there is mine-sft." in refused("promote", "mine-stf")
    assert "the store has no policy zzz: there is mine-sft, yours-ppo." in refused("promote", "zzz")
    assert "the store has no policy elsewhere" in refused("promote", "elsewhere")
    assert "judge is of the stage reward, and no policy." in refused("promote", "judge")
    shutil.rmtree(home.folder / "models" / "mine-sft")
    assert "mine-sft (ckpt-" in refused("promote", "mine-sft")
    assert in_service(store) is None


def test_of_two_of_one_name_the_one_whose_folder_is_there(home: Home, store: Engine) -> None:
    folder = home.add("one")
    first = read_lineage(folder)
    assert first is not None
    home.register(first.model_copy(update={"id": "ckpt-newer", "created": first.created.replace(year=2027)}), folder)
    said("promote", "one")
    assert in_service(store) == first.id


def test_a_rollback_needs_no_models_on_this_machine(home: Home, store: Engine) -> None:
    """The servers may have them. It is said, but for a candidate, which goes without any."""
    for name in ("one", "two"):
        home.add(name)
        said("promote", name)
    home.add("three")
    with writing(store) as connection:
        promotions.try_out(connection, home.ids["three"], share=10, advances=True, key_id=None)
    shutil.rmtree(home.folder / "models")
    out = honed("rollback")
    assert (out.exit_code, out.stderr) == (0, "")
    assert out.stdout.startswith("two is in service now.")
    back = honed("rollback")
    assert back.exit_code == 0
    assert back.stdout.startswith("one is in service now.")
    assert back.stderr.startswith(f"honed: one ({home.ids['one']}) is not in ")
    with reading(store) as connection:
        newest = promotions.newest(connection)
    assert (newest.policy_id, newest.candidate_id) == (home.ids["one"], None)


# Lineage


def register(home: Home, store: Engine, name: str, stage: str, **fields: Any) -> None:
    """A checkpoint that a run has made: the folder, and the store's row."""
    folder = home.add(name, stage=stage, is_registered=False)
    written = read_lineage(folder)
    assert written is not None
    made = written.model_copy(
        update={
            "settings": fields.get("settings", {}),
            "metrics": fields.get("metrics", {}),
            "parent": fields.get("parent_id"),
            "dataset": fields.get("snapshot_id"),
        }
    )
    (folder / "lineage.json").write_text(made.model_dump_json())
    given: dict[str, Any] = {"parent_id": None, "snapshot_id": None, "settings": {}, "metrics": {}}
    with writing(store) as connection:
        register_checkpoint(
            connection, id=made.id, created=made.created, name=name, stage=stage, folder=str(folder), **given | fields
        )


@pytest.fixture
def circle(home: Home, store: Engine) -> Home:
    """mine-sft and mine-reward of the store, mine-ppo of a file, all from `base`, which the store does not know."""
    hers = add(store, "Tell me of it", "No.", "Yes.", user="ann")
    theirs = add(store, "Something else", "a", "b", user="ben")
    nobodys = add(store, "Nothing", "x")
    better = say(store, hers, "correction", text="Better.")
    rankings = [order(store, (each, 0, 1), (each, 1, 2)) for each in (hers, theirs)]
    with writing(store) as connection:
        parts = [Part(hers, better, "train"), Part(theirs, None, "train"), Part(nobodys, None, "validation")]
        write_snapshot(connection, "data-sft", "sft", {}, parts)
        parts = [Part(hers, rankings[0], "train"), Part(theirs, rankings[1], "train")]
        write_snapshot(connection, "data-reward", "reward", {}, parts)
    home.add("base", stage="source", is_registered=False)
    start = {"model": "base", "data": "store"}
    numbers = {"train/loss": 2.0, "validation/loss": 1.25}
    register(home, store, "mine-sft", "sft", parent_id=home.ids["base"], snapshot_id="data-sft", settings=start,
             metrics=numbers)  # fmt: skip
    after = {"model": "mine-sft", "data": "store"}
    register(home, store, "mine-reward", "reward", parent_id=home.ids["mine-sft"], snapshot_id="data-reward",
             settings=after)  # fmt: skip
    settings = {"model": "mine-sft", "data": "/data/prompts.jsonl", "reward_model": "mine-reward"}
    register(home, store, "mine-ppo", "ppo", parent_id=home.ids["mine-sft"], settings=settings, metrics={"ppo/kl": 3})
    return home


def tree(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said("lineage", name, "--json"))
    return found


def test_a_policy_is_followed_down_to_the_rows(circle: Home) -> None:
    ppo = tree("mine-ppo")
    assert (ppo["name"], ppo["id"], ppo["stage"]) == ("mine-ppo", circle.ids["mine-ppo"], "ppo")
    assert (ppo["created"], ppo["has_folder"]) == ("2026-01-01T00:04:00+00:00", True)
    assert ppo["metrics"] == {"ppo/kl": 3}
    assert ppo["data"] == {"snapshot": None, "contents": None, "file": "prompts.jsonl"}
    sft = ppo["parent"]
    assert (sft["name"], sft["data"]["snapshot"]) == ("mine-sft", "data-sft")
    counted = dict(sft["data"]["contents"])
    assert counted.pop("created")
    assert counted == {"rows": 3, "erased": 0, "completions": 3, "feedback": {"correction": 1}, "users": 2}
    base = sft["parent"]
    assert (base["name"], base["id"], base["stage"]) == ("base", circle.ids["base"], "source")
    assert (base["data"], base["parent"], base["reward_model"]) == (None, None, None)
    reward = ppo["reward_model"]
    assert (reward["name"], reward["parent"]) == ("mine-reward", sft)
    assert reward["data"]["contents"]["feedback"] == {"ranking": 2}


def test_a_tree_is_drawn(circle: Home) -> None:
    def made(name: str, stage: str, minute: int) -> str:
        return f"{name} ({stage}, 2026-01-01 00:0{minute}, {circle.ids[name]})"

    sft = [
        f"trained from: {made('mine-sft', 'sft', 2)}",
        "validation/loss 1.25",
        "data: data-sft: 3 rows, 0 of them erased; 3 completions, feedback: 1 correction; 2 users",
        f"trained from: {made('base', 'source', 1)}",
    ]
    lines = [re.sub("^[│├└─\\s]*", "", line) for line in said("lineage", "mine-ppo").splitlines()]
    assert lines == [
        made("mine-ppo", "ppo", 4),
        "ppo/kl 3",
        "data: the file prompts.jsonl",
        f"reward model: {made('mine-reward', 'reward', 3)}",
        "data: data-reward: 2 rows, 0 of them erased; 2 completions, feedback: 2 ranking; 2 users",
        *sft,
        *sft,
    ]


def test_what_was_erased_and_deleted_is_said(circle: Home, store: Engine) -> None:
    with reading(store) as connection:
        nobodys = connection.execute(select(Completion.id).where(Completion.user_hash.is_(None))).scalar_one()
    erase_completion(store, nobodys)
    shutil.rmtree(circle.folder / "models" / "mine-sft")
    drawn = said("lineage", "mine-sft")
    assert f"{circle.ids['mine-sft']}), its folder is deleted\n" in drawn
    assert "3 rows, 1 of them erased; 2 completions, feedback: 1 correction; 2 users" in drawn
    assert tree("mine-sft")["has_folder"] is False
    shutil.rmtree(circle.folder / "models" / "base")
    assert tree("mine-sft")["parent"] == dict.fromkeys(tree("mine-sft")["parent"], None) | {"name": "base"}


def test_an_unknown_name_is_said_with_those_near_it(circle: Home) -> None:
    assert refused("lineage", "mine-rewart").startswith(
        "honed: there is no checkpoint mine-rewart: there is mine-reward"
    )
    assert "there is base, mine-ppo, mine-reward, mine-sft." in refused("lineage", "../x")


def test_folders_tell_what_the_store_does_not(circle: Home, tmp_path: Path) -> None:
    whole = tree("mine-ppo")
    other = ("--database-url", f"sqlite:///{tmp_path / 'other.db'}")
    alone = json.loads(said("lineage", "mine-ppo", "--json", *other))
    assert alone["parent"]["data"] == {"snapshot": "data-sft", "contents": None, "file": None}
    assert "data: data-sft, which is not in this store" in said("lineage", "mine-ppo", *other)
    for one in (whole["parent"], whole["reward_model"], whole["reward_model"]["parent"]):
        one["data"]["contents"] = None
    assert alone == whole


def test_a_reward_model_of_the_same_name_that_came_later_is_another(circle: Home, store: Engine) -> None:
    """It may even be made of the policy."""
    before = tree("mine-ppo")
    first = circle.ids["mine-reward"]
    shutil.rmtree(circle.folder / "models" / "mine-reward")
    settings = {"model": "mine-ppo", "data": "store"}
    register(circle, store, "mine-reward", "reward", parent_id=circle.ids["mine-ppo"], settings=settings)
    assert tree("mine-reward")["parent"]["reward_model"]["id"] == first != circle.ids["mine-reward"]
    before["reward_model"]["has_folder"] = False
    assert tree("mine-ppo") == before


def test_the_upload_of_a_job_is_named_with_the_job(home: Home, store: Engine) -> None:
    settings = {"model": str(home.folder / "models" / "base"), "data": str(home.folder / "jobs/ftjob-1/training.jsonl")}
    register(home, store, "ft:base::1", "sft", parent_id="ckpt-unknown", settings=settings)
    drawn = said("lineage", "ft:base::1")
    assert "data: the file training.jsonl of ftjob-1" in drawn
    assert "trained from: base\n" in drawn
