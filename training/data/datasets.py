"""The data of a training run: rows of the store, of a snapshot or of a file -> examples, each in one split.

Owns the dataset's id, the snapshot that the store keeps of it, and what is too little to train on. Where candidates
come from is in `stored_data.py` and `file_data.py`, which of them are taken in `selection.py`. Imports no torch: what
is wrong with the data is said before any weights are loaded. Invariant: the same rows and settings give the same
examples in the same order under the same id, in every process.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from honed.server.store.database import StoreConflictError, reading, writing
from honed.server.store.exchange.exporting import hold_still
from honed.server.store.exchange.records import Record, shown
from honed.server.store.snapshots import Part, StoredSnapshot, load_parts, load_snapshot, write_snapshot
from honed.training.configs import STAGES, DataConfig, Stage
from honed.training.data.cards import Card, Source, describe
from honed.training.data.file_data import offer_file, sha256_of
from honed.training.data.offers import KIND_NAMES, READS, Candidate, DataError, Offer
from honed.training.data.selection import Chosen, choose, choose_given, said
from honed.training.data.splits import Split
from honed.training.data.stored_data import offer_parts, offer_store

__all__ = ["Card", "DataError", "Dataset", "Example", "Split", "as_made", "load_dataset"]

ConfigT = TypeVar("ConfigT", bound=DataConfig)

STORE: Final = "store"
ATTEMPTS: Final = 3  # to choose rows that are still there when they are written down

_SNAPSHOT_ID: Final = re.compile(r"data-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Example:
    """One record to learn from or to measure on. `completion_id` and `feedback_id`: the rows of the store that name it
    (a ranking is made of more, which its snapshot has); None for files. `user`: hashed, who asked."""

    record: Record
    split: Split
    completion_id: str | None
    feedback_id: str | None
    user: str | None
    labeler: str | None
    category: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """`id`: `data-` and 12 hexadecimal digits of a hash over the stage, the examples and their splits, and the rows of
    the store that they are made of: the same texts of other people are another dataset, or an erasure would not find
    them. What was read of a snapshot has the snapshot's."""

    id: str
    stage: Stage
    examples: tuple[Example, ...]
    card: Card

    def of(self, split: Split) -> list[Example]:
        """The examples of a split, in their order."""
        return [example for example in self.examples if example.split == split]

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot that the store has of it; None for a file's."""
        return None if self.card.source.kind == "file" else self.id


def load_dataset(config: DataConfig, stage: Stage, engine: Engine | None, *, keep: bool = True) -> Dataset:
    """The data that `config.data` names. From the store, a snapshot of it is stored first, if it is to be kept.

    `engine`: of a store whose tables are there; None where only a file is read. Raises DataError where the data are not
    there, are wrong or too few, and StoreError where the store fails.
    """
    _check_sizes(config)
    _check_judge(config, stage)
    _check_validation_data(config)
    if config.data == STORE:
        return _from_store(config, stage, _required(engine, "`data` is `store`"), keep=keep)
    if _SNAPSHOT_ID.fullmatch(config.data):
        return _from_snapshot(config, stage, _required(engine, f"{config.data} is a snapshot"))
    return _from_file(config, stage, Path(config.data))


def as_made(config: ConfigT, made: Mapping[str, Any]) -> ConfigT:
    """`config` with the settings of the data that a snapshot was `made` with, as JSON has them. Raises DataError where
    others were asked for: what a snapshot holds out is decided. A default is asked by nobody."""
    names = [name for name in DataConfig.model_fields if name != "data" and name in made]
    stored = DataConfig.model_validate({name: made[name] for name in names})
    asked = [name for name in names if name in config.model_fields_set and getattr(config, name) != _default(name)]
    if differ := [name for name in asked if getattr(config, name) != getattr(stored, name)]:
        options = ", ".join(f"--{name.replace('_', '-')} ({made[name]})" for name in differ)
        raise DataError(
            f"The snapshot {config.data} was made with other settings: leave out {options}, or give `store`."
        )
    return config.model_copy(update={name: getattr(stored, name) for name in names})


def _default(name: str) -> Any:
    return DataConfig.model_fields[name].default


def _from_file(config: DataConfig, stage: Stage, path: Path) -> Dataset:
    source = Source(kind="file", name=path.name, sha256=sha256_of(path))
    offer = offer_file(path, stage)
    given = config.validation_data
    chosen = choose(offer, config, stage) if given is None else _measured_on(Path(given), offer, config, stage)
    _check_splits(chosen, stage, _settings(config), offer.left_out, shown(str(path), 300))
    return _dataset(_id(stage, chosen), stage, chosen, offer, source=source, settings=_settings(config))


def _measured_on(path: Path, offer: Offer, config: DataConfig, stage: Stage) -> Chosen:
    """What `offer` has to be trained on, and that file to be measured on."""
    named = shown(str(path), 300)
    if not path.is_file():
        raise DataError(f"{named} is no file that can be read: `validation_data` is a file.")
    held_out = offer_file(path, stage)
    chosen = choose_given(offer, held_out, config, stage)
    offer.left_out.update(held_out.left_out)
    offer.redactions.update(held_out.redactions)
    if not any(split == "validation" for _, split in chosen):
        raise DataError(
            f"There is nothing to measure on: {named} has no {KIND_NAMES[READS[stage]]} of a prompt that is not "
            "trained on: give others as `validation_data`, or none."
        )
    return chosen


def _from_store(config: DataConfig, stage: Stage, engine: Engine, *, keep: bool) -> Dataset:
    for _ in range(ATTEMPTS):
        with reading(engine) as connection:
            hold_still(connection)
            offer = offer_store(connection, stage, config.max_per_user)
        chosen = choose(offer, config, stage)
        _check_splits(chosen, stage, _settings(config), offer.left_out, "the store")
        source = Source(kind="store", name=STORE)
        if not keep:
            return _dataset(_id(stage, chosen), stage, chosen, offer, source=source, settings=_settings(config))
        settings = {**_settings(config), "examples": len(chosen)}
        parts = [Part(*part, split) for candidate, split in chosen for part in candidate.parts]
        try:
            with writing(engine) as connection:
                stored = write_snapshot(connection, _id(stage, chosen), stage, settings, parts)
        except (IntegrityError, StoreConflictError):  # something was erased since it was read
            continue
        return _dataset(
            stored.id, stage, chosen, offer, source=source, settings=_settings(config), created=stored.created
        )
    raise DataError("The store is being erased from: wait until that is done, and start again.")


def _from_snapshot(config: DataConfig, stage: Stage, engine: Engine) -> Dataset:
    snapshot_id = config.data
    with reading(engine) as connection:
        hold_still(connection)
        stored = load_snapshot(connection, snapshot_id)
        if stored is None:
            raise DataError(f"The store has no snapshot {snapshot_id}: give `store` to make one, or its file.")
        _check_stage(stored, stage)
        as_made(config, stored.settings)
        parts = load_parts(connection, snapshot_id)
        offer = offer_parts(connection, stage, parts)
    splits = {(part.completion_id, part.feedback_id): part.split for part in parts}
    chosen: Chosen = [(each, cast(Split, splits[each.parts[0]])) for each in offer.candidates]
    settings = dict(stored.settings)
    gone = settings.pop("examples") - len(chosen) - offer.left_out.total()
    _check_splits(chosen, stage, settings, offer.left_out, f"what is left of {snapshot_id}")
    return _dataset(
        snapshot_id,
        stage,
        chosen,
        offer,
        source=Source(kind="snapshot", name=snapshot_id),
        settings=settings,
        created=stored.created,
        gone=gone,
    )


def _dataset(
    dataset_id: str,
    stage: Stage,
    chosen: Chosen,
    offer: Offer,
    *,
    source: Source,
    settings: Mapping[str, Any],
    created: datetime | None = None,
    gone: int = 0,
) -> Dataset:
    card = Card(
        id=dataset_id,
        stage=stage,
        source=source,
        created=created,
        settings=settings,
        redactions=dict(sorted(offer.redactions.items())),
        left_out=dict(sorted(offer.left_out.items())),
        gone=gone,
        **describe(chosen),
    )
    return Dataset(dataset_id, stage, tuple(_example(candidate, split) for candidate, split in chosen), card)


def _example(candidate: Candidate, split: Split) -> Example:
    completion_id, feedback_id = candidate.parts[0] if candidate.parts else (None, None)
    return Example(
        record=candidate.record,
        split=split,
        completion_id=completion_id,
        feedback_id=feedback_id,
        user=candidate.user,
        labeler=candidate.labeler,
        category=candidate.category,
    )


def _id(stage: Stage, chosen: Chosen) -> str:
    digest = sha256(stage.encode())
    for candidate, split in chosen:
        digest.update(b"\n" + json.dumps([split, said(candidate.record), candidate.parts]).encode())
    return f"data-{digest.hexdigest()[:12]}"


def _settings(config: DataConfig) -> dict[str, Any]:
    """The settings of the data among those of a run, as JSON has them."""
    return config.model_dump(mode="json", include=set(DataConfig.model_fields))


def _required(engine: Engine | None, why: str) -> Engine:
    if engine is None:
        raise DataError(f"{why}, but no store is open: name a store, or give a file as `data`.")
    return engine


def _check_sizes(config: DataConfig) -> None:
    for name, size in (("validation", config.validation), ("test", config.test)):
        if size >= 1 and size != int(size):
            raise DataError(f"{name} is {size}: give a share below 1, or a whole number of prompts.")


def _check_judge(config: DataConfig, stage: Stage) -> None:
    """What a snapshot's rows are for was said when it was made."""
    if config.judge and stage != "reward":
        raise DataError(f"judge is for reward models: what {stage} makes is judged by one. Leave it out.")
    if config.judge and not config.test and not _SNAPSHOT_ID.fullmatch(config.data):
        raise DataError(
            "judge: a judge learns from the test prompts, and test is 0: give the test of the runs that are judged."
        )


def _check_validation_data(config: DataConfig) -> None:
    """A snapshot is all of what a run has read of a store."""
    if config.validation_data is not None and (config.data == STORE or _SNAPSHOT_ID.fullmatch(config.data)):
        raise DataError("validation_data goes with a file as `data`: of the store, a share is held out (`validation`).")


def _check_stage(stored: StoredSnapshot, stage: Stage) -> None:
    if not any(stored.what == each and READS[each] == READS[stage] for each in STAGES):
        raise DataError(
            f"The snapshot {stored.id} was made for {stored.what}, but {stage} reads {KIND_NAMES[READS[stage]]}: "
            f"give {stage} `store`, or another snapshot."
        )


def _check_splits(
    chosen: Chosen,
    stage: Stage,
    settings: Mapping[str, Any],
    left_out: Mapping[str, int],
    where: str,
) -> None:
    """Raises DataError where nothing is left to train on, or nothing to measure on though that was asked for. No run
    reads the test split, so there need be none."""
    counts = Counter(split for _, split in chosen)
    kind = KIND_NAMES[READS[stage]]
    if not counts["train"]:
        why = f" Left out: {', '.join(f'{count} {reason}' for reason, count in left_out.items())}." if left_out else ""
        if counts:
            advice = f" All {counts.total()} that may be used are held out: lower validation and test."
        else:
            advice = f" Collect or import {kind}, or give another `data`."
        raise DataError(f"There is nothing to train on: {where} has no {kind} for {stage}.{why}{advice}")
    if settings["validation"] and not counts["validation"]:
        prompts = len({candidate.prefix for candidate, _ in chosen})
        raise DataError(
            f"validation is {settings['validation']:g}, but none of the {prompts} prompts in {where} fell to it: "
            "give another share or number, 0 for none, or other data."
        )
