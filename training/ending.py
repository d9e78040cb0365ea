"""How a run ends: run.json, the checkpoint and what the store is told of it, and what is dropped then.

Owns what is written down of a run, but for its numbers (`reports/`) and its states (`states.py`). Invariants: whatever
ends a run, run.json says so; its states stay until there is a checkpoint; a run that was cut off between its checkpoint
and its end is finished from what it wrote, and doing so twice changes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Engine

from honed.models.checkpoint import Lineage, checkpoint_id, drop_partial, new_checkpoint_id, save_checkpoint
from honed.server.store.database import writing
from honed.server.store.erasure import add_checkpoint, add_descendant
from honed.server.store.snapshots import register_checkpoint
from honed.training.configs import CONFIGS
from honed.training.distributed import Ranks
from honed.training.planning.prepare import Prepared, erased_of, read_started
from honed.training.reports.findings import RUN_FILE
from honed.training.reports.report import REPORT_FILE, write_report
from honed.training.run import Trained
from honed.training.states import TRAINER_FOLDER, drop_states


def keep(prepared: Prepared, trained: Trained, engine: Engine | None) -> None:
    """Writes the checkpoint, tells the store of it, and drops what the run would have gone on from."""
    lineage = Lineage(
        id=new_checkpoint_id(),
        name=prepared.name,
        stage=prepared.stage,
        parent=checkpoint_id(prepared.parent),
        source=str(prepared.dataset.card.source.name),
        dataset=prepared.dataset.id,
        created=datetime.now(UTC),
        settings=prepared.config.model_dump(mode="json"),
        metrics=trained.metrics,
    )
    _write_lines(prepared.run_folder / "samples.jsonl", trained.samples)
    if trained.evaluation:
        _write(prepared.run_folder / "evaluation.json", trained.evaluation)
    drop_partial(prepared.checkpoint)
    save_checkpoint(prepared.checkpoint, trained.model, trained.tokenizer, lineage, state_dict=trained.state)
    _tell(
        engine,
        lineage,
        prepared.checkpoint,
        snapshot_id=prepared.dataset.snapshot_id,
        ancestors=prepared.ancestors,
        since=prepared.since,
        erased=prepared.erased,
    )
    _drop_states(prepared.run_folder)


def is_finished(run_folder: Path) -> bool:
    """Whether nothing is left to do for a run that has a checkpoint."""
    return (run_folder / REPORT_FILE).is_file() and read_started(run_folder)["status"] in ("succeeded", "stopped")


def finish(run_folder: Path, checkpoint: Path, lineage: Lineage, engine: Engine | None) -> None:
    """What a run that was cut off after it had written its checkpoint had still to do."""
    facts = read_started(run_folder)
    _tell(
        engine,
        lineage,
        checkpoint,
        snapshot_id=None if facts["dataset"]["source"]["kind"] == "file" else lineage.dataset,
        ancestors=facts["ancestors"],
        since=datetime.fromisoformat(facts["started"]),
        erased=0,
    )
    _drop_states(run_folder)
    ended = _ended_well(lineage.name, facts["stopped"], lineage.metrics)
    _write(run_folder / RUN_FILE, facts | ended | {"finished": facts["finished"] or lineage.created.isoformat()})
    write_report(run_folder)


class Record:
    """run.json, which the first rank writes: what the run is, and how it ended."""

    def __init__(self, prepared: Prepared, ranks: Ranks) -> None:
        self._prepared = prepared
        self._writes = ranks.is_first
        self._path = prepared.run_folder / RUN_FILE
        model = CONFIGS[prepared.stage]
        self._facts: dict[str, Any] = {
            "name": prepared.name,
            "stage": prepared.stage,
            "parent": prepared.config.model,
            "ancestors": prepared.ancestors,
            "checkpoint": None,
            "started": datetime.now(UTC).isoformat(),
            "finished": None,
            "status": "running",
            "reason": None,
            "stopped": None,
            "settings": prepared.config.model_dump(mode="json"),
            "defaults": model.model_validate({}).model_dump(mode="json"),
            "dataset": prepared.dataset.card.model_dump(mode="json"),
            "parameters": prepared.parameters,
            "hardware": _hardware(ranks),
            "summary": {},
        }

    def begin(self) -> None:
        if self._writes:
            if self._prepared.config.resume:
                self._facts["started"] = read_started(self._path.parent)["started"]
            self._write()

    def learned(self, trained: Trained) -> None:
        """Before there is a checkpoint, for whoever has to finish the run."""
        self._facts["stopped"] = trained.stopped
        self._write()

    def succeed(self, trained: Trained) -> None:
        self._facts |= _ended_well(self._prepared.name, trained.stopped, trained.metrics)

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Notes the end of the block, however it ends."""
        try:
            yield
        except BaseException as error:
            self._facts |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            raise
        finally:
            self._facts["finished"] = datetime.now(UTC).isoformat()
            self._write()

    def _write(self) -> None:
        if self._writes:
            _write(self._path, self._facts)


def _ended_well(name: str, stopped: str | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": "stopped" if stopped else "succeeded",
        "reason": stopped,
        "checkpoint": name,
        "summary": dict(metrics),
    }


def _tell(
    engine: Engine | None,
    lineage: Lineage,
    folder: Path,
    *,
    snapshot_id: str | None,
    ancestors: Sequence[str],
    since: datetime,
    erased: int,
) -> None:
    """Registers the checkpoint with the store, and with the erasures that it would have been named by. `erased`: rows
    that its snapshot lacked when it was read, at `since`."""
    if engine is None:
        return
    with writing(engine) as connection:
        register_checkpoint(
            connection,
            id=lineage.id,
            created=lineage.created,
            name=lineage.name,
            stage=lineage.stage,
            parent_id=lineage.parent,
            snapshot_id=snapshot_id,
            folder=str(folder),
            settings=lineage.settings,
            metrics=lineage.metrics,
        )
        if erased_of(connection, snapshot_id) > erased:
            add_checkpoint(connection, lineage.id, since)
        add_descendant(connection, lineage.id, ancestors)


def _drop_states(run_folder: Path) -> None:
    drop_states(run_folder)
    shutil.rmtree(run_folder / TRAINER_FOLDER, ignore_errors=True)


def _hardware(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        one = torch.cuda.get_device_name(ranks.device)
    else:
        one = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{ranks.size} x {one}" if ranks.size > 1 else one


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
