"""Which policies there are: the one that the settings name, and the checkpoints of the store whose folders are here.

Says what a name means, and nothing of what is loaded (`engines.py`). The store is asked for its checkpoints when
somebody wants a list, or a policy that is not loaded; in between, and while the store is away, what it said last holds.
Invariants: the settings' own name always means their own policy; of two checkpoints that were written to the same
folder one after the other, the name means the one that lies there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from honed.models.checkpoint import Lineage, checkpoint_id, checkpoint_name, read_lineage
from honed.models.sources import honed_home, hub_name, pull
from honed.server.loading import Loaded
from honed.server.settings import Settings
from honed.server.storage import Storage
from honed.server.store.database import reading
from honed.server.store.snapshots import StoredCheckpoint, list_checkpoints

STAGES: Final = ("sft", "ppo", "dpo", "kto")  # what they make is a policy


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPolicy:
    """A policy that can be asked for. `is_registered`: the store has its checkpoint, so that all its servers know it by
    its id."""

    id: str
    name: str
    stage: str
    created: datetime
    folder: Path
    is_registered: bool


class Registry:
    def __init__(self, storage: Storage) -> None:
        self.own: KnownPolicy | None = None  # None until it is known what the settings' model is called
        self._storage = storage
        self._registered: list[KnownPolicy] = []  # the newest first
        self._reading = asyncio.Lock()
        self._read_s = 0.0  # when the last reading began

    @property
    def all(self) -> list[KnownPolicy]:
        """The settings' own first, then the newest; no name twice."""
        known = {self.own.name: self.own} if self.own else {}
        for each in self._registered:
            known.setdefault(each.name, each)
        return list(known.values())

    def named(self, name: str) -> KnownPolicy | None:
        return next((known for known in self.all if known.name == name), None)

    def with_id(self, policy_id: str | None) -> KnownPolicy | None:
        """`policy_id`: None for the settings' own."""
        if policy_id is None or (self.own and self.own.id == policy_id):
            return self.own
        return next((known for known in self._registered if known.id == policy_id), None)

    async def refresh(self) -> None:
        """Asks the store; together with whoever asks at the same time. Raises StoreUnavailable."""
        asked_s = time.monotonic()
        async with self._reading:
            if self._read_s > asked_s:
                return
            began_s = time.monotonic()
            rows, self._registered = await self._storage.run(_read, self._storage)
            self._read_s = began_s
        if self.own is not None:
            self.own = replace(self.own, is_registered=any(row.id == self.own.id for row in rows))


def known_by(loaded: Loaded) -> KnownPolicy:
    """The settings' own policy, which was just loaded."""
    return _own(loaded.policy.id, loaded.policy.name, loaded.folder, loaded.lineage)


def find_own(settings: Settings) -> KnownPolicy:
    """The same where another policy is in service. Blocking. Raises SourceError."""
    folder = pull(settings.model, settings.home or honed_home())
    name = hub_name(settings.model) or checkpoint_name(folder)
    return _own(checkpoint_id(folder), name, folder, read_lineage(folder))


def _own(policy_id: str, name: str, folder: Path, lineage: Lineage | None) -> KnownPolicy:
    return KnownPolicy(
        id=policy_id,
        name=name,
        stage=lineage.stage if lineage else "source",
        created=lineage.created if lineage else datetime.now(UTC),
        folder=folder,
        is_registered=False,
    )


def _read(storage: Storage) -> tuple[list[StoredCheckpoint], list[KnownPolicy]]:
    with reading(storage.engine) as connection:
        rows = list_checkpoints(connection, STAGES)
    models = storage.home / "models"
    present = [row for row in rows if lies_in(models, row)]
    return rows, [
        KnownPolicy(
            id=row.id,
            name=row.name,
            stage=row.stage,
            created=row.created,
            folder=models / row.name,
            is_registered=True,
        )
        for row in present
    ]


def lies_in(models: Path, row: StoredCheckpoint) -> bool:
    """Whether that checkpoint is in the folder of its name, and not another or none."""
    if row.name.startswith(".") or Path(row.name).name != row.name:
        return False
    try:
        lineage = read_lineage(models / row.name)
    except (OSError, ValueError):
        return False  # unreadable: of nobody knows which checkpoint
    return lineage is not None and lineage.id == row.id
