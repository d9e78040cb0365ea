"""What a fine-tuning job asks for -> the settings of a run, and what came of the run -> the job's result.

Owns the words that jobs are written in (`server/routes/fine_tuning.py` writes them) and the name of what they make.
Runs nothing. Invariant: an order that cannot be carried out is refused before anything is loaded, and a setting that
nobody knows is never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from honed.training.configs import CONFIGS, RunConfig, Stage
from honed.training.failures import TrainingError
from honed.training.reports.tracking import read_metrics

KIND: Final = "fine_tuning"
STORE: Final = "store:"  # a training file that is none: the store's rows, or a snapshot's id behind it
_STAGES: Final[Mapping[str, Stage]] = {
    "supervised": "sft",
    "dpo": "dpo",
    "kto": "kto",
    "reward": "reward",
    "ppo": "ppo",
}
# Not for `settings` to say: what the job has of its own, and what names files of the machine that trains.
_OF_THE_JOB: Final = ("model", "output", "data", "resume", "device", "reward_model", "pretraining", "seed")


def model_name(job_id: str, order: Mapping[str, Any]) -> str:
    """`ft:BASE:NAME:ID`, whose base is the one at the root where a fine-tuned model is trained on."""
    model = str(order["model"])
    base = model.split(":")[1] if model.startswith("ft:") else Path(model).name
    return f"ft:{base}:{order.get('suffix') or ''}:{job_id[-8:]}"


def run_config(job_id: str, order: Mapping[str, Any], *, data: str, device: str, resume: bool) -> RunConfig:
    """`data`: what the order's training file is to a run. Raises TrainingError, naming what is wrong in the order."""
    stage = _STAGES[order["method"]]
    model = CONFIGS[stage]
    values = dict(order.get("settings") or {})
    if taken := [name for name in _OF_THE_JOB if name in values]:
        raise TrainingError(f"settings: {', '.join(taken)} is the job's own to set.")
    translated = _of_hyperparameters(model, order.get("hyperparameters") or {})
    if twice := sorted(values.keys() & translated.keys()):
        raise TrainingError(f"settings: {', '.join(twice)} is in the hyperparameters too: say it once.")
    values |= translated
    values |= {"model": order["model"], "output": model_name(job_id, order), "data": data}
    values |= {"device": device, "resume": resume}
    if order.get("seed") is not None:
        values["seed"] = order["seed"]
    if order.get("reward_model") is not None:
        values["reward_model"] = order["reward_model"]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise TrainingError(f"settings: {faults}") from None


def result(run_folder: Path, name: str) -> dict[str, Any]:
    """What the job's row says of a run that ended well."""
    lines = read_metrics(run_folder)
    last = lines[-1] if lines else {"step": 0, "tokens": 0}
    step = int(last["step"])
    measured = {key: value for line in lines if line["step"] == step for key, value in line.items() if "/" in key}
    checkpoint = {"step": step, "metrics": measured}
    return {"fine_tuned_model": name, "trained_tokens": int(last["tokens"]), "checkpoints": [checkpoint]}


def _of_hyperparameters(model: type[RunConfig], given: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's words for what ours call otherwise. A stage that has no such setting refuses it in `model_validate`."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "learning_rate_multiplier":
            values["learning_rate"] = model.model_fields["learning_rate"].default * value
        else:
            values[{"n_epochs": "epochs"}.get(name, name)] = value
    return values
