"""`honed migrate`, `honed consent` and `honed erase`: the operator's hand in the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from honed.cli.failure import fail

if TYPE_CHECKING:
    from sqlalchemy import Engine

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", envvar="HONED_DATABASE_URL", help="The store; unset, SQLite in HONED_HOME."),
]


@contextmanager
def opened(database_url: str | None, *, prepared: bool = True) -> Iterator[Engine]:
    """The store that the server uses too; whatever is wrong with it ends the command with a line that says so."""
    from honed.models.sources import honed_home
    from honed.server.store.database import StoreError, open_database
    from honed.server.store.database import database_url as url_of
    from honed.server.store.migrations import prepare

    try:
        engine = open_database(url_of(database_url, honed_home()))
        try:
            if prepared:
                prepare(engine)
            yield engine
        finally:
            engine.dispose()
    except StoreError as error:
        raise fail(str(error)) from None


def migrate(database_url: DatabaseUrl = None) -> None:
    """Bring the store's tables up to date. A server does that by itself on SQLite, never on PostgreSQL."""
    from honed.server.store.migrations import migrate as run

    with opened(database_url, prepared=False) as engine:
        run(engine)
    print("The store's tables are up to date.")


def consent(
    user: Annotated[str, typer.Option(help="The end user, as clients send it in `user`.")],
    training: Annotated[bool, typer.Option("--allow-training/--deny-training", help="What the user said.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Note whether models may be trained on what a user asks. A denial holds for what is stored too."""
    from honed.server.store.database import writing
    from honed.server.store.users import hash_user, load_salt, set_consent

    with opened(database_url) as engine:
        user_hash = hash_user(load_salt(engine), user)
        with writing(engine) as connection:
            count = set_consent(connection, user_hash, trainable=training)
    print(f"Noted. {count} stored completions were taken out of training.")


def erase(
    user: Annotated[str, typer.Option(help="The end user, as clients send it in `user`.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Erase all that a user asked, was answered and said, and name the checkpoints that were trained on it."""
    from honed.server.store.cleaning import clean_files
    from honed.server.store.erasure import erase_user
    from honed.server.store.users import hash_user, load_salt

    with opened(database_url) as engine:
        erased = erase_user(engine, hash_user(load_salt(engine), user), labeler=user)
        is_clean = clean_files(engine)
    print(f"Erased: {erased.completions} completions, {erased.feedback} pieces of feedback.")
    if not is_clean:
        print("The database's files still hold it, since somebody reads an older state: a running server cleans them.")
    for checkpoint in erased.checkpoints:
        print(f"Trained on them, and still there: {checkpoint}")
