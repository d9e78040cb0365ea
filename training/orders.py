"""What a fine-tuning job asks for -> the settings of a run, and what came of the run -> the job's result.

Owns the words that jobs are written in (`server/routes/fine_tuning.py` writes them) and the name of what they make.
Runs nothing. Invariant: an order that cannot be carried out is refused before anything is loaded, and a setting that
nobody knows is never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from honed.training.configs import CONFIGS, RunConfig, Stage
from honed.training.evaluation.config import EvaluationConfig
from honed.training.failures import TrainingError
from honed.training.reports.tracking import read_metrics
from honed.training.texts import read_texts, require_enough

ModelT = TypeVar("ModelT", bound=BaseModel)

KIND: Final = "fine_tuning"
EVALUATION: Final = "evaluation"  # the kind of the jobs that are the gate's
KINDS: Final = (KIND, EVALUATION)  # what workers take
STORE: Final = "store:"  # a training file that is none: the store's rows, or a snapshot's id behind it
_STAGES: Final[Mapping[str, Stage]] = {
    "supervised": "sft",
    "dpo": "dpo",
    "kto": "kto",
    "reward": "reward",
    "ppo": "ppo",
}
# What the operator of a worker names, a second judge and texts for PPO: whoever asks for a job names no hosts, no keys
# and no files.
JUDGE_URL, JUDGE_NAME, JUDGE_KEY = "HONED_JUDGE_URL", "HONED_JUDGE_NAME", "HONED_JUDGE_KEY"
PRETRAINING: Final = "HONED_PRETRAINING"
# Not for `settings` to say: what the job has of its own, and what names files of the machine that trains.
_OF_THE_JOB: Final = ("model", "output", "data", "validation_data", "resume", "device", "reward_model",
              "pretraining", "seed")  # fmt: skip
_OF_THE_GATE: Final = (
    *("candidate", "incumbent", "judge_model", "data", "output", "device", "seed", "text"),
    *("validation_data", "judge_url", "judge_name", "judge_key_env"),
)


def stage_of(method: str) -> Stage:
    return _STAGES[method]


def run_name(job_id: str, kind: str, order: Mapping[str, Any]) -> str:
    """The folder under `runs` that a job writes to."""
    return f"{EVALUATION}-{job_id[-8:]}" if kind == EVALUATION else model_name(job_id, order)


def model_name(job_id: str, order: Mapping[str, Any]) -> str:
    """`ft:BASE:NAME:ID`, whose base is the one at the root where a fine-tuned model is trained on."""
    model = str(order["model"])
    base = model.split(":")[1] if model.startswith("ft:") else Path(model).name
    return f"ft:{base}:{order.get('suffix') or ''}:{job_id[-8:]}"


def run_config(
    job_id: str,
    order: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    data: str,
    validation_data: str | None = None,
    device: str,
    resume: bool,
) -> RunConfig:
    """`environment`: the worker's. `data` and `validation_data`: what the order's files are to a run. Raises
    TrainingError, naming what is wrong in the order."""
    stage = stage_of(order["method"])
    model = CONFIGS[stage]
    values = dict(order.get("settings") or {})
    if taken := [name for name in _OF_THE_JOB if name in values]:
        raise TrainingError(f"settings: {', '.join(taken)} is the job's own to set.")
    translated = _of_hyperparameters(model, order.get("hyperparameters") or {})
    if twice := sorted(values.keys() & translated.keys()):
        raise TrainingError(f"settings: {', '.join(twice)} is in the hyperparameters too: say it once.")
    values |= translated
    values |= {"model": order["model"], "output": model_name(job_id, order), "data": data}
    values |= {"validation_data": validation_data, "device": device, "resume": resume}
    if order.get("seed") is not None:
        values["seed"] = order["seed"]
    if order.get("reward_model") is not None:
        values["reward_model"] = order["reward_model"]
    if stage == "ppo":
        values |= pretraining(environment)
    return _validated(model, values)


def evaluation_config(
    job_id: str, order: Mapping[str, Any], environment: Mapping[str, str], *, device: str
) -> EvaluationConfig:
    """Of an order of the gate. Raises TrainingError, naming what is wrong in the order."""
    values = dict(order.get("settings") or {})
    if taken := [name for name in _OF_THE_GATE if name in values]:
        raise TrainingError(f"settings: {', '.join(taken)} is the job's own to set.")
    values |= {name: order[name] for name in ("candidate", "incumbent", "judge_model", "seed")}
    values |= {"output": run_name(job_id, EVALUATION, order), "device": device}
    return _validated(EvaluationConfig, values | second_judge(environment))


def second_judge(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of the gate that a worker's operator has in the environment. Raises TrainingError where they do not
    go together."""
    url, name, key = (environment.get(variable) for variable in (JUDGE_URL, JUDGE_NAME, JUDGE_KEY))
    if bool(url) != bool(name) or (key and not url):
        raise TrainingError(f"{JUDGE_URL} and {JUDGE_NAME}: set both, or neither and no {JUDGE_KEY}.")
    return {"judge_url": url, "judge_name": name, "judge_key_env": JUDGE_KEY if key else None} if url else {}


def pretraining(environment: Mapping[str, str]) -> dict[str, Any]:
    """The setting of PPO that a worker's operator has in the environment. Raises TrainingError for a file that cannot
    be one."""
    path = environment.get(PRETRAINING)
    if not path:
        return {}
    try:
        require_enough(Path(path), len(read_texts(Path(path))))
    except TrainingError as error:
        raise TrainingError(f"{PRETRAINING}: {error}") from None
    return {"pretraining": path}


def result(run_folder: Path, name: str) -> dict[str, Any]:
    """What the job's row says of a run that ended well."""
    lines = read_metrics(run_folder)
    last = lines[-1] if lines else {"step": 0, "tokens": 0}
    step = int(last["step"])
    measured = {key: value for line in lines if line["step"] == step for key, value in line.items() if "/" in key}
    checkpoint = {"step": step, "metrics": measured}
    return {"fine_tuned_model": name, "trained_tokens": int(last["tokens"]), "checkpoints": [checkpoint]}


def said_of(kind: str, made: Mapping[str, Any]) -> str:
    """The last event of a job that succeeded."""
    if kind == EVALUATION:
        verdict = "asks people about" if made["promote"] is None else "lets through" if made["promote"] else "refuses"
        return f"The gate {verdict} {made['candidate']['name']}."
    return f"The job made {made['fine_tuned_model']}."


def _validated(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise TrainingError(f"settings: {faults}") from None


def _of_hyperparameters(model: type[RunConfig], given: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's words for what ours call otherwise. A stage that has no such setting refuses it in `model_validate`."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "learning_rate_multiplier":
            values["learning_rate"] = model.model_fields["learning_rate"].default * value
        else:
            values[{"n_epochs": "epochs"}.get(name, name)] = value
    return values
