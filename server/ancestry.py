"""What a checkpoint was made of: data, a reward model, and the checkpoint before it, down to a model from elsewhere.

Told by the store's rows, and by lineage.json in a checkpoint's folder where the store has none. Reads, and judges
nothing. Invariant: it comes to an end: what is looked up by a name is older than what was made of it, and an id that
was met before is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from honed.models.checkpoint import read_lineage
from honed.server.registry import lies_in
from honed.server.store.snapshots import (
    CheckpointRecord,
    Contents,
    checkpoint_named,
    checkpoint_names,
    checkpoint_with_id,
    load_contents,
)

_STORE = "store"
_SNAPSHOT = "data-"  # how a snapshot's id begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Either a snapshot of the store, whose `contents` are None where it is of another store, or a file."""

    snapshot: str | None
    contents: Contents | None
    file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """`id` and what follows it are None of a model that is known by its name alone. `has_folder`: whether it is in
    HONED_HOME. `data`: None of what was not trained here."""

    name: str
    id: str | None = None
    stage: str | None = None
    created: datetime | None = None
    has_folder: bool | None = None
    metrics: Mapping[str, Any] | None = None
    data: Data | None = None
    reward_model: Ancestry | None = None
    parent: Ancestry | None = None


def ancestry(connection: Connection, home: Path, name: str) -> Ancestry | None:
    """Of the checkpoint in the folder of that name, else the newest that the store has; None where there is none."""
    models = home / "models"
    lies = _in_folder(models, name)
    row = checkpoint_named(connection, name) if lies is None else checkpoint_with_id(connection, lies.id)
    found = row or lies
    return None if found is None else _Walk(connection, models).of(found, frozenset())


def known_names(connection: Connection, home: Path) -> list[str]:
    """What has an ancestry."""
    folders = (path.name for path in (home / "models").glob("*") if _in_folder(home / "models", path.name))
    return sorted({*checkpoint_names(connection), *folders})


@dataclass(frozen=True, slots=True)
class _Walk:
    connection: Connection
    models: Path

    def of(self, record: CheckpointRecord, met: frozenset[str]) -> Ancestry:
        met |= {record.id}
        return Ancestry(
            name=record.name,
            id=record.id,
            stage=record.stage,
            created=record.created,
            has_folder=lies_in(self.models, record),
            metrics=record.metrics,
            data=self._data(record),
            reward_model=self._reward_model(record, met),
            parent=self._parent(record, met),
        )

    def _data(self, record: CheckpointRecord) -> Data | None:
        if record.snapshot_id is not None:
            contents = load_contents(self.connection, record.snapshot_id)
            return Data(snapshot=record.snapshot_id, contents=contents, file=None)
        data = record.settings.get("data")
        return None if data is None else Data(snapshot=None, contents=None, file=_file_name(Path(data)))

    def _parent(self, record: CheckpointRecord, met: frozenset[str]) -> Ancestry | None:
        model = record.settings.get("model")
        if record.parent_id is not None and record.parent_id not in met:
            row = checkpoint_with_id(self.connection, record.parent_id)
            lies = _in_folder(self.models, Path(model).name) if row is None and model is not None else None
            if row is not None:
                return self.of(row, met)
            if lies is not None and lies.id == record.parent_id:
                return self.of(lies, met)
        return None if model is None else Ancestry(name=_model_name(model))

    def _reward_model(self, record: CheckpointRecord, met: frozenset[str]) -> Ancestry | None:
        """The store keeps its name alone: the newest of that name when the run was over."""
        model = record.settings.get("reward_model")
        if model is None:
            return None
        name = Path(model).name
        row = checkpoint_named(self.connection, name, before=record.created)
        lies = _in_folder(self.models, name)
        if lies is not None and (lies.created >= record.created or row is not None):
            lies = None
        found = row or lies
        return Ancestry(name=name) if found is None or found.id in met else self.of(found, met)


def _in_folder(models: Path, name: str) -> CheckpointRecord | None:
    """What lineage.json says; None where there is none that can be read."""
    if name.startswith(".") or Path(name).name != name:
        return None
    try:
        lineage = read_lineage(models / name)
    except (OSError, ValueError):
        return None
    if lineage is None:
        return None
    data = str(lineage.settings.get("data", ""))
    return CheckpointRecord(
        id=lineage.id,
        created=lineage.created,
        name=lineage.name,
        stage=lineage.stage,
        parent_id=lineage.parent,
        snapshot_id=lineage.dataset if data == _STORE or data.startswith(_SNAPSHOT) else None,
        settings=lineage.settings,
        metrics=lineage.metrics,
    )


def _file_name(path: Path) -> str:
    """With the job that it was uploaded for, where it was: all of those have one name."""
    return f"{path.name} of {path.parent.name}" if path.parent.parent.name == "jobs" else path.name


def _model_name(model: str) -> str:
    """As it is known elsewhere; a folder's own name."""
    return Path(model).name if Path(model).is_absolute() else model
