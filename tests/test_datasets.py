"""Training data out of a store: which judgements, whose prompts, and the snapshot that is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from completions import add, count
from exchanged import make_small_batches, order, say, untrain
from query_plans import plan
from sqlalchemy import Engine, delete, select

from honed.server.store.database import reading, writing
from honed.server.store.erasure import erase_completion
from honed.server.store.exchange.records import Demonstration, Ranking, Thumb
from honed.server.store.sampling import owners, owners_query
from honed.server.store.snapshots import Part, load_parts
from honed.server.store.tables import Completion, Setting, Snapshot, SnapshotRow
from honed.server.store.upserts import insert_missing
from honed.server.store.users import hash_user, load_salt, set_consent
from honed.training.configs import STAGES, DataConfig, RewardConfig, Stage
from honed.training.data import datasets
from honed.training.data.datasets import DataError, Dataset, Example, as_made, load_dataset
from honed.training.data.offers import ALL_TIED, CONTRADICTORY
from honed.training.data.selection import OTHER_SPLIT, OVER_LIMIT


@pytest.fixture(autouse=True)
def same_salt(store: Engine) -> None:
    """Where a user goes depends on the store's salt, which is drawn elsewhere."""
    with writing(store) as connection:
        insert_missing(connection, Setting, [{"name": "user_salt", "value": "0" * 32}])


def load(store: Engine, stage: Stage = "sft", data: str = "store", **settings: Any) -> Dataset:
    return load_dataset(
        DataConfig(data=data, **({"validation": 0} if data == "store" else {}) | settings), stage, store
    )


def prompts(dataset: Dataset) -> list[str]:
    return [example.record.prompt[-1]["content"] for example in dataset.examples]


def rows_of(store: Engine, dataset: Dataset) -> list[Part]:
    with reading(store) as connection:
        return load_parts(connection, dataset.id)


def splits_of(dataset: Dataset, by: str) -> dict[Any, set[str]]:
    found: dict[Any, set[str]] = {}
    for example in dataset.examples:
        key = example.user if by == "user" else example.record.prompt[-1]["content"]
        found.setdefault(key, set()).add(example.split)
    return found


def test_each_stage_reads_its_judgements(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_batches(monkeypatch)
    one, two = add(store, "Q", "a", "b", user="ann"), add(store, "Q", "c", policy_id="ckpt-2")
    shown = say(store, one, "correction", text="mine", labeler="lea")
    ranking = order(store, (one, 0, 2), (one, 1, 1), (two, 0, 1), labeler="lea")
    liked = say(store, two, "thumb", number=1)
    ann = hash_user(load_salt(store), "ann")

    [example] = load(store, "sft").examples
    assert (type(example.record), example.completion_id, example.feedback_id) == (Demonstration, one, shown)
    assert (example.user, example.labeler, example.category) == (ann, "lea", "other")
    preferences: tuple[Stage, ...] = ("reward", "dpo")
    for stage in preferences:
        dataset = load(store, stage)
        [record] = [each.record for each in dataset.examples]
        assert isinstance(record, Ranking)
        ranked = {(answer.text, answer.rank, answer.source) for answer in record.answers}
        assert ranked == {("a", 2, "ckpt-1"), ("b", 1, "ckpt-1"), ("c", 1, "ckpt-2")}
        assert record.demonstration == "mine"
        assert rows_of(store, dataset) == [
            Part(one, ranking, "train"), Part(two, ranking, "train"), Part(one, shown, "train")
        ]  # fmt: skip
        assert dataset.card.sources == {"ckpt-1": 2, "ckpt-2": 1}
    [example] = load(store, "kto").examples
    assert (example.record, example.feedback_id) == (Thumb(example.record.prompt, "c", True), liked)
    assert [(each.completion_id, each.feedback_id) for each in load(store, "ppo").examples] == [(one, None)]


def test_labelers_rankings_of_a_prompt_are_all_kept_in_one_split(store: Engine) -> None:
    for number in range(12):
        one = add(store, f"Question {number}", "a", "b")
        for labeler in ("lea", "max"):
            order(store, (one, 0, 1), (one, 1, 2), labeler=labeler)
    dataset = load(store, "reward", validation=4)
    assert dataset.card.splits["validation"].model_dump() == {"examples": 8, "prompts": 4, "users": 0}
    assert dataset.card.splits["train"].examples == 16
    assert dataset.card.labelers == {"lea": 12, "max": 12}
    assert all(len(found) == 1 for found in splits_of(dataset, "prompt").values())


def test_users_are_in_one_split_each_and_so_are_the_prompts_that_they_share(store: Engine) -> None:
    for number in range(40):
        for prompt in ("Shared by all", f"Own {number}", f"Shared by two {number // 2}"):
            say(store, add(store, prompt, user=f"user-{number}"), "thumb", number=1)
    dataset = load(store, "kto", validation=0.3, test=0.2)
    for by in ("user", "prompt"):
        assert all(len(found) == 1 for found in splits_of(dataset, by).values()), by
    assert dataset.card.left_out[OTHER_SPLIT] > 0
    assert len(dataset.examples) + dataset.card.left_out[OTHER_SPLIT] == 120
    first = hash_user(load_salt(store), "user-0")
    [own] = [each.split for each in dataset.examples if each.record.prompt[-1]["content"] == "Own 0"]
    assert splits_of(dataset, "prompt")["Shared by all"] == {own} == splits_of(dataset, "user")[first]


def test_a_user_has_at_most_so_many_prompts(store: Engine) -> None:
    for number in range(6):
        one = add(store, f"Of ann {number}", "a", "b", user="ann")
        say(store, one, "thumb", number=1)
        say(store, one, "thumb", number=0, choice=1)
        say(store, add(store, f"Of nobody {number}"), "thumb", number=1)
    dataset = load(store, "kto", max_per_user=2)
    assert dataset.card.left_out == {OVER_LIMIT: 8}
    asked = set(prompts(dataset))
    assert len(asked) == 8
    again = load(store, "ppo", max_per_user=2)
    assert set(prompts(again)) == asked, "the same ones for all stages"
    assert len(load(store, "ppo", max_per_user=300).examples) == 12


def test_splits_stay_as_data_grow(store: Engine) -> None:
    for number in range(30):
        say(store, add(store, f"Question {number}", user=f"user-{number}"), "correction", text="yes")
    before = splits_of(load(store, validation=0.3), "prompt")
    for number in range(30, 60):
        say(store, add(store, f"Question {number}", user=f"user-{number % 45}"), "correction", text="yes")
    after = splits_of(load(store, validation=0.3), "prompt")
    assert before == {prompt: after[prompt] for prompt in before}
    assert set(map(str, before.values())) == {"{'train'}", "{'validation'}"}


def test_only_what_may_be_trained_on_and_says_something_is_taken(store: Engine) -> None:
    ids = [add(store, f"Question {number}", "a", "b", "b") for number in range(4)]
    for one in ids[:2]:
        order(store, (one, 0, 1), (one, 1, 2))
    order(store, (ids[2], 0, 1), (ids[2], 1, 1))
    order(store, (ids[3], 1, 1), (ids[3], 2, 2))
    untrain(store, ids[0])
    dataset = load(store, "reward")
    assert prompts(dataset) == ["Question 1"]
    assert dataset.card.left_out == {ALL_TIED: 1, CONTRADICTORY: 1}


def test_a_store_without_judgements_is_refused(store: Engine) -> None:
    add(store)
    with pytest.raises(DataError, match=r"the store has no rankings for reward\. Collect or import rankings"):
        load(store, "reward")
    with pytest.raises(DataError, match="The store has no snapshot data-0123456789ab"):
        load(store, data="data-0123456789ab")


def test_the_same_content_is_the_same_snapshot(store: Engine) -> None:
    for number in range(20):
        say(store, add(store, f"Question {number}"), "correction", text="yes")
    config = RewardConfig(data="store", validation=5, epochs=3)
    first, second = (load_dataset(config, "sft", store) for _ in range(2))
    assert first == second
    assert first.snapshot_id == first.id
    assert (count(store, Snapshot), count(store, SnapshotRow)) == (1, 20)
    with reading(store) as connection:
        row = connection.execute(select(Snapshot)).one()
    assert (row.id, row.what, row.rows, row.erased) == (first.id, "sft", 20, 0)
    assert row.settings == {**config.model_dump(mode="json", include=set(DataConfig.model_fields)), "examples": 20}
    assert first.card.created == row.created
    say(store, add(store, "One more"), "correction", text="yes")
    assert load_dataset(config, "sft", store).id != first.id
    assert count(store, Snapshot) == 2


def judged(store: Engine, number: int) -> tuple[str, str]:
    """A prompt with two completions that both stages have something of."""
    prompt = f"Question {number}"
    one, two = add(store, prompt, "a", "b", user=f"user-{number % 7}"), add(store, prompt, "c")
    order(store, (one, 0, 1), (one, 1, 2), (two, 0, 3), labeler="lea")
    say(store, one, "correction", text="mine", labeler="lea")
    say(store, one, "thumb", number=number % 2)
    return one, two


def test_a_snapshot_reads_as_it_was_made(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_batches(monkeypatch)
    ids = [judged(store, number) for number in range(12)]
    made = {stage: load(store, stage, validation=0.4) for stage in STAGES}
    for one, two in ids:  # said since, of which a snapshot knows nothing
        order(store, (one, 0, 3), (one, 1, 2), (two, 0, 1), labeler="lea")
        say(store, one, "correction", text="anew", labeler="lea")
        say(store, one, "thumb", number=1)
    for stage in STAGES:
        older = made["reward" if stage == "dpo" else stage]
        again = load(store, stage, older.id, validation=0.4)
        assert again.examples == older.examples
        assert (again.id, again.stage, again.snapshot_id) == (older.id, stage, older.id)
        assert again.card.settings == older.card.settings
        assert (again.card.source.kind, again.card.gone) == ("snapshot", 0)
        assert again.card.splits == older.card.splits


def test_a_snapshot_has_the_settings_that_it_was_made_with(store: Engine) -> None:
    for number in range(12):
        judged(store, number)
    made = load(store, validation=0.4, max_per_user=5)
    config = DataConfig(data=made.id, validation=0.1, max_per_user=5)  # 0.1 is the default
    again = load_dataset(config, "sft", store)
    assert again.card.settings == made.card.settings
    assert as_made(config, again.card.settings) == config.model_copy(update={"validation": 0.4})
    asked: dict[str, Any] = {"validation": 0.3, "disjoint": True, "split_seed": 1, "max_per_user": 5}
    with pytest.raises(DataError, match=r"leave out --validation \(0.4\), --disjoint \(False\), --split-seed \(0\)"):
        load(store, "sft", made.id, **asked)


def test_a_snapshot_has_no_more_what_was_erased_or_denied(store: Engine) -> None:
    ids = [judged(store, number) for number in range(6)]
    made = {stage: load(store, stage) for stage in STAGES}
    erase_completion(store, ids[0][0])
    untrain(store, ids[2][0])
    left: dict[str, list[Example]] = {}
    for stage in STAGES:
        again = load(store, stage, made[stage].id)
        left[stage] = [each for each in made[stage].examples if each.completion_id not in (ids[0][0], ids[2][0])]
        assert (list(again.examples), again.card.gone) == (left[stage], 2), stage
    erase_completion(store, ids[1][1])  # one of the answers of a ranking: all of it is out
    for stage in STAGES:
        stays = [each for each in left[stage] if stage not in ("reward", "dpo") or each.completion_id != ids[1][0]]
        assert list(load(store, stage, made[stage].id).examples) == stays, stage


def test_a_snapshot_that_cannot_be_trained_on_is_refused(store: Engine) -> None:
    one, _ = judged(store, 0)
    made = load(store, "kto")
    with pytest.raises(DataError, match=f"{made.id} was made for kto, but reward reads rankings"):
        load(store, "reward", made.id)
    erase_completion(store, one)
    with pytest.raises(DataError, match=f"what is left of {made.id} has no thumbs"):
        load(store, "kto", made.id)


def test_what_is_erased_while_it_is_read_is_chosen_anew(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, stays = (judged(store, number)[0] for number in range(2))
    write = datasets.write_snapshot
    erased: list[str] = []

    def erase_first(connection: Any, *args: Any) -> Any:
        if not erased:
            erased.append(gone)
            connection.execute(delete(Completion).where(Completion.id == gone))
        return write(connection, *args)

    monkeypatch.setattr(datasets, "write_snapshot", erase_first)
    monkeypatch.setattr(datasets, "ATTEMPTS", 1)
    with pytest.raises(DataError, match="being erased from"):
        load(store, "kto")
    assert (count(store, Snapshot), count(store, SnapshotRow)) == (0, 0)
    monkeypatch.setattr(datasets, "ATTEMPTS", 2)
    erased.clear()
    assert {each.completion_id for each in load(store, "kto").examples} == {gone, stays}


def test_a_denial_takes_a_user_out_of_all_data(store: Engine) -> None:
    for number in range(3):
        judged(store, number)
    user_hash = hash_user(load_salt(store), "user-1")
    with writing(store) as connection:
        set_consent(connection, user_hash, trainable=False)
    for stage in STAGES:
        assert user_hash not in {each.user for each in load(store, stage).examples}


def test_a_prompt_is_the_users_who_asked_it_first(store: Engine) -> None:
    add(store, "Denied", user="ann", trainable=False)
    for prompt, user in [("Q", "ann"), ("Q", "ben"), ("R", None), ("R", "ben"), ("Denied", "ben")]:
        add(store, prompt, user=user)
    add(store, "S", source="labeling")
    with reading(store) as connection:
        prefixes: Sequence[int] = connection.execute(select(Completion.prefix)).scalars().all()
        query = select(Completion.prefix, Completion.source)
        asked = {row.prefix: row.source for row in connection.execute(query)}
        found = owners(connection, set(prefixes))
        how = plan(connection, owners_query([1, 2]))
    salt = load_salt(store)
    assert sorted(found.values(), key=str) == sorted([hash_user(salt, "ann"), None, hash_user(salt, "ben")], key=str)
    assert found.keys() == {prefix for prefix, source in asked.items() if source == "server"}
    assert "ix_completions_samplable" in how
    assert "Seq Scan" not in how
