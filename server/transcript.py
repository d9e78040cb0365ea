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
    def __init__(self, num_choices: int) -> None:
        self._choices = [_Sent() for _ in range(num_choices)]

    def add(self, delta: Delta) -> None:
        self._choices[delta.choice].add(delta)

    def choices(self, start: int, stop: int) -> list[LoggedChoice]:
        """Those of the indices `start` to `stop`."""
        return [self._choices[index].logged(index) for index in range(start, stop)]


class _Sent:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._finish_reason: Ending | None = None

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._finish_reason = delta.finish_reason
        for sample in delta.tokens:
            self._token_ids.append(sample.token_id)
            self._logprobs.append(sample.logprob)

    def logged(self, index: int) -> LoggedChoice:
        return LoggedChoice(
            index=index,
            text="".join(self._texts),
            finish_reason=self._finish_reason,
            token_ids=self._token_ids,
            logprobs=self._logprobs,
        )
