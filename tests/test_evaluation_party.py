"""What policies and judges were made of: folders, the store's rows of those that are gone, and what cannot be found."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from completions import add
from exchanged import say
from fakes import save_tiny_policy
from gated import words
from sqlalchemy import Engine

from honed.models.checkpoint import LINEAGE_FILE, Lineage, checkpoint_id, new_checkpoint_id, read_lineage
from honed.server.store.database import writing
from honed.server.store.snapshots import register_checkpoint
from honed.server.store.tables import Setting
from honed.server.store.upserts import insert_missing
from honed.training.configs import DataConfig
from honed.training.data.datasets import load_dataset
from honed.training.evaluation.config import EvaluationConfig
from honed.training.evaluation.party import Party, gather
from honed.training.evaluation.questions import load_questions
from honed.training.failures import TrainingError

WHO = {"candidate": "new", "incumbent": "old", "judge_model": "judge"}


class Home:
    """`base` is a model from elsewhere; what is made comes later than all that was made before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._minute = 0
        save_tiny_policy(folder / "models" / "base", name="base")

    def path(self, name: str) -> Path:
        return self.folder / "models" / name

    def id(self, name: str) -> str:
        return checkpoint_id(self.path(name))

    def make(self, name: str, parent: str, stage: Any = "sft", store: Engine | None = None, **fields: Any) -> Lineage:
        """A checkpoint that was trained from `parent`, which the store knows where that is given."""
        self._minute += 1
        given: dict[str, Any] = {
            "parent": self.id(parent),
            "created": datetime(2026, 1, 1, 0, self._minute, tzinfo=UTC),
            "settings": {"model": parent, "data": "store"} | fields.pop("settings", {}),
        }
        made = Lineage(id=new_checkpoint_id(), name=name, stage=stage, source="store", **given | fields)
        shutil.copytree(self.path("base"), self.path(name))
        (self.path(name) / LINEAGE_FILE).write_text(made.model_dump_json())
        if store is not None:
            own = {key: getattr(made, key) for key in ("id", "name", "stage", "created", "settings", "metrics")}
            where = {"parent_id": made.parent, "snapshot_id": made.dataset, "folder": str(self.path(name))}
            with writing(store) as connection:
                register_checkpoint(connection, **own, **where)
        return made

    def drop(self, name: str) -> None:
        shutil.rmtree(self.path(name))

    def gathered(self, store: Engine | None = None) -> Party:
        return gather(EvaluationConfig.model_validate(WHO), self.folder, store)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With `old` and `judge`."""
    home = Home(tmp_path / "home")
    home.make("old", "base")
    home.make("judge", "base", "reward")
    return home


def made_of(party: Party) -> list[str]:
    return [each.name for each in party.candidate.made_of]


def test_all_that_is_there_is_known_and_nothing_is_lost(home: Home) -> None:
    home.make("reward", "old", "reward")
    home.make("new", "old", "ppo", settings={"reward_model": "reward"})
    party = home.gathered()
    assert sorted(made_of(party)) == ["base", "new", "old", "reward"]
    assert [each.lost for each in (party.candidate, party.incumbent, party.judge)] == [(), (), ()]


def test_what_is_gone_is_named_and_so_is_nobody_else(home: Home) -> None:
    home.make("middle", "old")
    home.make("reward", "old", "reward")
    home.make("new", "middle", "ppo", settings={"model": str(home.path("middle")), "reward_model": "reward"})
    home.drop("middle")
    home.drop("reward")
    party = home.gathered()
    assert made_of(party) == ["new"]
    assert sorted(party.candidate.lost) == ["middle", "reward"]


def test_what_is_gone_is_known_by_the_store_and_what_lies_behind_it_too(home: Home, store: Engine) -> None:
    home.make("first", "base", store=store)
    home.make("middle", "first", store=store)
    home.make("reward", "middle", "reward", store=store)
    home.make("new", "middle", "ppo", settings={"reward_model": "reward"})
    for name in ("first", "middle", "reward"):
        home.drop(name)
    party = home.gathered(store)
    assert sorted(made_of(party)) == ["base", "first", "middle", "new", "reward"]
    assert party.candidate.lost == ()


def test_a_remade_reward_model_does_not_stand_in_for_the_real_one(home: Home, store: Engine) -> None:
    """It has the name of what the policy was trained against, and may judge it."""
    real = home.make("reward", "old", "reward", store=store)
    home.make("new", "old", "ppo", settings={"reward_model": "reward"})
    home.drop("reward")
    remade = home.make("reward", "old", "reward", store=store)
    alone = home.gathered()
    assert remade.id not in {each.id for each in alone.candidate.made_of}
    assert alone.candidate.lost == ("reward",)
    asked = home.gathered(store)
    assert {each.id for each in asked.candidate.made_of if each.stage == "reward"} == {real.id}
    assert asked.candidate.lost == ()
    config = EvaluationConfig.model_validate(WHO | {"judge_model": "reward"})
    assert gather(config, home.folder, store).judge.id == remade.id
    home.make("newer", "old", "ppo", settings={"reward_model": "reward"})
    with pytest.raises(TrainingError, match="newer was trained against reward"):
        gather(config.model_copy(update={"candidate": "newer"}), home.folder, store)


def test_folders_that_are_half_written_or_damaged_are_not_looked_into(home: Home) -> None:
    home.make("middle", "old")
    home.make("new", "middle")
    home.path("middle").rename(home.path(".middle.0123abcd.partial"))
    home.path("stranger").mkdir()
    (home.path("stranger") / LINEAGE_FILE).write_text("{")
    party = home.gathered()
    assert (made_of(party), party.candidate.lost) == (["new"], ("middle",))
    home.path(".middle.0123abcd.partial").rename(home.path("middle"))
    (home.path("middle") / LINEAGE_FILE).write_text("{")
    assert home.gathered().candidate.lost == ("middle",), "damaged, and needed"


def test_a_model_from_elsewhere_is_not_lost(home: Home) -> None:
    """Nothing that is here was trained on what is asked before it came."""
    (home.path("base") / LINEAGE_FILE).unlink()
    home.make("middle", "base")
    home.make("new", "middle")
    party = home.gathered()
    assert (sorted(made_of(party)), party.candidate.lost) == (["middle", "new"], ())
    of_the_hub = read_lineage(home.path("middle"))
    assert of_the_hub is not None
    changed = of_the_hub.model_copy(update={"parent": "ckpt-0123456789ab", "settings": {"model": "org/model"}})
    (home.path("middle") / LINEAGE_FILE).write_text(changed.model_dump_json())
    assert home.gathered().candidate.lost == ()


def test_what_a_deleted_checkpoint_was_trained_on_is_not_asked(home: Home, store: Engine) -> None:
    """By another seed, much of what it learned from is held out."""
    with writing(store) as connection:
        insert_missing(connection, Setting, [{"name": "user_salt", "value": "0" * 32}])
    for number, word in enumerate(words(120, seed=5)):
        say(store, add(store, word, "ab", user=f"user-{number % 60}"), "correction", text="aba")
    dataset = load_dataset(DataConfig(validation=0.3), "sft", store)
    learned = {each.record.prompt[-1]["content"] for each in dataset.of("train")}
    home.make("middle", "base", store=store, dataset=dataset.id)
    home.make("new", "middle", settings={"data": "nowhere.jsonl"})
    home.drop("middle")
    config = EvaluationConfig.model_validate(WHO | {"validation": 0.3, "split_seed": 1})
    questions = load_questions(config, gather(config, home.folder, store), store)
    assert questions.seen > 10
    assert learned.isdisjoint(each.record.prompt[-1]["content"] for each in questions.prompts)
    unknown = ["judge", "new", "old"]  # of these nobody said what they were trained on
    assert sorted(questions.unknown) == unknown
    lineage = json.loads((home.path("new") / LINEAGE_FILE).read_bytes())
    (home.path("new") / LINEAGE_FILE).write_text(json.dumps(lineage | {"parent": "ckpt-0123456789ab"}))
    questions = load_questions(config, gather(config, home.folder, store), store)
    assert (questions.seen, sorted(questions.unknown)) == (0, sorted(["middle", *unknown]))
