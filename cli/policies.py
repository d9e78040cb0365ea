"""`honed promote`, `honed rollback` and `honed lineage`: what is in service, and what it was made of.

They act on the store, with a server or without one: all servers of the store follow within seconds. Owns how things are
said and drawn; what holds is `server/store/promotions.py`'s, and what was made of what `server/ancestry.py`'s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from honed.cli.failure import fail
from honed.cli.store import DatabaseUrl, opened

if TYPE_CHECKING:
    from pathlib import Path

    from rich.tree import Tree
    from sqlalchemy import Connection

    from honed.server.ancestry import Ancestry, Data
    from honed.server.store.promotions import StoredPromotion
    from honed.server.store.snapshots import Contents, StoredCheckpoint

_SHOWN_METRICS: Final = 4
_SHOWN_NAMES: Final = 5
_WIDE: Final = 10_000  # of what is no terminal, whose lines are whole


def promote(
    name: Annotated[str, typer.Argument(help="A checkpoint that SFT, PPO, DPO or KTO made.")],
    shadow: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Not yet: it answers so many per cent of the users too, unseen by them."),
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Put a policy into service, or into the shadow of the one that is. Servers load it and change over within seconds;
    no answer is cut."""
    from honed.models.sources import honed_home
    from honed.server.store import promotions
    from honed.server.store.database import writing
    from honed.server.store.promotions import InServiceError

    with opened(database_url) as engine, writing(engine) as connection:
        policy = _policy(connection, honed_home() / "models", name)
        before = promotions.newest(connection)
        try:
            after = _put(connection, policy.id, shadow)
        except InServiceError:
            raise fail(f"{name} is in service: there is nothing to compare it with.") from None
    if shadow is not None:
        print(f"{name} answers {shadow} % of the users too, unseen. Servers of this store follow within seconds.")
    elif after.number == before.number:
        print(f"{name} is in service already.")
    else:
        print(f"{name} is in service now. Servers of this store follow within seconds.")


def rollback(database_url: DatabaseUrl = None) -> None:
    """Take a candidate out; without one, put the policy back into service that was before. Again, and it is the one
    before that."""
    from honed.models.sources import honed_home
    from honed.server.registry import lies_in
    from honed.server.store import promotions, snapshots
    from honed.server.store.database import writing
    from honed.server.store.promotions import NothingBeforeError, PromotedMeanwhileError

    with opened(database_url) as engine, writing(engine) as connection:
        before = promotions.newest(connection)
        try:
            back = promotions.roll_back(connection, before, key_id=None)
        except NothingBeforeError:
            raise fail("no other policy was in service before: there is nothing to go back to.") from None
        except PromotedMeanwhileError:
            raise fail("another promotion came between: look at what is in service before you try again.") from None
        policy = None if back.policy_id is None else snapshots.checkpoint_with_id(connection, back.policy_id)
    models = honed_home() / "models"
    if policy is not None and before.candidate_id is None and not lies_in(models, policy):
        typer.echo(f"honed: {_missing(models, policy)}; servers that lack it too go on with what they have.", err=True)
    shown = "What the settings of each server name (HONED_MODEL)" if policy is None else policy.name
    print(f"{shown} is in service now. Servers of this store follow within seconds.")


def lineage(
    name: Annotated[str, typer.Argument(help="A checkpoint's name.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a tree.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Show what a checkpoint was made of: its data, its reward model, and the checkpoints before it."""
    from rich.console import Console

    from honed.models.sources import honed_home
    from honed.server.ancestry import ancestry, known_names
    from honed.server.store.database import reading

    with opened(database_url) as engine, reading(engine) as connection:
        found = ancestry(connection, honed_home(), name)
        if found is None:
            raise fail(f"there is no checkpoint {name}{_near(name, known_names(connection, honed_home()))}.")
    if as_json:
        print(json.dumps(asdict(found), default=_written))
    else:
        Console(width=None if sys.stdout.isatty() else _WIDE).print(_tree(found))


def _put(connection: Connection, policy_id: str, shadow: int | None) -> StoredPromotion:
    """Raises InServiceError."""
    from honed.server.store import promotions

    if shadow is None:
        return promotions.promote(connection, policy_id, key_id=None)
    return promotions.try_out(connection, policy_id, share=shadow, advances=False, is_shadow=True, key_id=None)


def _policy(connection: Connection, models: Path, name: str) -> StoredCheckpoint:
    """The checkpoint that lies in the folder of that name. Raises typer.Exit."""
    from honed.server.registry import STAGES, lies_in
    from honed.server.store.snapshots import list_checkpoints, stage_of

    policies = list_checkpoints(connection, STAGES)
    named = [each for each in policies if each.name == name]
    present = [each for each in named if lies_in(models, each)]
    if present:
        return present[0]
    if named:
        raise fail(f"{_missing(models, named[0])}: no server could load it.")
    if (stage := stage_of(connection, name)) is not None:
        raise fail(f"{name} is of the stage {stage}, and no policy.")
    usable = {each.name for each in policies if lies_in(models, each)}
    raise fail(f"the store has no policy {name}{_near(name, usable)}.")


def _missing(models: Path, policy: StoredCheckpoint) -> str:
    return f"{policy.name} ({policy.id}) is not in {models}"


def _near(name: str, names: Iterable[str]) -> str:
    """What may have been meant; else some of what there is."""
    known = sorted(names)
    near = get_close_matches(name, known, n=_SHOWN_NAMES, cutoff=0.5) or known[:_SHOWN_NAMES]
    return f": there is {', '.join(near)}" if near else ""


def _written(value: Any) -> str:
    assert isinstance(value, datetime), value
    return value.isoformat()


def _tree(found: Ancestry) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    from honed.clients.endpoint import printable

    def grow(tree: Tree, found: Ancestry) -> Tree:
        for line in _lines(found):
            tree.add(Text(printable(line)))
        if found.reward_model is not None:
            grow(tree.add(Text(printable(f"reward model: {_title(found.reward_model)}"))), found.reward_model)
        if found.parent is not None:
            grow(tree.add(Text(printable(f"trained from: {_title(found.parent)}"))), found.parent)
        return tree

    return grow(Tree(Text(printable(_title(found)), style="bold")), found)


def _title(found: Ancestry) -> str:
    if found.id is None or found.created is None:
        return found.name
    title = f"{found.name} ({found.stage}, {found.created:%Y-%m-%d %H:%M}, {found.id})"
    return title if found.has_folder else f"{title}, its folder is deleted"


def _lines(found: Ancestry) -> Iterator[str]:
    if numbers := _main(found.metrics or {}):
        yield ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    if found.data is not None:
        yield _data_line(found.data)


def _main(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of held-out data where there is such."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    held_out = {name: value for name, value in numbers.items() if name.startswith("validation/")}
    return dict(list((held_out or numbers).items())[:_SHOWN_METRICS])


def _data_line(data: Data) -> str:
    if data.snapshot is None:
        return f"data: the file {data.file}"
    if data.contents is None:
        return f"data: {data.snapshot}, which is not in this store"
    return f"data: {data.snapshot}: {_counted(data.contents)}"


def _counted(contents: Contents) -> str:
    feedback = ", ".join(f"{count} {kind}" for kind, count in contents.feedback.items()) or "none"
    rows = f"{contents.rows} rows, {contents.erased} of them erased"
    return f"{rows}; {contents.completions} completions, feedback: {feedback}; {contents.users} users"
