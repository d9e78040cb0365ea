"""The reward model from rankings: the scale that is saved with it, and rankings that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
import toy_runs
from toy_runs import WORDS, curve, make_home, train, write_rows

from honed.models.policy import load_tokenizer
from honed.server.store.exchange.records import text_prompt
from honed.training.configs import RewardConfig
from honed.training.data.datasets import load_dataset
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.loading import load_scalar
from honed.training.planning.outlook import look_ahead
from honed.training.scoring import normalised, score_trees


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def ranking(word: str, texts: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """The first text is the best."""
    answers = [{"text": text, "rank": rank} for rank, text in enumerate(texts, start=1)]
    return {"prompt": word, "answers": answers, **more}


def trained_on(home: Path, rows: list[dict[str, Any]], **changes: Any) -> RewardConfig:
    """The settings of a run that learned of all of `rows`."""
    data = str(write_rows(home / "own.jsonl", rows))
    config = toy_runs.reward(home, data=data, validation=0, output="judge", **changes)
    train(home, config)
    return config


def scores(home: Path, config: RewardConfig, asked: list[tuple[str, list[str]]]) -> list[list[float]]:
    """What the saved model says of texts, on its own scale."""
    folder = home / "models" / "judge"
    model = load_scalar(folder, torch.float32, torch.device("cpu"))
    encoder = Encoder(load_tokenizer(folder), config.max_tokens, config.answer_tokens)
    trees = [encoder.tree(text_prompt(word), texts) for word, texts in asked]
    return normalised(model, score_trees(model, [tree for tree in trees if tree is not None], 64))


@pytest.mark.parametrize("shows", [True, False], ids=["demonstrations", "best answers"])
def test_rule_8_zero_is_a_demonstration_and_one_a_deviation_of_the_ranked(home: Path, *, shows: bool) -> None:
    """The best answers stand in where nobody demonstrated."""
    texts = {word: (word, word[:2], word[::-1]) for word in WORDS}
    rows = [ranking(word, each, **({"demonstration": f"{word}!"} if shows else {})) for word, each in texts.items()]
    config = trained_on(home, rows)
    ranked = scores(home, config, [(word, list(each)) for word, each in texts.items()])
    zero = scores(home, config, [(word, [f"{word}!" if shows else word]) for word in WORDS])
    assert fmean(each[0] for each in zero) == pytest.approx(0.0, abs=1e-4)
    assert pstdev([number for each in ranked for number in each]) == pytest.approx(1.0, abs=1e-4)
    scale = json.loads((home / "runs" / "judge" / "evaluation.json").read_text())["scale"]
    model = load_scalar(home / "models" / "judge", torch.float32, torch.device("cpu"))
    assert scale["zero"] == ("demonstrations" if shows else "best answers")
    assert (scale["mean"], scale["std"]) == pytest.approx((float(model.mean), float(model.std)))


def test_answers_that_read_the_same_teach_nothing(home: Path) -> None:
    """Rankings of such answers alone are left out, which is said: the run is the one without them."""
    telling = [ranking(word, (word, word[::-1])) for word in WORDS[:6]]
    same = [ranking(word, ("again and", "again or")) for word in WORDS[6:]]  # once they are cut
    found = []
    for rows, output in ((telling, "without"), ([*telling, *same], "with")):
        data = str(write_rows(home / f"{output}.jsonl", rows))
        train(home, toy_runs.reward(home, data=data, validation=0, output=output, answer_tokens=3))
        found.append([line["train/loss"] for line in curve(home, output) if "train/loss" in line])
    assert found[0] == found[1]
    config = toy_runs.reward(home, data=str(home / "with.jsonl"), validation=0, answer_tokens=3)
    seen = look_ahead("reward", config, load_dataset(config, "reward", None), home)
    assert (seen.work.steps, seen.work.epochs) == (4, 2), "of two batches of three"
    assert seen.notes[0].startswith("6 of 12 rankings say nothing, since their answers do not differ in what is read")


def test_where_all_answers_are_cut_to_the_same_there_is_nothing_to_learn(home: Path) -> None:
    rows = [ranking(word, (f"!{word}", f"!{word[::-1]}")) for word in WORDS]
    with pytest.raises(
        TrainingError, match=r"12 of 12 rankings say nothing.* 1 tokens \(--answer-tokens\).*raise these"
    ):
        trained_on(home, rows, answer_tokens=1)
    assert not (home / "runs").exists(), "it is refused before the run begins"


def test_held_out_rankings_have_to_say_something_too(home: Path) -> None:
    telling = [ranking(word, (word, word[::-1])) for word in WORDS[:6]]
    same = [ranking(word, ("again and", "again or")) for word in WORDS[6:]]  # once they are cut

    def notes(held_out: list[dict[str, Any]]) -> tuple[str, ...]:
        data, validation_data = (
            str(write_rows(home / f"{name}.jsonl", rows)) for name, rows in (("own", telling), ("held", held_out))
        )
        changes = {"validation": RewardConfig().validation, "validation_data": validation_data, "answer_tokens": 3}
        config = toy_runs.reward(home, data=data, **changes)
        return look_ahead("reward", config, load_dataset(config, "reward", None), home).notes

    assert notes([*same, ranking("other", ("other", "rehto"))])[0].startswith("6 of 7 held-out rankings say nothing")
    with pytest.raises(TrainingError, match=r"6 of 6 held-out rankings say nothing.*--validation 0"):
        notes(same)
