"""A completion on its way into the store: what the server knows of it, one JSON line in the journal.

Nothing is redacted or hashed yet: that is done by `ingest.py`, off the server's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json


@dataclass(frozen=True, slots=True)
class LoggedChoice:
    """`token_ids` and `logprobs` have an entry for each sampled token. `finish_reason` is None for an answer that was
    cut off."""

    index: int
    text: str
    finish_reason: str | None
    token_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCompletion:
    """`created_s` is in Unix seconds. `messages`: role, content and perhaps name; a text prompt is one of the role
    `text`. `user` is what the client sent: it is hashed before it is stored; `user_hash` is given instead where the
    prompt is another completion's (`derived_from`). `assigned`: the server chose the policy."""

    id: str
    endpoint: str
    created_s: float
    model: str
    policy_id: str
    messages: Sequence[Mapping[str, str]]
    choices: Sequence[LoggedChoice]
    key_id: str
    retrievable: bool
    trainable: bool
    source: str = "server"
    assigned: bool = False
    request_id: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    first_token_ms: int | None = None
    total_ms: int | None = None
    user: str | None = None
    user_hash: str | None = None
    derived_from: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """One line of JSON, without its end."""
        return to_json(self)


def from_line(line: bytes) -> LoggedCompletion:
    """Raises ValueError, TypeError or KeyError for a line that is none."""
    fields = json.loads(line)
    choices = [LoggedChoice(**choice) for choice in fields.pop("choices")]
    return LoggedCompletion(choices=choices, **fields)
