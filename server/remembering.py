"""What the store is told of a request, once its answer is out: one completion for each of its prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from honed.server.auth import Caller
from honed.server.consent import TRAINING_HEADER, Consent, decide
from honed.server.generation import Generation
from honed.server.policies import CURRENT
from honed.server.served import ServedPolicy
from honed.server.store.ids import new_id
from honed.server.store.logged import LoggedCompletion
from honed.server.wire.sampling import SamplingRequest

# What a completion was sampled with, where the request says something else than nothing.
PARAMS = (
    "temperature", "top_p", "n", "stop", "frequency_penalty", "presence_penalty", "logit_bias", "seed", "top_k",
    "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids", "max_tokens", "max_completion_tokens",
)  # fmt: skip


def consent_of(http: Request, caller: Caller, store: bool | None = None) -> Consent:
    """What may be kept of this request. Raises InvalidValue and UnsupportedValue."""
    return decide(
        caller.logging or http.app.state.settings.logging,
        store=store,
        training=http.headers.get(TRAINING_HEADER),
        key_denies_training=caller.denies_training,
    )


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt as the client sent it: messages, and the token ids where it sent those."""

    messages: Sequence[Mapping[str, str]]
    token_ids: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and where its answer comes from. `id` and `created_s` (Unix seconds) are the answer's."""

    endpoint: str
    http: Request
    request: SamplingRequest
    caller: Caller
    consent: Consent
    served: ServedPolicy
    generation: Generation
    prompts: Sequence[AskedPrompt]
    id: str
    end_user: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    created_s: float = field(default_factory=time.time)

    @property
    def is_assigned(self) -> bool:
        """Whether the server chose the policy, so that the answer says something of the users' share that has it."""
        return self.request.model == CURRENT

    def remember(self) -> None:
        """Hands over what was sent. Nothing is kept without consent, nor of an answer of which nothing went out."""
        if not self.consent.is_kept:
            return
        for index in reversed(range(len(self.prompts))):  # the client's id last: who has it has all
            completion = self.completion(index)
            if any(choice.token_ids or choice.finish_reason for choice in completion.choices):
                self.http.app.state.recorder.record(completion)

    def completion(self, index: int) -> LoggedCompletion:
        """How one of the prompts was answered so far."""
        generation, prompt, n = self.generation, self.prompts[index], self.request.n
        choices = generation.transcript.choices(index * n, (index + 1) * n)
        return LoggedCompletion(
            id=numbered(self.id, index),
            endpoint=self.endpoint,
            created_s=self.created_s,
            model=self.served.policy.name,
            policy_id=self.served.policy.id,
            request_id=self.http.state.request_id,
            messages=prompt.messages,
            prompt_token_ids=prompt.token_ids,
            choices=choices,
            params=sampling_params(self.request),
            prompt_tokens=generation.prompt_lengths[index],
            completion_tokens=sum(len(choice.token_ids or ()) for choice in choices),
            cached_tokens=generation.cached_lengths[index],
            first_token_ms=_milliseconds(generation.first_token_s),
            total_ms=_milliseconds(generation.elapsed_s),
            key_id=self.caller.key_id,
            user=self.end_user,
            assigned=self.is_assigned,
            tags=self.tags,
            retrievable=self.consent.retrievable,
            trainable=self.consent.trainable,
        )


def completion_id(endpoint: str, created_s: float) -> str:
    """OpenAI's prefixes."""
    return new_id("chatcmpl" if endpoint == "chat" else "cmpl", at_s=created_s)


def numbered(identifier: str, prompt: int) -> str:
    """A request with many prompts is one answer to its client and many completions to the store."""
    return identifier if prompt == 0 else f"{identifier}.{prompt}"


def sampling_params(request: SamplingRequest) -> dict[str, Any]:
    """Those that the request set, with OpenAI's names; the others have OpenAI's defaults."""
    set_here = request.model_fields_set
    return {name: getattr(request, name) for name in PARAMS if name in set_here}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
