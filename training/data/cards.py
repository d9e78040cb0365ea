"""The card of a dataset: where it comes from, how much there is of what, and what was left out.

Owns the numbers; `reports/` shows them. Chooses nothing. Invariant: a card is JSON and goes with the checkpoint, so it
holds no text of anybody's and no user; it does name labelers, files and policies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from math import ceil
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from honed.server.store.exchange.records import Demonstration, Ranking, Record, Thumb
from honed.training.configs import Stage
from honed.training.data.offers import Candidate
from honed.training.data.splits import SPLITS, Split


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where the rows come from. `name`: `store`, a snapshot's id or a file's name. `sha256`: of the file's bytes."""

    kind: Literal["store", "snapshot", "file"]
    name: str
    sha256: str | None = None


class Counts(_Frozen):
    """`prompts` are told apart by their prefix keys. Examples without a user are of none."""

    examples: int = 0
    prompts: int = 0
    users: int = 0


class Lengths(_Frozen):
    """In characters."""

    min: int
    median: int
    p95: int
    max: int


class Pairs(_Frozen):
    """The pairs of answers that rankings compare. Nothing is learned from those that tie, nor from those of the same
    text: where such answers have different ranks, `contradictory` counts them."""

    total: int
    ties: int
    contradictory: int


class Card(_Frozen):
    """`settings`: of the data, as it was chosen. `created`: of the snapshot. `gone`: examples that the snapshot had
    and that were erased or denied to training since. `left_out`: reason -> records. `redactions`: kind -> how many were
    found in the file (the store's texts were redacted when they came in). Other mappings count examples, `sources`
    answers."""

    id: str
    stage: Stage
    source: Source
    created: AwareDatetime | None = None
    settings: Mapping[str, Any] = {}
    splits: Mapping[Split, Counts]
    prompt_lengths: Lengths | None = None
    answer_lengths: Lengths | None = None
    categories: Mapping[str, int] = {}
    sources: Mapping[str, int] = {}
    labelers: Mapping[str, int] = {}
    pairs: Pairs | None = None
    redactions: Mapping[str, int] = {}
    left_out: Mapping[str, int] = {}
    gone: int = 0


def describe(chosen: Sequence[tuple[Candidate, Split]]) -> dict[str, Any]:
    """The fields of a card that the examples themselves give."""
    candidates = [candidate for candidate, _ in chosen]
    answers = [len(text) for candidate in candidates for text in answers_of(candidate.record)]
    return {
        "splits": {split: _counts([each for each, of in chosen if of == split]) for split in SPLITS},
        "prompt_lengths": _lengths([_prompt_length(candidate.record) for candidate in candidates]),
        "answer_lengths": _lengths(answers),
        "categories": _most_first(candidate.category for candidate in candidates),
        "sources": _most_first(writer for candidate in candidates for writer in candidate.writers),
        "labelers": _most_first(each.labeler for each in candidates if each.labeler is not None),
        "pairs": _pairs([each.record for each in candidates if isinstance(each.record, Ranking)]),
    }


def answers_of(record: Record) -> tuple[str, ...]:
    """The texts of a record that a stage learns from."""
    if isinstance(record, Ranking):
        return tuple(answer.text for answer in record.answers)
    return (record.answer,) if isinstance(record, Demonstration | Thumb) else ()


def _counts(candidates: Collection[Candidate]) -> Counts:
    return Counts(
        examples=len(candidates),
        prompts=len({candidate.prefix for candidate in candidates}),
        users=len({candidate.user for candidate in candidates} - {None}),
    )


def _prompt_length(record: Record) -> int:
    return sum(len(message["content"]) for message in record.prompt)


def _lengths(lengths: list[int]) -> Lengths | None:
    if not lengths:
        return None
    lengths.sort()
    return Lengths(min=lengths[0], median=_quantile(lengths, 0.5), p95=_quantile(lengths, 0.95), max=lengths[-1])


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of all is not above."""
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]


def _most_first(names: Iterable[str]) -> dict[str, int]:
    counted = Counter(names)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _pairs(rankings: Sequence[Ranking]) -> Pairs | None:
    if not rankings:
        return None
    total = ties = contradictory = 0
    for ranking in rankings:
        for one, two in combinations(ranking.answers, 2):
            total += 1
            ties += one.rank == two.rank
            contradictory += one.rank != two.rank and one.text == two.text
    return Pairs(total=total, ties=ties, contradictory=contradictory)
