"""How long prompts and answers are in tokens, and what of them a run has room for.

Owns counting by the tokenizer that serves, and the rules of what is left out and what is cut; encoding itself is
`encoding.py`'s. Invariant: what fits here is what training sees, token for token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import TYPE_CHECKING

from honed.models.chat import ChatTemplateError
from honed.server.store.exchange.records import Demonstration, Prompt, Ranking, Record, Thumb, shown
from honed.training.configs import PPOConfig, RewardConfig, RunConfig, Stage
from honed.training.failures import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from honed.training.data.datasets import Example

_UNBOUNDED = 2**31
_SCORED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of a prompt and of each of its answers, ends included. `name` is how a message calls it."""

    name: str
    prompt: int
    answers: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Where all answers share one prompt."""
        return self.prompt + sum(self.answers)


@dataclass(frozen=True, slots=True)
class Limits:
    """`tokens`: most of prompt and answer together; `answer`: most of one; `reserved`: what a prompt must leave."""

    tokens: int
    answer: int
    reserved: int = 1


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a run trains on, cut as it will be, and what does not come along as it is."""

    kept: tuple[Length, ...]
    left_out: tuple[Length, ...]
    cut: tuple[Length, ...]  # as they were


def limits(config: RunConfig, context_length: int) -> Limits:
    """Of a stage's settings, and of a model that reads at most `context_length` tokens."""
    tokens = min(config.max_tokens, context_length)
    if isinstance(config, RewardConfig):
        return Limits(tokens, min(tokens, config.answer_tokens))
    if isinstance(config, PPOConfig):
        return Limits(tokens, config.max_new_tokens, reserved=config.max_new_tokens)
    return Limits(tokens, tokens)


def fit(lengths: Iterable[Length], limit: Limits) -> Fitted:
    kept: list[Length] = []
    left_out: list[Length] = []
    cut: list[Length] = []
    for length in lengths:
        if not 0 < length.prompt <= limit.tokens - limit.reserved:
            left_out.append(length)
            continue
        room = min(limit.answer, limit.tokens - length.prompt)
        kept.append(replace(length, answers=tuple(min(answer, room) for answer in length.answers)))
        if kept[-1] != length:
            cut.append(length)
    return Fitted(tuple(kept), tuple(left_out), tuple(cut))


def scored_tokens(room: int) -> int:
    """Of answers that are made to be scored or shown, where `room` is there for the prompt too."""
    return min(_SCORED_TOKENS, room // 2)


def measured(tokenizer: PreTrainedTokenizerBase, stage: Stage, examples: Sequence[Example]) -> list[Length]:
    """One a thing that the stage counts in its batches: for DPO a pair, else an example. Raises TrainingError."""
    from honed.training.encoding import Encoder

    encoder = Encoder(tokenizer, _UNBOUNDED, _UNBOUNDED)
    lengths: list[Length] = []
    for example in examples:
        record = example.record
        try:
            prompt = len(encoder.prompt(record.prompt))
        except ChatTemplateError as error:
            raise TrainingError(f"{_name(record)} cannot be trained on: {error}") from error
        groups = list(_answers(stage, record))
        sizes = {text: len(encoder.answer(text, _UNBOUNDED)) for text in chain.from_iterable(groups)}
        lengths += [Length(_name(record), prompt, tuple(sizes[text] for text in texts)) for texts in groups]
    return lengths


def _answers(stage: Stage, record: Record) -> Iterator[tuple[str, ...]]:
    """The answers that a stage trains on at once."""
    if isinstance(record, Prompt):
        yield ()
    elif isinstance(record, Demonstration | Thumb):
        yield (record.answer,)
    elif stage == "dpo":
        yield from _pairs(record)
    else:
        yield tuple(answer.text for answer in record.answers)


def _pairs(record: Ranking) -> Iterator[tuple[str, str]]:
    """As `pair_rows` of the store's exchange gives them to TRL."""
    for better, worse in combinations(sorted(record.answers, key=lambda answer: answer.rank), 2):
        if better.rank < worse.rank and better.text != worse.text:
            yield better.text, worse.text


def _name(record: Record) -> str:
    """The record's own id, else the beginning of its last message."""
    if record.external_id is not None:
        return shown(record.external_id)
    return f"“{shown(' '.join(record.prompt[-1]['content'].split()))}”"
