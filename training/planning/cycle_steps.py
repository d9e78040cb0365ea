"""Which steps a cycle has, and what each is made of.

Owns the orders of the steps (`training/orders.py` reads them) and what is refused before the first one: settings and
data that a later step would fail on, hours later. Imports no torch. Invariant: all steps of all cycles share out the
prompts alike, or what one was trained on would be what another is measured on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine

from honed.server.store import cycles
from honed.server.store.database import reading
from honed.server.store.jobs import StoredJob
from honed.server.store.snapshots import checkpoint_named, checkpoint_with_id
from honed.training.configs import RunConfig
from honed.training.data.datasets import DataError, Dataset, load_dataset
from honed.training.evaluation.config import LEAST
from honed.training.failures import TrainingError
from honed.training.orders import EVALUATION, KIND, STORE, evaluation_config, run_config, stage_of

STEPS: Final = ("sft", "reward", "judge", "ppo", "evaluation")
_METHODS: Final = {"sft": "supervised", "reward": "reward", "judge": "reward", "ppo": "ppo"}
# By hashes of the prompts' users, so that each stays in its part from cycle to cycle: those to measure on, and those
# that the judge learns from.
_DATA: Final[Mapping[str, Any]] = {"validation": 0.2, "test": 0.2}
_SHARES: Final = ("validation", "test")
_ONE_FOR_ALL: Final = (*_SHARES, "split_seed", "judge", "validation_data")  # or the steps' prompts would mix


@dataclass(frozen=True, slots=True)
class Plan:
    """`note`: what there is to say of it."""

    steps: tuple[str, ...]
    note: str


def plan(engine: Engine, cycle: StoredJob) -> Plan:
    """The steps of a cycle: SFT is one where enough was demonstrated that what is in service has not learned. Reads the
    data of each. Raises TrainingError for what a step would be refused for, and StoreUnavailableError."""
    with reading(engine) as connection:
        new = cycles.count_since(connection, ("correction",), _last_sft(connection, cycle))
    is_enough = new >= cycle.payload["demonstrations"]
    note = f"New demonstrations: {new}."
    _require_one_share(cycle)
    names = [name for name in STEPS if name != "sft" or is_enough]
    configs = _configs(cycle, names)
    for name, config in configs.items():
        try:
            dataset = load_dataset(config, stage_of(_METHODS[name]), engine, keep=False)
            if name == "ppo":
                _require_enough_to_ask(dataset)
        except DataError as error:
            if name != "sft":
                raise TrainingError(f"The step {name} cannot be asked for: {error}") from None
            names.remove(name)
            note += f" They do not suffice: {error}"
    return Plan(tuple(names), f"{note} The steps are {', '.join(names)}.")


def order_of(cycle: StoredJob, name: str, made: Mapping[str, StoredJob]) -> tuple[str, dict[str, Any]]:
    """The kind and the payload of a step's job. `made`: the jobs of those before it."""
    return (EVALUATION, _evaluation(cycle, made)) if name == "evaluation" else (KIND, _order(cycle, name, made))


def _require_enough_to_ask(dataset: Dataset) -> None:
    """What the evaluation would refuse after hours. It may find fewer: those that nothing was trained on."""
    if (held_out := len(dataset.of("validation"))) < LEAST:
        raise TrainingError(
            f"The step evaluation cannot be asked for: it needs {LEAST} held-out prompts, and there are {held_out}: "
            "collect more, or hold out more with --set all.validation."
        )


def _last_sft(connection: Connection, cycle: StoredJob) -> datetime | None:
    """When demonstrations were last learned from by what is in service, in which other cycles have no share."""
    learned = set(_ancestors(connection, cycle.payload["promoted_id"]))
    for each in cycles.before(connection, cycle) if learned else ():
        step = cycles.steps(connection, each.id, ["sft"]).get("sft")
        if step is None or step.state != "succeeded":
            continue
        made = checkpoint_named(connection, _model_of(step))
        if made is not None and made.id in learned:
            return step.created
    return None


def _ancestors(connection: Connection, checkpoint_id: str | None) -> Iterator[str]:
    """A checkpoint and what it was trained from, as far as the store knows it."""
    while checkpoint_id is not None:
        yield checkpoint_id
        found = checkpoint_with_id(connection, checkpoint_id)
        checkpoint_id = None if found is None else found.parent_id


def _require_one_share(cycle: StoredJob) -> None:
    common = _common(cycle)
    are_shares = all(isinstance(common[name], float) and 0 < common[name] < 1 for name in _SHARES)
    if "judge" in common or not are_shares:
        raise TrainingError("settings.all: validation and test are shares between 0 and 1, and judge is not for it.")
    for stage in ("sft", "reward", "ppo", "evaluation"):
        if taken := [name for name in _ONE_FOR_ALL if name in _settings(cycle, stage)]:
            raise TrainingError(
                f"settings.{stage}: {', '.join(taken)} would mix the prompts of the steps: leave it out."
            )


def _configs(cycle: StoredJob, names: Sequence[str]) -> dict[str, RunConfig]:
    """The settings of the training steps, and all are looked at."""
    made = dict.fromkeys(names, replace(cycle, result={"fine_tuned_model": "made"}))
    configs: dict[str, RunConfig] = {}
    for name in names:
        try:
            if name == "evaluation":
                evaluation_config(cycle.id, _evaluation(cycle, made), os.environ, device="cpu")
            else:
                order = _order(cycle, name, made)
                configs[name] = run_config(cycle.id, order, os.environ, data="store", device="cpu", resume=False)
        except TrainingError as error:
            raise TrainingError(f"The step {name} cannot be asked for: {error}") from None
    return configs


def _order(cycle: StoredJob, name: str, made: Mapping[str, StoredJob]) -> dict[str, Any]:
    """A training step's order (`orders.py`). SFT starts from the policy in service, all others from what it made."""
    stage = "reward" if name == "judge" else name
    settings = {**_common(cycle), **_settings(cycle, stage)}
    return {
        "method": _METHODS[name],
        "model": cycle.payload["model"] if name == "sft" else _start(cycle, made),
        "training_file": STORE,
        "validation_file": None,
        "hyperparameters": {},
        "settings": settings | ({"judge": True} if name == "judge" else {}),
        "suffix": name,
        "seed": cycle.payload["seed"],
        "metadata": {"cycle": cycle.id},
        "reward_model": _model_of(made["reward"]) if name == "ppo" else None,
    }


def _evaluation(cycle: StoredJob, made: Mapping[str, StoredJob]) -> dict[str, Any]:
    return {
        "candidate": _model_of(made["ppo"]),
        "incumbent": cycle.payload["model"],
        "judge_model": _model_of(made["judge"]),
        "settings": {**_common(cycle), **_settings(cycle, "evaluation")},
        "seed": cycle.payload["seed"],
    }


def _start(cycle: StoredJob, made: Mapping[str, StoredJob]) -> str:
    return _model_of(made["sft"]) if "sft" in made else str(cycle.payload["model"])


def _model_of(job: StoredJob) -> str:
    return str(job.result["fine_tuned_model"])


def _common(cycle: StoredJob) -> dict[str, Any]:
    return {**_DATA, **_settings(cycle, "all")}


def _settings(cycle: StoredJob, stage: str) -> dict[str, Any]:
    return dict(cycle.payload["settings"].get(stage, {}))
