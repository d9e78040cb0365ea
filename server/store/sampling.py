"""Prompts for labelers and for training, by InstructGPT's rules (Ouyang et al. 2022, section 3.2 and appendix A): of
the prompts with a long common prefix one, and of a user at most 200.

The oldest completion with a prefix stands for it (`prefixes.py`). A completion without a user is nobody's: no limit
counts it. Keys of prefixes are uniform over the signed 64-bit integers, so the first at or after a random number is a
random one. Does not decide who may be trained on: `trainable` says so already, denials included.
Invariant: rows are read in bounded batches along `ix_completions_samplable`, however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select

from honed.server.store.messages import Conversation, batches, load_prompts
from honed.server.store.tables import SAMPLABLE, Completion, Task

MAX_PER_USER: Final = 200
LOWEST, HIGHEST = -(2**63), 2**63 - 1  # of prefixes
MAX_WALKED = 100_000  # prefixes: where so many in a row are of no use, hardly any other is
_FEW, _MANY = 16, 1024  # rows a batch: the first prompt is often the right one


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPrompt:
    """A prompt, and whose it is."""

    completion_id: str
    endpoint: str
    key_id: str
    user_hash: str | None
    prefix: int
    messages: Conversation


def sample(connection: Connection, start: int, tried: Collection[int] = ()) -> SampledPrompt | None:
    """The first prompt at or after `start`, round the end, that has no task yet and whose user has fewer than
    MAX_PER_USER; prefixes in `tried` do not count. None where there is none among the next MAX_WALKED."""
    walked = 0
    for some in _from(connection, start):
        tasked = _with_task(connection, [row.prefix for row in some])
        full = _full_users(connection, {row.user_hash for row in some if row.user_hash is not None})
        for row in some:
            is_usable = row.prefix not in tried and row.prefix not in tasked and row.user_hash not in full
            if is_usable and (loaded := _loaded(connection, [row])):
                return loaded[0]
        walked += len(some)
        if walked >= MAX_WALKED:
            break
    return None


def has_room(connection: Connection, user_hash: str | None) -> bool:
    """Whether another task may be made of what this user asked."""
    return user_hash is None or not _full_users(connection, {user_hash})


def prompts(connection: Connection, max_per_user: int | None = None) -> Iterator[SampledPrompt]:
    """All prompts, in the order of their prefixes, which is none: the `max_per_user` of a user (unset, MAX_PER_USER)
    are a random choice. As long as somebody reads them, the transaction must be open."""
    given: Counter[str] = Counter()
    most = MAX_PER_USER if max_per_user is None else max_per_user
    for some in _representatives(connection, LOWEST, HIGHEST):
        kept = []
        for row in some:
            if row.user_hash is None or given[row.user_hash] < most:
                kept.append(row)
                given.update([] if row.user_hash is None else [row.user_hash])
        yield from _loaded(connection, kept)


def owners(connection: Connection, prefixes: Collection[int]) -> dict[int, str | None]:
    """Whose the prompts are: the users of the oldest completions with these prefixes, None for nobody's. Without those
    that only labelers' answers, or pairs, have."""
    found: dict[int, str | None] = {}
    for some in batches(prefixes):
        found.update((row.prefix, row.user_hash) for row in connection.execute(owners_query(some)))
    return found


def owners_query(prefixes: Collection[int]) -> Select[*tuple[Any, ...]]:
    """Along the index: its first id of each prefix."""
    oldest = select(func.min(Completion.id).label("id")).where(SAMPLABLE, Completion.prefix.in_(prefixes))
    oldest_ids = oldest.group_by(Completion.prefix).subquery()
    return select(Completion.prefix, Completion.user_hash).join(oldest_ids, Completion.id == oldest_ids.c.id)


def _from(connection: Connection, start: int) -> Iterator[list[Any]]:
    yield from _representatives(connection, start, HIGHEST)
    if start > LOWEST:
        yield from _representatives(connection, LOWEST, start - 1)


def _representatives(connection: Connection, first: int, last: int) -> Iterator[list[Any]]:
    """The oldest completion of each prefix from `first` to `last`, in batches that grow."""
    size = _FEW
    while True:
        rows = connection.execute(batch_query(first, last, size)).all()
        if rows:
            yield [next(same) for _, same in groupby(rows, key=lambda row: row.prefix)]
        if len(rows) < size or rows[-1].prefix == last:
            return
        first = rows[-1].prefix + 1  # past all completions with that prefix, of which there may be very many
        size = min(4 * size, _MANY)


def batch_query(first: int, last: int, size: int) -> Select[*tuple[Any, ...]]:
    """The next rows of the walk along the index."""
    columns = (
        Completion.id.label("completion_id"),
        Completion.endpoint,
        Completion.key_id,
        Completion.user_hash,
        Completion.prefix,
        Completion.prompt_id,
    )
    within = (SAMPLABLE, Completion.prefix >= first, Completion.prefix <= last)
    return select(*columns).where(*within).order_by(Completion.prefix, Completion.id).limit(size)


def tasks_query(prefixes: Collection[int]) -> Select[int | None]:
    """Those of the prefixes that have a task."""
    return select(Task.prefix).where(Task.prefix.in_(prefixes))


def users_query(users: Collection[str]) -> Select[str | None]:
    """Those of the users who have as many tasks as they may."""
    counted = select(Task.user_hash).where(Task.user_hash.in_(users)).group_by(Task.user_hash)
    return counted.having(func.count() >= MAX_PER_USER)


def _with_task(connection: Connection, prefixes: Collection[int]) -> set[int | None]:
    found: set[int | None] = set()
    for some in batches(prefixes):
        found.update(connection.execute(tasks_query(some)).scalars())
    return found


def _full_users(connection: Connection, users: Collection[str]) -> set[str | None]:
    found: set[str | None] = set()
    for some in batches(users):
        found.update(connection.execute(users_query(some)).scalars())
    return found


def _loaded(connection: Connection, rows: Sequence[Any]) -> list[SampledPrompt]:
    """Without those that were erased since they were read: PostgreSQL shows each query what is there then."""
    conversations = load_prompts(connection, [row.prompt_id for row in rows])
    return [
        SampledPrompt(
            completion_id=row.completion_id,
            endpoint=row.endpoint,
            key_id=row.key_id,
            user_hash=row.user_hash,
            prefix=row.prefix,
            messages=conversations[row.prompt_id],
        )
        for row in rows
        if row.prompt_id in conversations
    ]
