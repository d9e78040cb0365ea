"""Conversations, each message stored once: addresses, reading prompts back, forgetting what nobody refers to.

A message's address is the hash of its content and of its parent's address, as in a Merkle tree: a client that resends
its history every turn adds one row a turn, and two conversations with the same beginning share it. Invariant: a message
is there as long as a completion or a later message refers to it (foreign keys say so), and not longer (`prune`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ARRAY, ColumnElement, Connection, Text, any_, cast, delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute, aliased

from honed.server.store.database import is_sqlite
from honed.server.store.tables import Completion, Message

IDS_AT_ONCE = 2000  # of an IN list

ItemT = TypeVar("ItemT")
Conversation = list[dict[str, str]]  # role, content and, where there is one, name


def address(parent_id: str | None, role: str, name: str | None, content: str) -> str:
    """32 hexadecimal digits. Fields are told apart by their lengths, so that no two messages look alike."""
    digest = blake2b(digest_size=16)
    for field in (parent_id, role, name, content):
        raw = b"" if field is None else field.encode("utf-8")
        digest.update(b"-" if field is None else b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()


def chain(messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The rows of a conversation, parents first; the last one's id is the prompt's."""
    assert messages, "a prompt has a message"
    rows: list[dict[str, Any]] = []
    parent_id = None
    for message in messages:
        role, name, content = message["role"], message.get("name"), message["content"]
        node = address(parent_id, role, name, content)
        rows.append({"id": node, "parent_id": parent_id, "role": role, "name": name, "content": content})
        parent_id = node
    return rows


def load_prompts(connection: Connection, prompt_ids: Iterable[str]) -> dict[str, Conversation]:
    """The conversation that each id ends. One query for each 2,000 messages of each depth."""
    wanted = set(prompt_ids)
    nodes: dict[str, Any] = {}
    missing = wanted
    while missing:
        found = [row for some in batches(missing) for row in _nodes(connection, some)]
        nodes.update((row.id, row) for row in found)
        missing = {row.parent_id for row in found if row.parent_id is not None} - nodes.keys()
    return {prompt_id: _conversation(nodes, prompt_id) for prompt_id in wanted if prompt_id in nodes}


def prune(connection: Connection, message_ids: Iterable[str]) -> None:
    """Deletes those of the messages that nothing refers to any more, then those of their parents."""
    candidates = set(message_ids)
    while candidates:
        orphans = [row for some in batches(candidates) for row in _orphans(connection, some)]
        for some in batches([row.id for row in orphans]):
            connection.execute(delete(Message).where(Message.id.in_(some)))
        candidates = {row.parent_id for row in orphans if row.parent_id is not None}


def among(connection: Connection, column: InstrumentedAttribute[Any], ids: list[str]) -> ColumnElement[bool]:
    """Whether a column of texts is one of `ids`: on PostgreSQL as one array, since an IN list of hundreds of parameters
    costs more to write and to read than its rows."""
    if is_sqlite(connection):
        return column.in_(ids)
    return column == any_(cast(ids, ARRAY(Text)))


def batches(items: Iterable[ItemT], size: int = IDS_AT_ONCE) -> Iterator[list[ItemT]]:
    """The items in lists of at most `size`: databases bound the length of an IN list."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _nodes(connection: Connection, ids: list[str]) -> Sequence[Any]:
    columns = (Message.id, Message.parent_id, Message.role, Message.name, Message.content)
    return connection.execute(select(*columns).where(among(connection, Message.id, ids))).all()


def _orphans(connection: Connection, ids: list[str]) -> Sequence[Any]:
    child = aliased(Message)
    return connection.execute(
        select(Message.id, Message.parent_id).where(
            Message.id.in_(ids),
            ~exists().where(Completion.prompt_id == Message.id),
            ~exists().where(child.parent_id == Message.id),
        )
    ).all()


def _conversation(nodes: Mapping[str, Any], prompt_id: str) -> Conversation:
    backwards: Conversation = []
    node_id: str | None = prompt_id
    while node_id is not None:
        node = nodes[node_id]
        message = {"role": node.role, "content": node.content}
        backwards.append(message | ({} if node.name is None else {"name": node.name}))
        node_id = node.parent_id
    return backwards[::-1]
