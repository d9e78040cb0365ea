"""What the store or a file offers a stage to learn from, before any of it is chosen.

Owns which records a stage reads, and which of them teach nothing. Knows no table and no file. Invariant: a record that
`as_read` gives for a stage is of that stage's kind, and one without a `fault` has something to learn in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, TypeAlias

from honed.server.store.exchange.records import Demonstration, Prompt, Ranking, Record, Thumb
from honed.training.configs import Stage
from honed.training.failures import TrainingError

READS: Final[Mapping[Stage, type[Record]]] = {
    "sft": Demonstration,
    "reward": Ranking,
    "dpo": Ranking,
    "kto": Thumb,
    "ppo": Prompt,
}
KIND_NAMES: Final[Mapping[type[Record], str]] = {
    Demonstration: "demonstrations",
    Ranking: "rankings",
    Thumb: "thumbs",
    Prompt: "prompts",
}

# Why a record is left out.
ALL_TIED: Final = "all answers tie"
CONTRADICTORY: Final = "one answer with different ranks"

UNKNOWN: Final = "unknown"  # who wrote an answer
PERSON: Final = "person"  # who writes demonstrations

PartKey: TypeAlias = tuple[str, str | None]  # completion, feedback


class DataError(TrainingError):
    """Data that cannot be trained on; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A record and what choosing goes by. `prefix`: its prompt's key. `user` asked; `owner` asked that prompt first.
    `writers`: of its answers, in their order. `parts`: the rows of the store that it is made of; the first names it."""

    record: Record
    prefix: int
    category: str
    user: str | None = None
    owner: str | None = None
    labeler: str | None = None
    writers: tuple[str, ...] = ()
    parts: tuple[PartKey, ...] = ()


@dataclass(slots=True)
class Offer:
    """All candidates, in an order that is always the same. `left_out`: reason -> how many records. `redactions`: kind
    -> how many were found."""

    candidates: list[Candidate] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)


def as_read(record: Record, stage: Stage) -> Record | None:
    """What the stage reads of a record; None where that is nothing. A demonstration beside a ranking is one as well,
    and every record has a prompt."""
    if stage == "ppo":
        return Prompt(record.prompt, record.external_id)
    if stage == "sft" and isinstance(record, Ranking) and record.demonstration is not None:
        return Demonstration(record.prompt, record.demonstration, record.external_id)
    return record if isinstance(record, READS[stage]) else None


def fault(record: Record) -> str | None:
    """Why there is nothing to learn from a record, None where there is. Labelers do give the same text two ranks: what
    the ranking says of other texts counts all the same."""
    if not isinstance(record, Ranking):
        return None
    pairs = [pair for pair in combinations(record.answers, 2) if pair[0].rank != pair[1].rank]
    if any(one.text != two.text for one, two in pairs):
        return None
    return CONTRADICTORY if pairs else ALL_TIED
