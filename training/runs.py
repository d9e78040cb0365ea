"""Running a stage from its settings to a checkpoint: names, folders, what is written down, and how a run ends.

A run's folder (`HONED_HOME/runs/NAME`) has its settings, numbers, states and report; its checkpoint goes to
`HONED_HOME/models/NAME` once it is whole. What is learned and how is in the stages' own modules. Invariants: nothing is
loaded before all that can be checked without was checked; whatever ends a run, run.json says so, and its states stay
until there is a checkpoint.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine

from honed.models.checkpoint import Lineage, checkpoint_id, drop_partial, new_checkpoint_id, save_checkpoint
from honed.models.policy import load_tokenizer
from honed.models.sources import pull
from honed.server.store.database import reading, writing
from honed.server.store.erasure import add_checkpoint
from honed.server.store.snapshots import load_snapshot, register_checkpoint
from honed.training.configs import CONFIGS, PPOConfig, RewardConfig, RunConfig, SFTConfig, Stage
from honed.training.data.datasets import Dataset, load_dataset
from honed.training.distributed import Ranks, ranks_of
from honed.training.failures import TrainingError
from honed.training.planning.estimates import read_shape, work
from honed.training.planning.lengths import fit, limits, measured
from honed.training.planning.machine import this_machine
from honed.training.planning.preflight import (
    output_name,
    preflight,
    require_output,
    require_reward_model,
    require_same_settings,
)
from honed.training.reports.report import summary_lines, write_report
from honed.training.reports.tracking import Tracker
from honed.training.run import Run, Trained
from honed.training.states import drop_states, newest_step

RUN_FILE: Final = "run.json"
_LOCK_FILE: Final = ".lock"
TRAINER_FOLDER: Final = "trainer"  # where TRL keeps its states


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run: its checkpoint's name and folder, the run's own, and a few lines for people."""

    name: str
    folder: Path
    run_folder: Path
    lines: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """All that is known before a weight is loaded."""

    name: str
    stage: Stage
    config: RunConfig
    dataset: Dataset
    since: datetime  # when it was read
    erased: int  # rows of its snapshot that were gone then
    parent: Path
    reward_model: Path | None
    checkpoint: Path
    run_folder: Path
    max_tokens: int  # that the settings and the model's context leave
    steps: int
    notes: tuple[str, ...]


def run(config: RunConfig, *, home: Path, engine: Engine | None, show: bool) -> Result:
    """Trains one stage. Called by every rank that torchrun started; only the first touches the store and `show`s.

    Raises TrainingError, SourceError, PolicyError and StoreError, each with a message that says what to do.
    """
    with ranks_of(config.device) as ranks:
        prepared = ranks.first(lambda: _prepare(config, home, engine))
        with _held(prepared.run_folder, ranks):
            _train(prepared, ranks, engine, show=show)
    lines = summary_lines(prepared.run_folder) if ranks.is_first else []
    return Result(prepared.name, prepared.checkpoint, prepared.run_folder, lines)


def run_all(configs: Mapping[Stage, RunConfig], *, home: Path, engine: Engine | None, show: bool) -> list[Result]:
    """SFT, then the reward model and then PPO from what SFT made. Resumed, it goes on in the stage that was cut off."""
    results: list[Result] = []
    made: dict[Stage, str] = {}
    with ranks_of(configs["sft"].device):
        for stage, config in configs.items():
            config = config.model_copy(update=_made_before(stage, made))
            name = made[stage] = output_name(config, stage)
            if config.resume and (home / "models" / name).is_dir():
                folder = home / "runs" / name
                results.append(Result(name, home / "models" / name, folder, summary_lines(folder)))
            else:
                goes_on = config.resume and (home / "runs" / name / RUN_FILE).is_file()
                config = config.model_copy(update={"resume": goes_on})
                results.append(run(config, home=home, engine=engine, show=show))
    return results


def _made_before(stage: Stage, made: Mapping[Stage, str]) -> dict[str, str]:
    """What a stage takes from those before it."""
    if stage == "sft":
        return {}
    return {"model": made["sft"]} | ({"reward_model": made["reward"]} if stage == "ppo" else {})


def _prepare(config: RunConfig, home: Path, engine: Engine | None) -> _Prepared:
    """Everything that can be refused is refused here."""
    require_reward_model(config)
    stage = _stage(config)
    name = output_name(config, stage)
    checkpoint, run_folder = home / "models" / name, home / "runs" / name
    record = run_folder / RUN_FILE
    require_output(name, has_checkpoint=checkpoint.exists(), has_run=record.is_file(), resume=config.resume)
    parent = pull(config.model, home)
    named = config.reward_model if isinstance(config, SFTConfig | PPOConfig) else None
    reward_model = pull(named, home) if named else None
    wanted = config
    if config.resume:
        started = json.loads(record.read_bytes())
        require_same_settings(name, started["settings"], config)
        if started["dataset"]["source"]["kind"] != "file":  # the store has grown since
            wanted = config.model_copy(update={"data": started["dataset"]["id"]})
    since = datetime.fromisoformat(started["started"]) if config.resume else datetime.now(UTC)
    dataset = load_dataset(wanted, stage, engine)
    erased = 0
    if engine is not None and not config.resume:  # else it may have been trained on what is gone now
        with reading(engine) as connection:
            erased = _erased(connection, dataset)
    if config.resume and dataset.id != started["dataset"]["id"]:
        raise TrainingError(f"The data of the run {name} are no longer what they were: begin another with --output.")
    lengths = measured(load_tokenizer(parent), stage, dataset.of("train"))
    machine = this_machine(config, home)
    notes = preflight(stage, config, lengths, policy=parent, reward_model=reward_model, machine=machine)
    shape = read_shape(parent)
    judge = read_shape(reward_model) if reward_model else None
    limit = limits(config, shape.context_length)
    todo = work(config, fit(lengths, limit).kept, shape, judge)
    steps = config.iterations if isinstance(config, PPOConfig) else todo.steps  # what the run counts
    return _Prepared(
        name=name,
        stage=stage,
        config=config,
        dataset=dataset,
        since=since,
        erased=erased,
        parent=parent,
        reward_model=reward_model,
        checkpoint=checkpoint,
        run_folder=run_folder,
        max_tokens=limit.tokens,
        steps=steps,
        notes=tuple(notes),
    )


def _train(prepared: _Prepared, ranks: Ranks, engine: Engine | None, *, show: bool) -> None:
    config, folder = prepared.config, prepared.run_folder
    start = ranks.first(lambda: _start_step(prepared))
    record = _Record(prepared, ranks)
    record.begin()
    tracker = _tracker(prepared, ranks, start, show=show)
    with tracker, record.ended():
        for note in prepared.notes:
            tracker.note(note)
        trained = _trained(
            Run(
                config=config.model_copy(update={"max_tokens": prepared.max_tokens}),
                dataset=prepared.dataset,
                parent=prepared.parent,
                folder=folder,
                ranks=ranks,
                tracker=tracker,
                start_step=start,
                resumed=config.resume,
            ),
            prepared.reward_model,
        )
        ranks.first(lambda: _keep(prepared, trained, engine))
        record.succeed(trained)
    if ranks.is_first:
        write_report(folder)
    ranks.barrier()


def _trained(run: Run[Any], reward_model: Path | None) -> Trained:
    """The stages are imported when they are asked for: TRL takes seconds."""
    config = run.config
    if isinstance(config, SFTConfig):
        from honed.training.sft import train_sft

        return train_sft(run, reward_model)
    if isinstance(config, RewardConfig):
        from honed.training.reward import train_reward

        return train_reward(run)
    if isinstance(config, PPOConfig):
        from honed.training.ppo import train_ppo

        assert reward_model is not None, "the preflight refuses PPO without one"
        return train_ppo(run, reward_model)
    from honed.training.preferences import train_preferences

    def log(step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        run.tracker.log(step, metrics, tokens=tokens - run.tracker.tokens)

    return train_preferences(config, run.dataset, run.parent, run.folder, log=log, resume=run.resumed)


def _keep(prepared: _Prepared, trained: Trained, engine: Engine | None) -> None:
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
    if engine is not None:
        with writing(engine) as connection:
            register_checkpoint(
                connection,
                id=lineage.id,
                created=lineage.created,
                name=lineage.name,
                stage=lineage.stage,
                parent_id=lineage.parent,
                snapshot_id=prepared.dataset.snapshot_id,
                folder=str(prepared.checkpoint),
                settings=lineage.settings,
                metrics=lineage.metrics,
            )
            if _erased(connection, prepared.dataset) > prepared.erased:
                add_checkpoint(connection, lineage.id, prepared.since)
    drop_states(prepared.run_folder)
    shutil.rmtree(prepared.run_folder / TRAINER_FOLDER, ignore_errors=True)


def _erased(connection: Connection, dataset: Dataset) -> int:
    """How many rows of the snapshot were erased since it was made; 0 for a file's data."""
    snapshot = load_snapshot(connection, dataset.snapshot_id) if dataset.snapshot_id else None
    return snapshot.erased if snapshot else 0


class _Record:
    """run.json, which the first rank writes: what the run is, and how it ended."""

    def __init__(self, prepared: _Prepared, ranks: Ranks) -> None:
        self._prepared = prepared
        self._writes = ranks.is_first
        self._path = prepared.run_folder / RUN_FILE
        model = CONFIGS[prepared.stage]
        self._facts: dict[str, Any] = {
            "name": prepared.name,
            "stage": prepared.stage,
            "parent": prepared.config.model,
            "checkpoint": None,
            "started": datetime.now(UTC).isoformat(),
            "finished": None,
            "status": "running",
            "reason": None,
            "settings": prepared.config.model_dump(mode="json"),
            "defaults": model.model_validate({}).model_dump(mode="json"),
            "dataset": prepared.dataset.card.model_dump(mode="json"),
            "parameters": read_shape(prepared.parent).parameters,
            "hardware": _hardware(ranks),
            "summary": {},
        }

    def begin(self) -> None:
        if self._writes:
            if self._prepared.config.resume:
                self._facts["started"] = json.loads(self._path.read_bytes())["started"]
            self._write()

    def succeed(self, trained: Trained) -> None:
        self._facts |= {
            "status": "stopped" if trained.stopped else "succeeded",
            "reason": trained.stopped,
            "checkpoint": self._prepared.name,
            "summary": trained.metrics,
        }

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


@contextmanager
def _held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The run's folder, for this run alone. Raises TrainingError where another process has it."""
    lock = FileLock(folder / _LOCK_FILE)

    def acquire() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(
                f"The run {folder.name} is going on in another process: wait for it, or end it."
            ) from None

    ranks.first(acquire)
    try:
        yield
    finally:
        lock.release()


def _start_step(prepared: _Prepared) -> int:
    """The step of the state that a resumed run goes on from; 0 where it begins."""
    if not prepared.config.resume:
        return 0
    if prepared.stage in ("dpo", "kto"):
        from honed.training.preferences import last_step

        return last_step(prepared.run_folder)
    return newest_step(prepared.run_folder) or 0


def _tracker(prepared: _Prepared, ranks: Ranks, start: int, *, show: bool) -> Tracker:
    if not ranks.is_first:
        return Tracker.silent()
    title = f"{prepared.stage} {prepared.name}"
    return Tracker(prepared.run_folder, title=title, total_steps=prepared.steps, show=show, start_step=start)


def _stage(config: RunConfig) -> Stage:
    return next(stage for stage, model in CONFIGS.items() if type(config) is model)


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
