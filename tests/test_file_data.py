"""A file as training data: what is read, redacted, left out and refused, and that its dataset is its content's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from honed.server.store.exchange.records import Demonstration, Prompt, Ranking, Thumb
from honed.server.store.prefixes import prefix_key
from honed.training.configs import DataConfig, SFTConfig, Stage
from honed.training.data.datasets import DataError, Dataset, load_dataset
from honed.training.data.offers import ALL_TIED, CONTRADICTORY
from honed.training.data.selection import DUPLICATE, OTHER_STAGE

Row = dict[str, Any]


def write(folder: Path, rows: Sequence[Row], name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(folder: Path, rows: Sequence[Row], stage: Stage = "sft", **settings: Any) -> Dataset:
    return load_dataset(DataConfig(data=write(folder, rows), **{"validation": 0} | settings), stage, None)


def asked(content: str) -> list[Row]:
    return [{"role": "user", "content": content}]


def shown(question: str, answer: str = "An answer.") -> Row:
    return {"messages": [*asked(question), {"role": "assistant", "content": answer}]}


def ranked(question: str, *answers: tuple[str, int], **fields: Any) -> Row:
    return {"messages": asked(question), "answers": [{"text": text, "rank": rank} for text, rank in answers], **fields}


def thumb(question: str, answer: str, label: bool) -> Row:
    return {"prompt": question, "completion": answer, "label": label}


def test_252_prompts_are_200_to_train_on_and_52_to_measure_on(tmp_path: Path) -> None:
    rows = [ranked(f"Question {n}", ("good", 1), ("bad", 2)) for n in range(252)]
    dataset = load(tmp_path, rows, "reward", validation=52)
    assert (len(dataset.of("train")), len(dataset.of("validation")), dataset.of("test")) == (200, 52, [])
    assert [each for each in dataset.examples if each.split == "train"] == dataset.of("train")
    assert len(dataset.examples) == 252


def test_a_stage_reads_its_kind_of_record(tmp_path: Path) -> None:
    pair = {"prompt": "Rank", "chosen": "yes", "rejected": "no"}
    rows = [shown("Show"), pair, ranked("Both", ("a", 1), ("b", 2), demonstration="mine"), thumb("Judge", "ok", True)]
    records = {stage: [each.record for each in load(tmp_path, rows, stage).examples] for stage in ("sft", "kto", "ppo")}
    assert [type(record) for record in records["sft"]] == [Demonstration, Demonstration]
    assert records["sft"][1].answer == "mine"
    assert [type(record) for record in records["kto"]] == [Thumb]
    assert [record.prompt[0]["content"] for record in records["ppo"]] == ["Show", "Rank", "Both", "Judge"]
    assert {type(record) for record in records["ppo"]} == {Prompt}
    for stage in ("reward", "dpo"):
        assert [type(each.record) for each in load(tmp_path, rows, stage).examples] == [Ranking, Ranking]
    assert load(tmp_path, rows, "kto").card.left_out == {"of a kind that the stage does not read": 3}


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "dpo", "kto"])
def test_a_file_to_measure_on_is_the_whole_validation_split(tmp_path: Path, stage: Stage) -> None:
    def rows(*questions: str) -> list[Row]:
        ranking = [ranked(each, ("good", 1), ("bad", 2), demonstration="best") for each in questions]
        return [thumb(each, "good", True) for each in questions] if stage == "kto" else ranking

    def loaded(*questions: str) -> Dataset:
        validation_data = write(tmp_path, rows(*questions), "held.jsonl")
        config = DataConfig(data=write(tmp_path, rows("One", "Two", "Three")), validation_data=validation_data)
        return load_dataset(config, stage, None)

    dataset = loaded("Four", "two", "Five")
    said = [(each.split, each.record.prompt[0]["content"]) for each in dataset.examples]
    assert said == [*(("train", each) for each in ("One", "Two", "Three")),
                    *(("validation", each) for each in ("Four", "Five"))]  # fmt: skip
    assert dataset.card.left_out == {"to measure on, of a prompt that is trained on": 1}
    assert dataset.card.splits["validation"].examples == 2
    assert loaded("Four", "two", "Five").id == dataset.id
    assert loaded("Four", "Six").id != dataset.id
    with pytest.raises(DataError, match=r"There is nothing to measure on: .*held\.jsonl has no .* not trained on"):
        loaded("ONE", "Two")


def test_what_is_wrong_with_a_file_to_measure_on_is_said(tmp_path: Path) -> None:
    data = write(tmp_path, [shown("Q")])
    with pytest.raises(DataError, match="none is no file that can be read: `validation_data` is a file"):
        load_dataset(DataConfig(data=data, validation_data=str(tmp_path / "none")), "sft", None)
    thumbs = write(tmp_path, [thumb("Q", "A", True)], "thumbs.jsonl")
    with pytest.raises(DataError, match=r"thumbs\.jsonl holds .*thumbs"):
        load_dataset(DataConfig(data=data, validation_data=thumbs), "sft", None)
    for stored in ("store", "data-0123456789ab"):
        with pytest.raises(DataError, match="validation_data goes with a file"):
            load_dataset(DataConfig(data=stored, validation_data=data), "sft", None)


def test_personal_data_in_a_file_to_measure_on_are_redacted(tmp_path: Path) -> None:
    held = write(tmp_path, [shown("Write to ann@example.com"), thumb("Mute", "A", True)], "held.jsonl")
    dataset = load_dataset(DataConfig(data=write(tmp_path, [shown("Q")]), validation_data=held), "sft", None)
    (example,) = dataset.of("validation")
    assert example.record.prompt[0]["content"] == "Write to [EMAIL]"
    assert dataset.card.redactions == {"email": 1}
    assert dataset.card.left_out == {"of a kind that the stage does not read": 1}


def test_texts_and_chats_are_both_there(tmp_path: Path) -> None:
    dataset = load(tmp_path, [shown("A chat"), {"prompt": "A text", "completion": " goes on"}])
    assert [example.record.prompt[0]["role"] for example in dataset.examples] == ["user", "text"]


def test_a_file_has_neither_users_nor_rows_of_a_store(tmp_path: Path) -> None:
    [example] = load(tmp_path, [shown("What is the capital of France?")]).examples
    assert (example.completion_id, example.feedback_id, example.user, example.labeler) == (None,) * 4
    assert example.category == "open_qa"
    assert load(tmp_path, [shown("Q")]).snapshot_id is None


def test_personal_data_are_redacted_and_counted(tmp_path: Path) -> None:
    mail = "ann@example.com"
    rows = [
        ranked(f"Write to {mail}", (f"to {mail}", 1), ("no", 2), demonstration=f"Dear {mail}"),
        thumb(mail, mail, True),
    ]
    dataset = load(tmp_path, rows, "reward")
    [record] = [example.record for example in dataset.examples]
    assert isinstance(record, Ranking)
    assert record.prompt[0]["content"] == "Write to [EMAIL]"
    assert (record.answers[0].text, record.demonstration) == ("to [EMAIL]", "Dear [EMAIL]")
    assert dataset.card.redactions == {"email": 3}
    assert mail not in load(tmp_path, rows, "kto").examples[0].record.prompt[0]["content"]
    assert load(tmp_path, rows, "sft").examples[0].record == Demonstration(record.prompt, "Dear [EMAIL]")


def test_prompts_with_a_long_common_beginning_are_one_and_in_one_split(tmp_path: Path) -> None:
    def question(n: int, end: str) -> str:
        return f"Topic {n}: " + "word " * 60 + end

    rows = [{"prompt": question(n % 40, f"number {n}")} for n in range(120)]
    dataset = load(tmp_path, rows, "ppo", validation=10)
    assert (len(dataset.examples), dataset.card.left_out) == (40, {DUPLICATE: 80})
    rows = [ranked(question(n % 40, f"number {n}"), ("a", 1), ("b", 2)) for n in range(120)]
    dataset = load(tmp_path, rows, "reward", validation=10, test=5)
    assert len(dataset.examples) == 120, "judgements of the same prompt are all kept"
    splits: dict[int, set[str]] = {}
    for example in dataset.examples:
        splits.setdefault(prefix_key(example.record.prompt), set()).add(example.split)
    assert sorted(len(found) for found in splits.values()) == [1] * 40
    assert [dataset.card.splits[split].prompts for split in ("train", "validation", "test")] == [25, 10, 5]


def test_the_same_demonstration_is_there_once_and_another_answer_too(tmp_path: Path) -> None:
    dataset = load(tmp_path, [shown("Q", "a"), shown("Q", "b"), shown("Q", "a")])
    assert [example.record.answer for example in dataset.examples] == ["a", "b"]
    assert dataset.card.left_out == {DUPLICATE: 1}


def test_a_ranking_that_says_nothing_is_left_out_and_what_contradicts_itself_is_counted(tmp_path: Path) -> None:
    rows = [ranked("Tied", ("a", 1), ("b", 1)), ranked("Q", ("a", 1), ("b", 2), ("a", 3), ("c", 3))]
    dataset = load(tmp_path, rows, "reward")
    assert [example.record.prompt[0]["content"] for example in dataset.examples] == ["Q"]
    assert dataset.card.left_out == {ALL_TIED: 1}
    assert dataset.card.pairs is not None
    assert dataset.card.pairs.model_dump() == {"total": 6, "ties": 1, "contradictory": 1}


def test_answers_that_only_redaction_made_the_same_are_left_out(tmp_path: Path) -> None:
    rows = [ranked("Whom?", ("a@example.com", 1), ("b@example.com", 2)), ranked("Q", ("a", 1), ("b", 2))]
    assert load(tmp_path, rows, "dpo").card.left_out == {CONTRADICTORY: 1}


@pytest.mark.parametrize(
    ("rows", "stage", "words"),
    [
        ([thumb("Q", "a", True)], "reward", ["holds thumbs", "reward reads rankings", "Train kto"]),
        ([ranked("Q", ("a", 1), ("b", 2))], "kto", ["holds rankings", "kto reads thumbs", "Train reward or dpo"]),
        ([{"prompt": "Q"}], "sft", ["holds prompts", "sft reads demonstrations", "Train ppo"]),
        ([], "sft", ["has no rows", "sft needs demonstrations"]),
        ([ranked("Q", ("a", 1), ("b", 1))] * 3, "reward", ["nothing to train on", f"3 {ALL_TIED}"]),
        ([shown("Q"), ranked("Q", ("a", 1), ("a", 2))], "reward", ["line 2", "the same text"]),
        ([shown("Q"), {"what": "ever"}], "sft", ["data.jsonl", "line 2", "the format is unknown"]),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, rows: list[Row], stage: Stage, words: list[str]) -> None:
    with pytest.raises(DataError) as raised:
        load(tmp_path, rows, stage)
    for each in words:
        assert each in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl cannot be read \(No such file or directory\)"):
        load_dataset(DataConfig(data=str(tmp_path / "nowhere.jsonl")), "sft", None)
    (tmp_path / "text.jsonl").write_text("{not json\n")
    with pytest.raises(DataError, match="line 1"):
        load_dataset(DataConfig(data=str(tmp_path / "text.jsonl")), "sft", None)


@pytest.mark.parametrize("data", ["store", "data-0123456789ab"])
def test_a_store_is_named_where_one_is_needed(data: str) -> None:
    with pytest.raises(DataError, match="no store is open"):
        load_dataset(DataConfig(data=data), "sft", None)


def test_splits_that_come_out_empty_are_refused(tmp_path: Path) -> None:
    rows = [shown(f"Question {n}") for n in range(3)]
    with pytest.raises(DataError, match=r"validation is 0.001, but none of the 3 prompts"):
        load(tmp_path, rows, validation=0.001)
    assert not load(tmp_path, rows, test=0.001).of("test"), "which no run reads"
    with pytest.raises(DataError, match=r"All 3 that may be used are held out: lower validation and test"):
        load(tmp_path, rows, validation=3)
    with pytest.raises(DataError, match=r"validation is 1.5: give a share below 1, or a whole number"):
        load(tmp_path, rows, validation=1.5)


def test_disjoint_stages_share_prompts_out_and_what_is_held_out_is_everybodys(tmp_path: Path) -> None:
    rows = [ranked(f"Question {n}", ("a", 1), ("b", 2), demonstration="c") for n in range(60)]
    rows += [shown(f"Question {n}", "c") for n in range(60)]
    stages: tuple[Stage, ...] = ("sft", "reward", "dpo", "ppo")

    def prompts(stage: Stage, split: str, **settings: Any) -> set[str]:
        dataset = load(tmp_path, rows, stage, validation=10, **settings)
        return {each.record.prompt[0]["content"] for each in dataset.examples if each.split == split}

    trained = {stage: prompts(stage, "train", disjoint=True) for stage in stages}
    assert trained["reward"] == trained["dpo"]
    assert all(trained.values())
    groups = [trained[stage] for stage in ("sft", "reward", "ppo")]
    assert set.union(*groups) == prompts("sft", "train")
    assert sum(map(len, groups)) == len(set.union(*groups)), "no prompt is two stages'"
    assert len({frozenset(prompts(stage, "validation", disjoint=True)) for stage in stages}) == 1
    left_out = load(tmp_path, rows, "sft", validation=10, disjoint=True).card.left_out
    assert left_out[OTHER_STAGE] == 50 - len(trained["sft"])


def test_an_id_is_of_the_content(tmp_path: Path) -> None:
    rows = [ranked(f"Question {n}", ("a", 1), ("b", 2)) for n in range(20)]
    dataset = load(tmp_path, rows, "reward", validation=5)
    renamed = DataConfig(data=write(tmp_path, rows, "other.jsonl"), validation=5)
    assert load_dataset(renamed, "reward", None).id == dataset.id
    others = [
        load(tmp_path, rows, "dpo", validation=5),
        load(tmp_path, rows, "reward", validation=6),
        load(tmp_path, rows, "reward", validation=5, split_seed=1),
        load(tmp_path, rows[:-1], "reward", validation=5),
        load(tmp_path, [*rows[:-1], ranked("Question 19", ("a", 2), ("b", 1))], "reward", validation=5),
    ]
    assert len({dataset.id, *(other.id for other in others)}) == 6
    assert dataset.card.id == dataset.id
    assert dataset.id.removeprefix("data-").isalnum()


def test_an_id_is_the_same_in_another_process_which_loads_no_torch(tmp_path: Path) -> None:
    rows = [shown(f"Question {n}") for n in range(20)]
    dataset = load(tmp_path, rows, validation=5)
    code = (
        "import sys\nfrom honed.training.configs import SFTConfig\n"
        "from honed.training.data.datasets import load_dataset\n"
        "print(load_dataset(SFTConfig(data=sys.argv[1], validation=5), 'sft', None).id)\n"
        "print([name for name in ('torch', 'transformers', 'fastapi', 'trl') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert done.stdout.splitlines() == [dataset.id, "[]"]


def test_a_card_has_the_settings_of_the_data_alone(tmp_path: Path) -> None:
    path = write(tmp_path, [shown("Q")])
    card = load_dataset(SFTConfig(data=path, validation=0, epochs=7), "sft", None).card
    assert card.settings.keys() == DataConfig.model_fields.keys()
