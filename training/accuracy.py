"""How well a reward model agrees with people: accuracy of pairs with an interval, by labeler and by source,
calibration, and what length has to do with it.

Pure functions of scored groups. The interval is a bootstrap over prompts: the pairs of one prompt are not independent.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log1p
from typing import Any, Final

from honed.training.groups import Group

BOOTSTRAPS: Final = 2000
BINS: Final = 10
MAX_POINTS: Final = 2000  # of reward against length


@dataclass(frozen=True, slots=True)
class Scored:
    """A group and the number that its answers got, in their order."""

    group: Group
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`difference`: the winner's number less the loser's."""

    difference: float
    sources: tuple[str | None, str | None]
    labeler: str | None

    @property
    def is_right(self) -> bool:
        return self.difference > 0


def evaluate(some: Sequence[Scored]) -> dict[str, Any]:
    """What goes into evaluation.json; nothing where there is no pair. `loss`: the ranking loss, meant over prompts."""
    by_prompt = [found for each in some if (found := list(pairs_of(each)))]
    if not by_prompt:
        return {}
    pairs = [pair for each in by_prompt for pair in each]
    low, high = interval(by_prompt)
    return {
        "accuracy": _accuracy(pairs),
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": sum(sum(_loss(pair) for pair in each) / len(each) for each in by_prompt) / len(by_prompt),
        "pairs": len(pairs),
        "prompts": len(by_prompt),
        "calibration": calibration(pairs),
        "by_labeler": _by(pairs, lambda pair: [pair.labeler]),
        "by_source": _by(pairs, lambda pair: pair.sources),
        "by_source_pair": _by(pairs, lambda pair: [" > ".join(map(str, pair.sources))] if all(pair.sources) else []),
        "reward_by_length": [
            [len(answer), number]
            for each in some
            for answer, number in zip(each.group.tree.answers, each.numbers, strict=True)
        ][:MAX_POINTS],
    }


def pairs_of(scored: Scored) -> Iterator[Pair]:
    """The pairs that are not tied, but for those of equal tokens, which no model can tell apart."""
    group = scored.group
    answers = group.tree.answers
    for i, winner in enumerate(group.ranks):
        for j, loser in enumerate(group.ranks):
            if winner < loser and answers[i] != answers[j]:
                difference = scored.numbers[i] - scored.numbers[j]
                yield Pair(difference, (group.sources[i], group.sources[j]), group.labeler)


def interval(by_prompt: Sequence[Sequence[Pair]]) -> tuple[float, float]:
    """The middle 95 % of the accuracies of BOOTSTRAPS draws of as many prompts."""
    draw = random.Random(0)  # noqa: S311  no secret
    counts = [(sum(pair.is_right for pair in each), len(each)) for each in by_prompt]
    found = []
    for _ in range(BOOTSTRAPS):
        drawn = draw.choices(counts, k=len(counts))
        found.append(sum(right for right, _ in drawn) / sum(total for _, total in drawn))
    found.sort()
    return found[int(0.025 * BOOTSTRAPS)], found[int(0.975 * BOOTSTRAPS)]


def calibration(pairs: Sequence[Pair]) -> list[dict[str, float]]:
    """Pairs in BINS of how sure the model is of the answer that it likes better: how often it is right.

    `predicted` is the mean of sigmoid(|difference|) in a bin: from a half, a guess, to 1.
    """
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for pair in pairs:
        sure = 1.0 / (1.0 + exp(-min(abs(pair.difference), 700.0)))
        bins[min(int((sure - 0.5) * 2 * BINS), BINS - 1)].append((sure, pair.is_right))
    return [
        {
            "predicted": sum(sure for sure, _ in each) / len(each),
            "observed": sum(right for _, right in each) / len(each),
            "pairs": len(each),
        }
        for _, each in sorted(bins.items())
    ]


def _by(pairs: Sequence[Pair], keys: Any) -> dict[str, dict[str, float]]:
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for key in dict.fromkeys(keys(pair)):
            if key is not None:
                found[key].append(pair)
    return {key: {"accuracy": _accuracy(each), "pairs": len(each)} for key, each in sorted(found.items())}


def _accuracy(pairs: Iterable[Pair]) -> float:
    right = [pair.is_right for pair in pairs]
    return sum(right) / len(right)


def _loss(pair: Pair) -> float:
    """-log sigmoid of the difference."""
    d = pair.difference
    return log1p(exp(-d)) if d > 0 else -d + log1p(exp(d))
