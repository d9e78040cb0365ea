"""Who takes part in an evaluation: two policies and the judge, by their folders, and what they were made of.

Owns the refusals that need no data: a judge that is none, or that the candidate was trained against. Loads no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from honed.models.checkpoint import LINEAGE_FILE, Lineage, checkpoint_id, checkpoint_name, read_lineage
from honed.models.sources import hub_name, pull
from honed.server.store.database import reading
from honed.server.store.snapshots import CheckpointRecord, checkpoint_named, checkpoint_with_id
from honed.training.evaluation.config import EvaluationConfig
from honed.training.failures import TrainingError
from honed.training.planning.preflight import require_judge, stage_of
from honed.training.planning.prepare import lineage_of


@dataclass(frozen=True, slots=True)
class Member:
    """A checkpoint. `made_of`: its own lineage and those of what it was trained from and against, as far as they are
    known. `lost`: the names of those that are not."""

    folder: Path
    name: str
    id: str
    made_of: tuple[Lineage, ...]
    lost: tuple[str, ...]

    def as_json(self) -> dict[str, str]:
        return {"name": self.name, "id": self.id}


@dataclass(frozen=True, slots=True)
class Party:
    """All folders are there, and each is what it has to be."""

    candidate: Member
    incumbent: Member
    judge: Member


def gather(config: EvaluationConfig, home: Path, engine: Engine | None) -> Party:
    """Raises TrainingError, SourceError for a model that is not there, and StoreError."""
    judge_folder = pull(config.judge_model, home)
    require_judge(judge_folder, option="--judge-model")
    known = _Known(home, engine)
    judge = _member(judge_folder, known)
    candidate = _policy(pull(config.candidate, home), known, option="--candidate")
    incumbent = _policy(pull(config.incumbent, home), known, option="--incumbent")
    for policy in (candidate, incumbent):
        if any(lineage.id == judge.id for lineage in policy.made_of):
            raise TrainingError(
                f"{policy.name} was trained against {judge.name}, which therefore cannot judge it: name another with "
                "--judge-model, from `honed train reward --judge`."
            )
    return Party(candidate, incumbent, judge)


def _policy(folder: Path, known: _Known, *, option: str) -> Member:
    if stage_of(folder) == "reward":
        raise TrainingError(f"{folder.name} is a reward model, which answers nothing: name a policy with {option}.")
    return _member(folder, known)


def _member(folder: Path, known: _Known) -> Member:
    own = lineage_of(folder)
    found: dict[str, Lineage] = {}
    lost: dict[str, None] = {}  # in their order
    waiting: list[Lineage | str] = [own] if own is not None else []
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            lost[each] = None
        elif each.id not in found:
            found[each.id] = each
            waiting += known.behind(each)
    return Member(folder, checkpoint_name(folder), checkpoint_id(folder), tuple(found.values()), tuple(lost))


class _Known:
    """The lineages of the checkpoints that are in HONED_HOME or in the store."""

    def __init__(self, home: Path, engine: Engine | None) -> None:
        self._models = home / "models"
        self._engine = engine
        folders = [path.parent for path in sorted(self._models.glob(f"*/{LINEAGE_FILE}"))]
        read = [_readable(folder) for folder in folders if not folder.name.startswith(".")]  # that is half written
        self._here = {lineage.id: lineage for lineage in read if lineage is not None}

    def behind(self, lineage: Lineage) -> Iterator[Lineage | str]:
        """What it was trained from and against; of what cannot be found, the name."""
        if lineage.parent is not None:
            given = str(lineage.settings.get("model", lineage.parent))
            if (parent := self._with_id(lineage.parent, given)) is not None:
                yield parent
            elif not self._is_from_elsewhere(lineage.parent, given):
                yield Path(given).name
        if (against := lineage.settings.get("reward_model")) is not None:
            yield self._reward_model(str(against), lineage.created) or Path(str(against)).name

    def _with_id(self, wanted: str, given: str) -> Lineage | None:
        """`given`: what the run was told that it is."""
        for lineage in (self._here.get(wanted), *map(_readable, self._folders(given))):
            if lineage is not None and lineage.id == wanted:
                return lineage
        if self._engine is None:
            return None
        with reading(self._engine) as connection:
            return _of_row(checkpoint_with_id(connection, wanted))

    def _is_from_elsewhere(self, wanted: str, given: str) -> bool:
        """A model that has no lineage: nothing here was there to train it on."""
        return hub_name(given) is not None or any(_id_of(folder) == wanted for folder in self._folders(given))

    def _reward_model(self, given: str, before: datetime) -> Lineage | None:
        """A lineage has its name alone. One that was made `before` the policy was: another may have its name since."""
        found = [_readable(folder) for folder in self._folders(given)]
        if self._engine is not None:
            with reading(self._engine) as connection:
                found.append(_of_row(checkpoint_named(connection, Path(given).name, before=before)))
        older = [each for each in found if each is not None and each.created < before]
        return max(older, key=lambda each: each.created, default=None)

    def _folders(self, given: str) -> tuple[Path, Path]:
        """Where a model may be, as `pull` looks for it."""
        return Path(given), self._models / Path(given).name


def _readable(folder: Path) -> Lineage | None:
    """None for a damaged one too: it may be nobody's here, and who needs it misses it by name."""
    try:
        return read_lineage(folder)
    except (OSError, ValueError):
        return None


def _id_of(folder: Path) -> str | None:
    try:
        return checkpoint_id(folder)
    except (OSError, ValueError):
        return None


def _of_row(row: CheckpointRecord | None) -> Lineage | None:
    if row is None:
        return None
    own = {name: getattr(row, name) for name in ("id", "name", "stage", "created", "settings", "metrics")}
    return Lineage(**own, parent=row.parent_id, dataset=row.snapshot_id, source="the store")
