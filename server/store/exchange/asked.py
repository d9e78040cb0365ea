"""Completions that may be trained on: the prompts and the answers of many at once.

Invariant: whose user denied training, and who denied it for a request, is not in what is loaded here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, select

from honed.server.store.exchange.importing import ID_TAG, SOURCE
from honed.server.store.exchange.records import Message, message
from honed.server.store.messages import Conversation, among, batches, load_prompts
from honed.server.store.tables import Choice, Completion

AnswerKey: TypeAlias = tuple[str, int]  # completion, choice

_EXTERNAL_ID: Final = Completion.tags[ID_TAG].as_string().label("external_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody asked, and what a choice among prompts goes by (`prefix`: `prefixes.py`). `policy_id`: what
    answered it, `import` where that was nobody of ours. `external_id`: of the record that it was imported with."""

    completion_id: str
    prompt: tuple[Message, ...]
    user_hash: str | None
    prefix: int
    category: str
    policy_id: str
    external_id: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, and who wrote it where that was not the policy and is known."""

    completion_id: str
    text: str
    source: str | None


def load_asked(connection: Connection, completion_ids: Iterable[str]) -> dict[str, Asked]:
    """Those of the completions that may be trained on, by id."""
    columns = (
        Completion.id,
        Completion.prompt_id,
        Completion.source,
        Completion.user_hash,
        Completion.prefix,
        Completion.category,
        Completion.policy_id,
        _EXTERNAL_ID,
    )
    rows: list[Any] = []
    for some in batches(set(completion_ids)):
        rows += connection.execute(
            select(*columns).where(among(connection, Completion.id, some), Completion.trainable)
        ).all()
    conversations = load_prompts(connection, [row.prompt_id for row in rows])
    prompts = {prompt_id: as_prompt(conversation) for prompt_id, conversation in conversations.items()}
    return {row.id: _asked(row, prompts[row.prompt_id]) for row in rows}


def load_external_ids(connection: Connection, completion_ids: Iterable[str]) -> dict[str, str | None]:
    """The ids that the completions' records had, None where they had none."""
    found: dict[str, str | None] = {}
    for some in batches(completion_ids):
        query = select(Completion.id, Completion.source, _EXTERNAL_ID).where(Completion.id.in_(some))
        found.update((row.id, _external_id(row)) for row in connection.execute(query))
    return found


def load_written(connection: Connection, completion_ids: Iterable[str]) -> dict[AnswerKey, Written]:
    """The answers of the completions."""
    found: dict[AnswerKey, Written] = {}
    columns = (Choice.completion_id, Choice.index, Choice.text, Choice.source)
    for some in batches(completion_ids):
        query = select(*columns).where(among(connection, Choice.completion_id, some))
        for completion_id, index, text, source in connection.execute(query).all():
            found[completion_id, index] = Written(completion_id, text, source)
    return found


def as_prompt(conversation: Conversation) -> tuple[Message, ...]:
    """Messages as they are stored -> as records have them."""
    return tuple(message(**each) for each in conversation)


def _asked(row: Any, prompt: tuple[Message, ...]) -> Asked:
    return Asked(
        completion_id=row.id,
        prompt=prompt,
        user_hash=row.user_hash,
        prefix=row.prefix,
        category=row.category,
        policy_id=row.policy_id,
        external_id=_external_id(row),
    )


def _external_id(row: Any) -> str | None:
    """A tag of that name is a client's own unless the completion is an import."""
    return row.external_id if row.source == SOURCE else None
