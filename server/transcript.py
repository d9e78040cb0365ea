"""Deltas of answers, and what was sent of them, for the store: texts, tokens and log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from honed.models.engine.sampler import Sample
from honed.server.store.logged import LoggedChoice

Ending = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new in one choice. `tokens` are those that `text` was made of, and those that have no text."""

    choice: int
    text: str
    tokens: tuple[Sample, ...]
    finish_reason: Ending | None


class Transcript:
    """Put together when it is asked for: while an answer is streamed, a delta costs no more than an append."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []

    def add(self, delta: Delta) -> None:
        self._deltas.append(delta)

    def choices(self, start: int, stop: int) -> list[LoggedChoice]:
        """Those of the indices `start` to `stop`."""
        sent: list[list[Delta]] = [[] for _ in range(start, stop)]
        for delta in self._deltas:
            if start <= delta.choice < stop:
                sent[delta.choice - start].append(delta)
        return [_logged(start + place, deltas) for place, deltas in enumerate(sent)]


def _logged(index: int, deltas: list[Delta]) -> LoggedChoice:
    samples = [sample for delta in deltas for sample in delta.tokens]
    return LoggedChoice(
        index=index,
        text="".join([delta.text for delta in deltas]),
        finish_reason=deltas[-1].finish_reason if deltas else None,
        token_ids=[sample.token_id for sample in samples],
        logprobs=[sample.logprob for sample in samples],
    )
