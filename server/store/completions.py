"""OpenAI's stored completions: list, retrieve, update the metadata; and finding what feedback is about.

`scope` is the key whose completions may be seen, None for all. Nothing here tells a completion that is not there from
one that is somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Connection, Select, delete, select, update
from sqlalchemy.orm import aliased

from honed.server.store.messages import Conversation, batches, load_prompts
from honed.server.store.originals import Sealer
from honed.server.store.tables import Choice, Completion, Original, Tag
from honed.server.store.upserts import insert_missing

Order = Literal["asc", "desc"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class StoredChoice:
    """`finish_reason` is None where the answer was cut off."""

    index: int
    text: str
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    id: str
    created: datetime
    model: str
    policy_id: str
    request_id: str | None
    messages: Conversation
    choices: list[StoredChoice]
    params: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    tags: dict[str, str]


def list_chats(
    connection: Connection,
    sealer: Sealer | None,
    *,
    scope: str | None,
    after: str | None = None,
    limit: int = 20,
    order: Order = "asc",
    model: str | None = None,
    tags: Mapping[str, str] = {},
) -> tuple[list[StoredCompletion], bool]:
    """A page of chat completions that may be retrieved, and whether more follow."""
    query = _visible(scope)
    if model is not None:
        query = query.where(Completion.model == model)
    for key, value in tags.items():
        tag = aliased(Tag)
        query = query.join(tag, tag.completion_id == Completion.id).where(tag.key == key, tag.value == value)
    # The order goes by the column that is looked up first, so that an index walk can stop at the limit.
    position = tag.completion_id if tags else Completion.id
    if after is not None:
        query = query.where(position > after if order == "asc" else position < after)
    rows = connection.execute(
        query.order_by(position.asc() if order == "asc" else position.desc()).limit(limit + 1)
    ).all()
    return _loaded(connection, sealer, rows[:limit]), len(rows) > limit


def get_chat(
    connection: Connection, sealer: Sealer | None, completion_id: str, *, scope: str | None
) -> StoredCompletion | None:
    rows = connection.execute(_visible(scope).where(Completion.id == completion_id)).all()
    found = _loaded(connection, sealer, rows)
    return found[0] if found else None


def set_tags(connection: Connection, completion_id: str, tags: Mapping[str, str]) -> None:
    """Puts OpenAI's `metadata` in the place of what was there; nothing happens where the completion is gone."""
    here = select(Completion.id).where(Completion.id == completion_id)
    if connection.execute(here.with_for_update(read=True, key_share=True)).first() is None:
        return
    connection.execute(update(Completion).where(Completion.id == completion_id).values(tags=dict(tags)))
    connection.execute(delete(Tag).where(Tag.completion_id == completion_id))
    rows = [{"key": key, "value": value, "completion_id": completion_id} for key, value in tags.items()]
    insert_missing(connection, Tag, rows)


def exists(connection: Connection, completion_id: str, *, scope: str | None) -> bool:
    """Whether there is such a completion in the scope, retrievable or not."""
    query = select(Completion.id).where(Completion.id == completion_id)
    if scope is not None:
        query = query.where(Completion.key_id == scope)
    return connection.execute(query).first() is not None


def _visible(scope: str | None) -> Select[Any]:
    query = select(
        Completion.id,
        Completion.created,
        Completion.model,
        Completion.policy_id,
        Completion.request_id,
        Completion.prompt_id,
        Completion.params,
        Completion.prompt_tokens,
        Completion.completion_tokens,
        Completion.cached_tokens,
        Completion.tags,
    ).where(Completion.retrievable, Completion.endpoint == "chat")
    return query if scope is None else query.where(Completion.key_id == scope)


def _loaded(connection: Connection, sealer: Sealer | None, rows: Sequence[Any]) -> list[StoredCompletion]:
    prompts = load_prompts(connection, [row.prompt_id for row in rows])
    choices = load_choices(connection, [row.id for row in rows])
    completions = [
        StoredCompletion(
            id=row.id,
            created=row.created,
            model=row.model,
            policy_id=row.policy_id,
            request_id=row.request_id,
            messages=prompts[row.prompt_id],
            choices=choices.get(row.id, []),
            params=row.params,
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
            tags=row.tags,
        )
        for row in rows
    ]
    return completions if sealer is None else _unsealed(connection, sealer, completions)


def load_choices(connection: Connection, completion_ids: Sequence[str]) -> dict[str, list[StoredChoice]]:
    """The answers of each completion, by index."""
    found: dict[str, list[StoredChoice]] = {}
    for some in batches(completion_ids):
        columns = (Choice.completion_id, Choice.index, Choice.text, Choice.finish_reason)
        query = select(*columns).where(Choice.completion_id.in_(some)).order_by(Choice.completion_id, Choice.index)
        for completion_id, index, text, finish_reason in connection.execute(query):
            ending = cast(FinishReason | None, finish_reason)
            found.setdefault(completion_id, []).append(StoredChoice(index, text, ending))
    return found


def _unsealed(connection: Connection, sealer: Sealer, completions: list[StoredCompletion]) -> list[StoredCompletion]:
    """With what was redacted put back, for who sent it; where it was sealed with another key, as it is."""
    sealed: dict[str, bytes] = {}
    for some in batches([completion.id for completion in completions]):
        query = select(Original.completion_id, Original.sealed).where(Original.completion_id.in_(some))
        sealed.update((completion_id, content) for completion_id, content in connection.execute(query))
    return [_restored(completion, sealer, sealed.get(completion.id)) for completion in completions]


def _restored(completion: StoredCompletion, sealer: Sealer, sealed: bytes | None) -> StoredCompletion:
    original = None if sealed is None else sealer.open(sealed)
    if original is None:
        return completion
    choices = [replace(choice, text=original.choices[choice.index]) for choice in completion.choices]
    return replace(completion, messages=original.messages, choices=choices)
