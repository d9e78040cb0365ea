"""Completions into the tables: hashed, redacted, classified, each once.

The one way in, for the journal, for imports and for the answers that labelers rank. Invariants: text reaches the tables
redacted; a completion's token ids and log-probabilities are kept only where its text was not changed, since they would
spell out what was taken from it; a completion that is there already is not touched; nothing of a user who was erased
afterwards gets in, and no pair (`pairs.py`) of what is not there.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, select

from honed.server.store import pairs
from honed.server.store.categories import classify
from honed.server.store.exchange.records import TEXT_ROLE
from honed.server.store.logged import LoggedChoice, LoggedCompletion
from honed.server.store.messages import batches, chain
from honed.server.store.originals import Original, Sealer
from honed.server.store.prefixes import prefix_key
from honed.server.store.redaction import Redaction, redact
from honed.server.store.tables import Choice, Completion, Erasure, Message, Tag
from honed.server.store.tables import Original as OriginalRow
from honed.server.store.upserts import insert_missing
from honed.server.store.users import denying, hash_user, lock_users

REMEMBERED_TEXTS = 4096  # a history is sent again every turn, and system prompts with every request


@dataclass(slots=True)
class Ingested:
    """What became of a batch. `redactions`: kind -> how many were found."""

    completions: int = 0
    dropped: int = 0  # of users who were erased after they had asked; pairs of what was erased
    redactions: Counter[str] = field(default_factory=Counter)


class Ingest:
    """Turns completions into rows. One of these a process; touched by one thread at a time."""

    def __init__(self, salt: str, sealer: Sealer | None = None, *, keep_personal_data: bool = False) -> None:
        """`sealer` keeps what was redacted; `keep_personal_data` redacts nothing (imports of public data)."""
        self._salt = salt
        self._sealer = sealer
        self._redact = _unredacted if keep_personal_data else lru_cache(REMEMBERED_TEXTS)(_redacted)

    def insert(self, connection: Connection, completions: Sequence[LoggedCompletion]) -> Ingested:
        """To be called in a transaction that writes. Raises IntegrityError where a message was pruned meanwhile by
        another process: then the same call, in a new transaction, goes well."""
        hashes = [self._user_hash(completion) for completion in completions]
        users = {user for user in hashes if user is not None}
        lock_users(connection, users)
        denied, erased = denying(connection, users), _erased(connection, users)
        repeated = pairs.repeated(connection, completions)
        done = Ingested()
        rows = _Rows()
        for completion, user_hash in zip(completions, hashes, strict=True):
            is_erased = user_hash is not None and erased.get(user_hash, 0.0) > completion.created_s
            if is_erased or (completion.source in pairs.SOURCES and completion.derived_from not in repeated):
                done.dropped += 1
                continue
            trainable = completion.trainable and user_hash not in denied
            if completion.retrievable or trainable:
                self._add(rows, completion, user_hash, trainable=trainable)
                repeated.add(completion.id)
        rows.insert(connection)
        pairs.offer(connection, [each.id for each in completions if each.source in pairs.SOURCES])
        done.completions = len(rows.completions)
        done.redactions = rows.redactions
        return done

    def clean(self, text: str) -> Redaction:
        """A text that is none of a completion, such as a correction, as it may be stored."""
        return self._redact(text)

    def _user_hash(self, completion: LoggedCompletion) -> str | None:
        if completion.user_hash is not None or completion.user is None:
            return completion.user_hash
        return hash_user(self._salt, completion.user)

    def _add(self, rows: _Rows, logged: LoggedCompletion, user_hash: str | None, *, trainable: bool) -> None:
        found: Counter[str] = Counter()
        messages = [self._clean_message(message, found) for message in logged.messages]
        prompt_changed = bool(found)
        tags = {_storable(key): _storable(value) for key, value in logged.tags.items()}
        texts = {choice.index: self._clean(choice.text, found) for choice in logged.choices}
        params = self._clean_params(logged.params, found)
        nodes = chain(messages)
        rows.messages.update((node["id"], (depth, node)) for depth, node in enumerate(nodes))
        rows.redactions.update(found)
        rows.completions.append(
            {
                "id": logged.id,
                "endpoint": logged.endpoint,
                "source": logged.source,
                "created": datetime.fromtimestamp(logged.created_s, UTC),
                "model": logged.model,
                "policy_id": logged.policy_id,
                "request_id": logged.request_id,
                "prompt_id": nodes[-1]["id"],
                "prompt_token_ids": None if prompt_changed else _packed("i", logged.prompt_token_ids),
                "params": params,
                "prompt_tokens": logged.prompt_tokens,
                "completion_tokens": logged.completion_tokens,
                "cached_tokens": logged.cached_tokens,
                "first_token_ms": logged.first_token_ms,
                "total_ms": logged.total_ms,
                "key_id": logged.key_id,
                "user_hash": user_hash,
                "assigned": logged.assigned,
                "retrievable": logged.retrievable,
                "trainable": trainable,
                "tags": tags,
                "redactions": dict(found),
                "prefix": prefix_key(messages),
                "category": classify(_asked(messages)),
                "derived_from": logged.derived_from,
            }
        )
        rows.choices += [_choice_row(logged.id, choice, texts[choice.index]) for choice in logged.choices]
        rows.tags += [{"key": key, "value": value, "completion_id": logged.id} for key, value in tags.items()]
        if found and self._sealer is not None:
            rows.originals.append({"completion_id": logged.id, "sealed": self._sealer.seal(_original(logged))})

    def _clean_message(self, message: Mapping[str, str], found: Counter[str]) -> dict[str, str]:
        """The name is redacted like the content: it is free text of the client's."""
        return {key: value if key == "role" else self._clean(value, found) for key, value in message.items()}

    def _clean_params(self, params: Mapping[str, Any], found: Counter[str]) -> dict[str, Any]:
        """Stop strings are the client's words as well."""
        stop = params.get("stop")
        if isinstance(stop, str):
            return {**params, "stop": self._clean(stop, found)}
        return {**params, "stop": [self._clean(text, found) for text in stop]} if stop else dict(params)

    def _clean(self, text: str, found: Counter[str]) -> str:
        redaction = self._redact(text)
        if redaction.counts:
            found.update(redaction.counts)
        return redaction.text


@dataclass(slots=True)
class _Rows:
    """A batch, table by table, in the order of insertion."""

    messages: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # with their depths
    completions: list[dict[str, Any]] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    tags: list[dict[str, Any]] = field(default_factory=list)
    originals: list[dict[str, Any]] = field(default_factory=list)
    redactions: Counter[str] = field(default_factory=Counter)

    def insert(self, connection: Connection) -> None:
        # Parents first; and in one order everywhere, so that two servers with the same messages do not deadlock.
        in_order = sorted(self.messages.values(), key=lambda each: (each[0], each[1]["id"]))
        insert_missing(connection, Message, [node for _, node in in_order])
        insert_missing(connection, Completion, self.completions)
        insert_missing(connection, Choice, self.choices)
        insert_missing(connection, Tag, self.tags)
        insert_missing(connection, OriginalRow, self.originals)


def token_ids(packed: bytes | None) -> list[int] | None:
    """The token ids of a choice or a prompt, as they were sampled or sent."""
    return None if packed is None else array("i", packed).tolist()


def logprobs(packed: bytes | None) -> list[float] | None:
    """A choice's log-probabilities, in float32 as the engine computes them."""
    return None if packed is None else array("f", packed).tolist()


def _choice_row(completion_id: str, choice: LoggedChoice, text: str) -> dict[str, Any]:
    is_whole = text == choice.text
    return {
        "completion_id": completion_id,
        "index": choice.index,
        "text": text,
        "finish_reason": choice.finish_reason,
        "token_ids": _packed("i", choice.token_ids) if is_whole else None,
        "logprobs": _packed("f", choice.logprobs) if is_whole else None,
        "source": choice.source,
    }


def _packed(kind: str, values: Sequence[int] | Sequence[float] | None) -> bytes | None:
    """Four bytes a value. Every machine that PyTorch runs on is little-endian, so a store can change machines."""
    return None if values is None else array(kind, values).tobytes()


def _redacted(text: str) -> Redaction:
    return redact(_storable(text))


def _unredacted(text: str) -> Redaction:
    return Redaction(_storable(text), {})


def _storable(text: str) -> str:
    """PostgreSQL has no NUL in texts."""
    return text.replace("\0", "\ufffd")


def _original(logged: LoggedCompletion) -> Original:
    return Original([dict(message) for message in logged.messages], {c.index: c.text for c in logged.choices})


def _asked(messages: Sequence[Mapping[str, str]]) -> str:
    """What the classifier looks at: the last thing that the user said."""
    asked = [message["content"] for message in messages if message["role"] in ("user", TEXT_ROLE)]
    return asked[-1] if asked else messages[-1]["content"]


def _erased(connection: Connection, users: set[str]) -> dict[str, float]:
    """When each of the users was erased last, in Unix seconds; those who never were are not there."""
    found: dict[str, float] = {}
    for some in batches(users):
        last = select(Erasure.user_hash, func.max(Erasure.created)).where(Erasure.user_hash.in_(some))
        for user_hash, created in connection.execute(last.group_by(Erasure.user_hash)):
            if user_hash is not None:
                found[user_hash] = created.timestamp()
    return found
