"""The data of a judge: the test prompts and nothing else, so that it knows nothing that a candidate learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from completions import add
from exchanged import order
from sqlalchemy import Engine

from honed.server.store.database import writing
from honed.server.store.prefixes import prefix_key
from honed.server.store.tables import Setting
from honed.server.store.upserts import insert_missing
from honed.training.configs import STAGES, DataConfig, Stage
from honed.training.data.datasets import DataError, Dataset, as_made, load_dataset
from honed.training.data.selection import NOT_JUDGES, OTHER_SPLIT
from honed.training.data.splits import assign, assign_judge, place, unit_of

SIZES: dict[str, Any] = {"validation": 0.2, "test": 0.3}


@pytest.fixture
def rankings(tmp_path: Path) -> str:
    path = tmp_path / "rankings.jsonl"
    rows = [{"prompt": f"Question {n}", "chosen": "yes", "rejected": "no"} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(data: str, stage: Stage = "reward", engine: Engine | None = None, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(data=data, **SIZES | settings), stage, engine)


def asked(dataset: Dataset, *splits: str) -> set[str]:
    return {each.record.prompt[-1]["content"] for each in dataset.examples if each.split in splits}


@pytest.mark.parametrize("sizes", [SIZES, {"validation": 15, "test": 60}, {"validation": 0.2, "test": 60}], ids=str)
def test_a_judge_has_all_that_the_others_never_read_and_nothing_else(rankings: str, sizes: dict[str, Any]) -> None:
    others, judge = load(rankings, **sizes), load(rankings, judge=True, **sizes)
    assert asked(judge, "train", "validation") == asked(others, "test")
    assert not asked(judge, "test")
    assert asked(judge, "train")
    assert asked(judge, "validation")
    assert asked(judge, "train").isdisjoint(asked(judge, "validation"))
    ppo = load(rankings, "ppo", **sizes)
    assert asked(judge, "train", "validation").isdisjoint(asked(ppo, "train", "validation"))
    left = len(asked(others, "train", "validation"))
    assert judge.card.left_out == {NOT_JUDGES: left}
    assert judge.card.settings["judge"] is True
    assert judge.id != others.id


def test_a_judge_has_its_prompts_for_itself_where_the_stages_share_theirs(rankings: str) -> None:
    alone, shared = (asked(load(rankings, judge=True, disjoint=each), "train") for each in (False, True))
    assert alone == shared
    assert len(alone) > 30


def test_a_judges_splits_are_by_other_hashes() -> None:
    """By the first ones the validation split of the judge would be those with the lowest: all, or none."""
    units = {unit_of(None, prefix): 1 for prefix in range(1000)}
    splits = assign_judge(units, 0.5, 0.3, 0)
    test = [unit for unit, split in assign(units, 0.5, 0.3, 0).items() if split == "test"]
    assert {unit for unit, split in splits.items() if split is not None} == set(test)
    for half in (half_of(test, 0.0, 0.25), half_of(test, 0.25, 0.5)):
        share = sum(splits[unit] == "validation" for unit in half) / len(half)
        assert share == pytest.approx(0.3, abs=0.08)


def half_of(test: list[str], low: float, high: float) -> list[str]:
    return [unit for unit in test if low <= place(f"split {unit}", 0) < high]


def test_a_judges_splits_stay_as_data_grow() -> None:
    few, many = ({unit_of(None, prefix): 1 for prefix in range(count)} for count in (300, 900))
    before, after = assign_judge(few, 0.3, 0.2, 0), assign_judge(many, 0.3, 0.2, 0)
    assert before == {unit: after[unit] for unit in few}


def test_a_judge_without_test_prompts_is_refused(rankings: str) -> None:
    with pytest.raises(DataError, match="a judge learns from the test prompts, and test is 0"):
        load(rankings, judge=True, test=0)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "reward"])
def test_only_a_reward_model_can_be_a_judge(rankings: str, stage: Stage) -> None:
    with pytest.raises(DataError, match=f"judge is for reward models: what {stage} makes is judged"):
        load(rankings, stage, judge=True)


def test_users_of_a_judge_are_nobody_elses(store: Engine) -> None:
    with writing(store) as connection:
        insert_missing(connection, Setting, [{"name": "user_salt", "value": "0" * 32}])
    for number in range(40):
        for prompt in (f"Own {number}", f"Shared by two {number // 2}"):
            one = add(store, prompt, "a", "b", user=f"user-{number}")
            order(store, (one, 0, 1), (one, 1, 2))
    others, judge = load("store", engine=store), load("store", engine=store, judge=True)
    trained = {each.user for each in others.examples if each.split != "test"}
    assert trained.isdisjoint(each.user for each in judge.examples)
    keys = [{prefix_key(each.record.prompt) for each in dataset.examples if each.split != "test"}
            for dataset in (others, judge)]  # fmt: skip
    assert keys[0].isdisjoint(keys[1])
    assert judge.card.left_out[OTHER_SPLIT] > 0
    users = [{each.user for each in judge.of(split)} for split in ("train", "validation")]
    assert all(users)
    assert users[0].isdisjoint(users[1])

    again = load_dataset(DataConfig(data=judge.id), "reward", store)
    assert again.examples == judge.examples
    assert as_made(DataConfig(data=judge.id), again.card.settings).judge
    with pytest.raises(DataError, match=r"leave out --judge \(False\)"):
        load_dataset(DataConfig(data=others.id, judge=True), "reward", store)
