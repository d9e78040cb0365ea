"""Examples -> what the trainers compute on: trees of demonstrations, ranked groups, prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from honed.server.store.exchange.records import Demonstration, Message, Ranking, Record
from honed.training.data.datasets import Example
from honed.training.encoding import Encoder
from honed.training.trees import Tree


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt's answers with their ranks, 1 the best, and who wrote and who ranked them, where that is known."""

    tree: Tree
    ranks: tuple[int, ...]
    sources: tuple[str | None, ...]
    labeler: str | None

    @property
    def kinds(self) -> tuple[int, ...]:
        """Of each answer the first that has its tokens: no model can tell the two apart."""
        return tuple(map(self.tree.answers.index, self.tree.answers))

    @property
    def is_telling(self) -> bool:
        """Whether there is a pair to learn from."""
        pairs = combinations(zip(self.ranks, self.kinds, strict=True), 2)
        return any(one[0] != other[0] and one[1] != other[1] for one, other in pairs)


def demonstrations(examples: Iterable[Example], encoder: Encoder) -> list[Tree]:
    """A tree of one answer each; those whose prompt leaves no room are left out."""
    trees = (
        encoder.tree(record.prompt, [answer]) for record, answer in map(_demonstrated, _records(examples)) if answer
    )
    return [tree for tree in trees if tree is not None]


def groups(examples: Iterable[Example], encoder: Encoder) -> list[Group]:
    """The rankings; those whose prompt leaves no room are left out, and those that say nothing."""
    found = (_group(example, encoder) for example in examples)
    return [group for group in found if group is not None and group.is_telling]


def says_nothing(example: Example, encoder: Encoder) -> bool:
    """Whether all answers of a ranking that differ in rank are the same once they are cut."""
    group = _group(example, encoder)
    return group is not None and not group.is_telling


def _group(example: Example, encoder: Encoder) -> Group | None:
    ranking = example.record
    assert isinstance(ranking, Ranking)
    tree = encoder.tree(ranking.prompt, [answer.text for answer in ranking.answers])
    if tree is None:
        return None
    ranks = tuple(answer.rank for answer in ranking.answers)
    sources = tuple(answer.source for answer in ranking.answers)
    return Group(tree, ranks, sources, example.labeler)


def prompts(examples: Iterable[Example], encoder: Encoder, max_new_tokens: int) -> list[tuple[int, ...]]:
    """Those that leave room for an answer, each once."""
    encoded = (encoder.prompt(record.prompt) for record in _records(examples))
    room = encoder.max_tokens - max_new_tokens
    return list(dict.fromkeys(ids for ids in encoded if 0 < len(ids) <= room))


def _records(examples: Iterable[Example]) -> Iterable[Record]:
    return (example.record for example in examples)


def _demonstrated(record: Record) -> tuple[Record, str | None]:
    if isinstance(record, Demonstration):
        return record, record.answer
    return record, record.demonstration if isinstance(record, Ranking) else None


def texts_of(prompt: Iterable[Message]) -> str:
    """A prompt for people."""
    return "\n\n".join(message["content"] for message in prompt)
