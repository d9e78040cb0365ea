"""Counted lengths against the encoder, and what a stage has room for."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import tiny_tokenizer

from honed.server.store.exchange.records import (
    Answer,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Record,
    Thumb,
    message,
    text_prompt,
)
from honed.training.configs import DPOConfig, KTOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig, Stage
from honed.training.data.datasets import Example
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.planning.lengths import Length, Limits, fit, limits, measured

TOKENIZER = tiny_tokenizer()
HI: tuple[Message, ...] = (message("user", "hi there"),)
RANKING = Ranking(HI, (Answer("bb", 2), Answer("a", 1), Answer("ccc", 2)))


def example(record: Record) -> Example:
    return Example(record, "train", None, None, None, None, "other")


def lengths(stage: Stage, *records: Record) -> list[Length]:
    return measured(TOKENIZER, stage, [example(record) for record in records])


def test_what_is_counted_is_what_is_encoded() -> None:
    encoder = Encoder(TOKENIZER, 512, 512)
    for prompt in (HI, text_prompt("the thin hat"), (message("system", "Be brief"), *HI)):
        tree = encoder.tree(prompt, ["an answer", ""])
        assert tree is not None
        (length,) = lengths("reward", Ranking(prompt, (Answer("an answer", 1), Answer("", 2))))
        assert (length.prompt, length.answers) == (len(tree.prompt), tuple(map(len, tree.answers)))
        assert length.total == tree.num_tokens


@pytest.mark.parametrize(
    ("stage", "record", "answers"),
    [
        ("sft", Demonstration(HI, "xyz"), [(4,)]),
        ("kto", Thumb(HI, "", label=False), [(1,)]),
        ("ppo", Prompt(HI), [()]),
        ("reward", RANKING, [(3, 2, 4)]),
        ("dpo", RANKING, [(2, 3), (2, 4)]),  # the other two tie
        ("dpo", Ranking(HI, (Answer("a", 1), Answer("a", 2), Answer("bb", 3))), [(2, 3), (2, 3)]),
    ],
)
def test_answers_that_are_trained_on_at_once(stage: Stage, record: Record, answers: list[tuple[int, ...]]) -> None:
    """Every byte is a token here, and every answer has an end."""
    assert [length.answers for length in lengths(stage, record)] == answers


def test_names() -> None:
    own, first, long = lengths("ppo", Prompt(HI, "row-7"), Prompt(HI), Prompt(text_prompt("x\n" * 100)))
    assert (own.name, first.name) == ("row-7", "“hi there”")
    assert len(long.name) < 50
    assert "\n" not in long.name


def test_a_template_that_refuses_names_the_record() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(TrainingError, match=r"“hi there” cannot be trained on: .*no system messages"):
        measured(tokenizer, "sft", [example(Demonstration(HI, "x"))])


@pytest.mark.parametrize(
    ("config", "context", "limit"),
    [
        (SFTConfig(max_tokens=100), 512, Limits(100, 100)),
        (DPOConfig(max_tokens=1024), 512, Limits(512, 512)),
        (KTOConfig(max_tokens=512), 512, Limits(512, 512)),
        (RewardConfig(max_tokens=1024, answer_tokens=64), 512, Limits(512, 64)),
        (RewardConfig(max_tokens=32, answer_tokens=64), 512, Limits(32, 32)),
        (PPOConfig(max_tokens=100, max_new_tokens=30), 512, Limits(100, 30, reserved=30)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_limits_of_stages(config: RunConfig, context: int, limit: Limits) -> None:
    assert limits(config, context) == limit


@pytest.mark.parametrize(
    ("length", "limit", "kept"),
    [
        (Length("a", 9, (1, 1)), Limits(10, 10), (9, (1, 1))),  # each answer continues the prompt by itself
        (Length("a", 9, (2, 1)), Limits(10, 10), (9, (1, 1))),
        (Length("a", 10, (1,)), Limits(10, 10), None),
        (Length("a", 0, (1,)), Limits(10, 10), None),
        (Length("a", 5, (4, 2)), Limits(10, 3), (5, (3, 2))),
        (Length("a", 7), Limits(10, 3, reserved=3), (7, ())),
        (Length("a", 8), Limits(10, 3, reserved=3), None),
    ],
    ids=str,
)
def test_what_fits(length: Length, limit: Limits, kept: Any) -> None:
    fitted = fit([length], limit)
    assert [(each.prompt, each.answers) for each in fitted.kept] == ([] if kept is None else [kept])
    assert fitted.left_out == ((length,) if kept is None else ())
    assert fitted.cut == ((length,) if kept not in (None, (length.prompt, length.answers)) else ())


def test_what_fits_is_what_the_encoder_keeps() -> None:
    prompts = [text_prompt("x" * size) for size in range(1, 12)]
    encoder = Encoder(TOKENIZER, 10, 4)
    trees = [encoder.tree(prompt, ["yyyyyy", "z"]) for prompt in prompts]
    rankings = [Ranking(prompt, (Answer("yyyyyy", 1), Answer("z", 2))) for prompt in prompts]
    kept = fit(lengths("reward", *rankings), Limits(10, 4)).kept
    wanted = [(len(tree.prompt), tuple(map(len, tree.answers))) for tree in trees if tree is not None]
    assert [(each.prompt, each.answers) for each in kept] == wanted
    assert len(wanted) == 9
