"""End users, by the hash of what clients send as `user`: the salt, and their word on training.

The salt is the store's own, so that all of its servers agree and two stores do not; who can read the store can still
guess a name from a list of names (the hash is a pseudonym). Invariant: a user who denied training has no trainable
completion, neither old nor new.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, select, text, update

from honed.server.store.database import is_sqlite, writing
from honed.server.store.messages import batches
from honed.server.store.tables import Completion, Setting, User
from honed.server.store.upserts import insert_missing, insert_or_replace

_SALT = "user_salt"


def load_salt(engine: Engine) -> str:
    """The store's salt, made by whoever asks first."""
    with writing(engine) as connection:
        insert_missing(connection, Setting, [{"name": _SALT, "value": secrets.token_hex(16)}])
        return connection.execute(select(Setting.value).where(Setting.name == _SALT)).scalar_one()


def hash_user(salt: str, user: str) -> str:
    """32 hexadecimal digits: so many that no two users share them."""
    return hashlib.sha256(f"{salt}:{user}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def lock_users(connection: Connection, user_hashes: Iterable[str], *, alone: bool = False) -> None:
    """Until the transaction ends: completions of a user go in together, but not while the user is erased or changes
    consent (`alone`), which would not see what is not committed yet. On SQLite there is one writer anyway."""
    keys = sorted({int(user_hash[:15], 16) for user_hash in user_hashes})
    if keys and not is_sqlite(connection):
        lock = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        query = text(f"SELECT {lock}(key) FROM unnest(CAST(:keys AS bigint[])) AS key")  # noqa: S608 (one of two names)
        connection.execute(query, {"keys": keys})


def set_consent(connection: Connection, user_hash: str, *, trainable: bool) -> int:
    """Notes a user's word. A denial holds for what is stored too; the number of completions it changed. (An allowance
    does not: what a request or a key denied stays denied.)"""
    lock_users(connection, [user_hash], alone=True)
    row = {"user_hash": user_hash, "trainable": trainable, "changed": datetime.now(UTC)}
    insert_or_replace(connection, User, [row], key="user_hash")
    if trainable:
        return 0
    denied = update(Completion).where(Completion.user_hash == user_hash, Completion.trainable).values(trainable=False)
    return connection.execute(denied).rowcount


def denying(connection: Connection, user_hashes: Iterable[str]) -> set[str]:
    """Those of the users who denied training."""
    found: set[str] = set()
    for some in batches(set(user_hashes)):
        said_no = select(User.user_hash).where(User.user_hash.in_(some), User.trainable.is_(False))
        found.update(connection.execute(said_no).scalars())
    return found
