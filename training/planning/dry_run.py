"""`--dry-run`: what a run would read, take and write, said before anything is.

Owns the account of it in lines; the numbers are `estimates.py`'s, the refusals `preflight.py`'s. Invariant: no weights
are loaded, and nothing of a run is written. (A model that is not here is fetched to be looked at.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from honed.training.configs import RunConfig, Stage
from honed.training.data.datasets import Dataset, load_dataset
from honed.training.data.splits import SPLITS
from honed.training.planning.estimates import STATES, Shape, Work, disk, memory, seconds
from honed.training.planning.machine import Machine, matmul_speed
from honed.training.planning.outlook import Outlook, look_ahead
from honed.training.planning.preflight import NOUNS, output_name, require_reward_model
from honed.training.planning.prepare import require_place
from honed.training.reports.numbers import amount, duration

if TYPE_CHECKING:
    from sqlalchemy import Engine

_GIB = 2**30


def rehearse(configs: Mapping[Stage, RunConfig], *, home: Path, engine: Engine | None) -> list[str]:
    """Lines about the runs of these settings, one after the other. In a circle of several, later stages start from what
    earlier ones make: a model of the same size. Raises what would end a run at once: TrainingError, SourceError,
    PolicyError, StoreError."""
    lines: list[str] = []
    for stage, config in configs.items():
        if len(configs) == 1:
            require_reward_model(config)
        lines += [
            f"{stage}: {config.model} -> {home / 'models' / output_name(config, stage)}",
            *(f"  {line}" for line in _account(stage, config, home, engine)),
        ]
    return lines


def foresee(stage: Stage, config: RunConfig, *, home: Path, engine: Engine | None) -> tuple[Dataset, Outlook]:
    """Raises what would end the run at once, as `rehearse` does."""
    require_place(config, home)
    dataset = load_dataset(config, stage, engine, keep=False)
    return dataset, look_ahead(stage, config, dataset, home)


def _account(stage: Stage, config: RunConfig, home: Path, engine: Engine | None) -> list[str]:
    dataset, seen = foresee(stage, config, home=home, engine=engine)
    rows, shape = seen.machine.tokens_per_pass, seen.shape
    speed = matmul_speed(config, rows=rows, width=shape.hidden, inner=shape.intermediate)
    return [
        *_reads(stage, dataset),
        *_takes(stage, seen.work, speed, seen.machine),
        *_needs(config, shape, seen.judge, seen.machine),
        *seen.notes,
    ]


def _reads(stage: Stage, dataset: Dataset) -> list[str]:
    counts = ", ".join(f"{len(dataset.of(split))} for {split}" for split in SPLITS)
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(dataset.card.left_out.items()))
    return [
        f"reads {dataset.id}, {NOUNS[stage]} from {dataset.card.source.name}: {counts}",
        *([f"leaves out: {left_out}"] if left_out else []),
    ]


def _takes(stage: Stage, todo: Work, speed: float, machine: Machine) -> list[str]:
    """Ranks share the work; whether they multiply as fast together as each does alone depends on the machine."""
    epoch = "round" if stage == "ppo" else "epoch"
    epochs = f"{todo.epochs} {epoch}{'' if todo.epochs == 1 else 's'} of {amount(todo.tokens_per_epoch)}"
    most = "at most " if stage == "ppo" else ""
    time = duration(seconds(todo, speed * machine.ranks))
    return [
        f"trains on {most}{amount(todo.tokens)} tokens: {epochs}",
        f"takes {todo.steps} steps and about {time}, as {machine.device} multiplies at {amount(speed)}FLOP/s",
    ]


def _needs(config: RunConfig, policy: Shape, reward: Shape | None, machine: Machine) -> list[str]:
    taken = memory(
        config,
        policy,
        reward,
        number_bytes=machine.number_bytes,
        tokens_per_pass=machine.tokens_per_pass,
        shards=machine.ranks if config.sharding == "full" else 1,
    )
    files = disk(config, policy, reward, number_bytes=machine.number_bytes)
    return [
        f"needs about {_of(taken, machine.free_memory)} of memory: {_parts(taken)}",
        f"needs about {_of(files, machine.free_disk)} of disk: {_parts(files)} ({STATES} at once)",
    ]


def _of(sizes: Mapping[str, int], free: int) -> str:
    return f"{_size(sum(sizes.values()))} of {_size(free)}"


def _parts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())


def _size(size: int) -> str:
    """Of some bytes, with two digits or more."""
    if size < _GIB / 10:
        return f"{size / 2**20:.2g} MiB"
    return f"{size / _GIB:.{0 if size >= 10 * _GIB else 1}f} GiB"
