"""A run from its settings to the point where weights are loaded: its name, its folders, its data and what it takes.

Owns which runs may begin or go on. Writes nothing but the snapshot of the data. Invariant: everything that can be
refused is refused here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from honed.models.checkpoint import Lineage, checkpoint_id, read_lineage
from honed.server.store.database import reading
from honed.server.store.snapshots import load_snapshot
from honed.training.configs import CONFIGS, DataConfig, PPOConfig, RunConfig, Stage
from honed.training.data.datasets import Dataset, as_made, load_dataset
from honed.training.failures import TrainingError
from honed.training.planning.outlook import look_ahead
from honed.training.planning.preflight import (
    output_name,
    require_output,
    require_reward_model,
)
from honed.training.planning.resumption import require_same_settings
from honed.training.reports.findings import RUN_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is known before a weight is loaded."""

    name: str
    stage: Stage
    config: RunConfig
    dataset: Dataset
    since: datetime  # when it was read
    erased: int  # rows of its snapshot that were gone then
    parent: Path
    reward_model: Path | None
    ancestors: tuple[str, ...]  # the ids of both
    checkpoint: Path
    run_folder: Path
    max_tokens: int  # that the settings and the model's context leave
    steps: int
    parameters: int
    notes: tuple[str, ...]


def prepare(config: RunConfig, home: Path, engine: Engine | None) -> Prepared:
    """Raises TrainingError, SourceError, PolicyError and StoreError."""
    require_reward_model(config)
    stage = stage_of_config(config)
    name = output_name(config, stage)
    checkpoint, run_folder = home / "models" / name, home / "runs" / name
    require_place(config, home)
    started = read_started(run_folder) if config.resume else None
    if started is None:
        since, dataset, erased = datetime.now(UTC), load_dataset(config, stage, engine), 0
        if dataset.card.source.kind == "snapshot":
            config = as_made(config, dataset.card.settings)
        if engine is not None:
            with reading(engine) as connection:
                erased = erased_of(connection, dataset.snapshot_id)
    else:
        config = as_started(name, config, started)
        since, erased = datetime.fromisoformat(started["started"]), 0  # it may have been trained on what is gone now
        dataset = load_dataset(_data_of(config, started), stage, engine)
        if dataset.id != started["dataset"]["id"]:
            raise TrainingError(
                f"The data of the run {name} are no longer what they were: begin another with --output."
            )
    seen = look_ahead(stage, config, dataset, home)
    return Prepared(
        name=name,
        stage=stage,
        config=config,
        dataset=dataset,
        since=since,
        erased=erased,
        parent=seen.policy,
        reward_model=seen.reward_model,
        ancestors=tuple(checkpoint_id(each) for each in (seen.policy, seen.reward_model) if each is not None),
        checkpoint=checkpoint,
        run_folder=run_folder,
        max_tokens=seen.limit.tokens,
        steps=config.iterations if isinstance(config, PPOConfig) else seen.work.steps,  # what the run counts
        parameters=seen.shape.parameters,
        notes=seen.notes,
    )


def require_place(config: RunConfig, home: Path) -> None:
    """Raises TrainingError unless a run of these settings may begin, or go on."""
    name = output_name(config, stage_of_config(config))
    has_run = (home / "runs" / name / RUN_FILE).is_file()
    require_output(name, has_checkpoint=(home / "models" / name).exists(), has_run=has_run, resume=config.resume)


def require_made_by(folder: Path, stage: Stage, config: RunConfig, *, parent: str) -> Lineage:
    """The lineage of a checkpoint that a resumed run finds in its place. Raises TrainingError unless these settings
    made it, of the checkpoint with the id `parent`."""
    lineage = lineage_of(folder)
    if lineage is None or (lineage.name, lineage.stage, lineage.parent) != (folder.name, stage, parent):
        raise TrainingError(
            f"There is a checkpoint {folder.name} already, which another run made: name another with --output."
        )
    require_same_settings(folder.name, lineage.settings, config, is_learned=True)
    return lineage


def lineage_of(folder: Path) -> Lineage | None:
    """None where there is none. Raises TrainingError where it is damaged."""
    try:
        return read_lineage(folder)
    except ValueError as error:
        raise TrainingError(f"{folder.name} is damaged: remove it, or name another with --output. ({error})") from error


def read_started(run_folder: Path) -> dict[str, Any]:
    """run.json of a run that began. Raises TrainingError where it cannot be read."""
    try:
        started: dict[str, Any] = json.loads((run_folder / RUN_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{run_folder / RUN_FILE} is damaged: begin another run with --output.") from error
    return started


def stage_of_config(config: RunConfig) -> Stage:
    return next(stage for stage, model in CONFIGS.items() if type(config) is model)


def erased_of(connection: Connection, snapshot_id: str | None) -> int:
    """How many rows of the snapshot were erased since it was made; 0 for a file's data."""
    snapshot = load_snapshot(connection, snapshot_id) if snapshot_id else None
    return snapshot.erased if snapshot else 0


def as_started(name: str, config: RunConfig, started: dict[str, Any], *, is_learned: bool = False) -> RunConfig:
    """What is gone on with. Raises TrainingError for other settings than it was started with."""
    if started["dataset"]["source"]["kind"] == "snapshot" and config.data == started["settings"]["data"]:
        config = as_made(config, started["dataset"]["settings"])
    require_same_settings(name, started["settings"], config, is_learned=is_learned)
    return config


def _data_of(config: RunConfig, started: dict[str, Any]) -> DataConfig:
    """The store has grown since: what was read of it then is in a snapshot."""
    if started["dataset"]["source"]["kind"] == "file":
        return config
    return DataConfig.model_validate({"data": started["dataset"]["id"]})
