"""Running stages from their settings to checkpoints: one, or a circle of them, and who holds a run's folder meanwhile.

A run's folder (`HONED_HOME/runs/NAME`) has its settings, numbers, states and report; its checkpoint goes to
`HONED_HOME/models/NAME` once it is whole. What is learned and how is in the stages' own modules, what is refused in
`planning/`, what is written at the end in `ending.py`. Invariant: nothing is loaded before all that can be checked
without was checked, for a circle of its last stage too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from sqlalchemy import Engine

from honed.models.checkpoint import Lineage, checkpoint_id
from honed.models.sources import pull
from honed.training.configs import PPOConfig, RewardConfig, RunConfig, SFTConfig, Stage
from honed.training.distributed import Ranks, ranks_of
from honed.training.ending import Record, finish, is_finished, keep
from honed.training.failures import TrainingError
from honed.training.planning.dry_run import foresee
from honed.training.planning.preflight import output_name
from honed.training.planning.prepare import (
    Prepared,
    as_started,
    prepare,
    read_started,
    require_made_by,
    require_place,
    stage_of_config,
)
from honed.training.reports.findings import RUN_FILE
from honed.training.reports.report import summary_lines, write_report
from honed.training.reports.tracking import Tracker
from honed.training.run import Run, Trained
from honed.training.states import newest_step

_LOCK_FILE: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run: its checkpoint's name and folder, the run's own, and a few lines for people."""

    name: str
    folder: Path
    run_folder: Path
    lines: list[str]


def run(config: RunConfig, *, home: Path, engine: Engine | None, show: bool) -> Result:
    """Trains one stage. Called by every rank that torchrun started; only the first touches the store and `show`s.

    Raises TrainingError, SourceError, PolicyError and StoreError, each with a message that says what to do.
    """
    name = output_name(config, stage_of_config(config))
    checkpoint, run_folder = home / "models" / name, home / "runs" / name
    with ranks_of(config.device) as ranks:
        made = ranks.first(lambda: _made_already(config, home))
        if made is not None:
            with _held(run_folder, ranks):
                ranks.first(lambda: finish(run_folder, checkpoint, made, engine))
        else:
            prepared = ranks.first(lambda: prepare(config, home, engine))
            with _held(run_folder, ranks):
                ranks.first(lambda: require_place(config, home))  # once more: another process may have had the folder
                _train(prepared, ranks, engine, show=show)
    return Result(name, checkpoint, run_folder, summary_lines(run_folder) if ranks.is_first else [])


def run_all(configs: Mapping[Stage, RunConfig], *, home: Path, engine: Engine | None, show: bool) -> list[Result]:
    """SFT, then the reward model and then PPO from what SFT made. Resumed, it goes on in the stage that was cut off."""
    results: list[Result] = []
    with ranks_of(configs["sft"].device) as ranks:
        ranks.first(lambda: _foresee_all(configs, home, engine))
        for stage, config in _linked(configs).items():
            name = output_name(config, stage)
            folder, run_folder = home / "models" / name, home / "runs" / name
            goes_on = config.resume and (run_folder / RUN_FILE).is_file()
            if config.resume and folder.is_dir() and (not goes_on or is_finished(run_folder)):
                ranks.first(partial(_made_by_these, config, home))
                lines = summary_lines(run_folder) if goes_on else []
                results.append(Result(name, folder, run_folder, lines))
            else:
                config = config.model_copy(update={"resume": goes_on})
                results.append(run(config, home=home, engine=engine, show=show))
    return results


def _linked(configs: Mapping[Stage, RunConfig]) -> dict[Stage, RunConfig]:
    """The settings of a circle, whose stages start from what those before them make."""
    names: dict[Stage, str] = {}
    linked: dict[Stage, RunConfig] = {}
    for stage, config in configs.items():
        made = {} if stage == "sft" else {"model": names["sft"]}
        if stage == "ppo":
            made["reward_model"] = names["reward"]
        linked[stage] = config.model_copy(update=made)
        names[stage] = output_name(linked[stage], stage)
    return linked


def _foresee_all(configs: Mapping[Stage, RunConfig], home: Path, engine: Engine | None) -> None:
    """Raises what a later stage would be refused for. What is not there yet is taken to be like the first model."""
    for stage, config in _linked(configs).items():
        name = output_name(config, stage)
        has_run = (home / "runs" / name / RUN_FILE).is_file()
        if config.resume and (home / "models" / name).is_dir():
            continue  # it is looked at when it is its turn
        own = {"resume": config.resume and has_run, "output": name} | ({"reward_model": None} if stage == "ppo" else {})
        foresee(stage, configs[stage].model_copy(update=own), home=home, engine=engine)


def _made_already(config: RunConfig, home: Path) -> Lineage | None:
    """The lineage of the checkpoint that a run to be resumed has written, without coming to its end."""
    name = output_name(config, stage_of_config(config))
    run_folder = home / "runs" / name
    if not config.resume or not (home / "models" / name).is_dir() or not (run_folder / RUN_FILE).is_file():
        return None
    if is_finished(run_folder):
        return None
    return _made_by_these(as_started(name, config, read_started(run_folder), is_learned=True), home)


def _made_by_these(config: RunConfig, home: Path) -> Lineage:
    stage = stage_of_config(config)
    folder = home / "models" / output_name(config, stage)
    return require_made_by(folder, stage, config, parent=checkpoint_id(pull(config.model, home)))


def _train(prepared: Prepared, ranks: Ranks, engine: Engine | None, *, show: bool) -> None:
    config, folder = prepared.config, prepared.run_folder
    start = ranks.first(lambda: _start_step(prepared))
    record = Record(prepared, ranks)
    record.begin()
    with record.ended(), _tracker(prepared, ranks, start, show=show) as tracker:
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
            ),
            prepared.reward_model,
        )
        record.learned(trained)
        ranks.first(lambda: keep(prepared, trained, engine))
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

    return train_preferences(config, run.dataset, run.parent, run.folder, log=log, resume=config.resume)


@contextmanager
def _held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The run's folder, for this run alone. Raises TrainingError where another process has it."""
    lock = FileLock(folder / _LOCK_FILE)

    def acquire() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # it gets samples of what users asked
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


def _start_step(prepared: Prepared) -> int:
    """The step of the state that a resumed run goes on from; 0 where it begins."""
    if not prepared.config.resume:
        return 0
    if prepared.stage in ("dpo", "kto"):
        from honed.training.preferences import last_step

        return last_step(prepared.run_folder)
    return newest_step(prepared.run_folder) or 0


def _tracker(prepared: Prepared, ranks: Ranks, start: int, *, show: bool) -> Tracker:
    if not ranks.is_first:
        return Tracker.silent()
    title = f"{prepared.stage} {prepared.name}"
    return Tracker(prepared.run_folder, title=title, total_steps=prepared.steps, show=show, start_step=start)
