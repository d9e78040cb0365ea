"""`/v1/fine_tuning/jobs`. Source: OpenAI's `CreateFineTuningJobRequest`, `FineTuneMethod`, `FineTuningJob`,
`FineTuningJobEvent`, `FineTuningJobCheckpoint`.

Ours are the methods `reward`, `kto` and `ppo`, the grader `reward_model`, and `settings`: a stage's own, by name, which
only the worker knows. `ppo` is a short way to write `reinforcement` with that grader.
"""

import math
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, Tag, model_validator
from pydantic import Discriminator as UnionBranch

from honed.server.wire.metadata import Metadata
from honed.server.wire.request import DEPRECATED, RequestPart, Storable
from honed.server.wire.response import ResponsePart, omitted_when_none
from honed.server.wire.unsupported import Unsupported, problem

MAX_NAME_CHARS = 512
MAX_SUFFIX_CHARS = 64
MAX_SETTINGS = 64
MAX_SEED = 2**31 - 1

Kind = Literal["supervised", "dpo", "reinforcement", "reward", "kto", "ppo"]
Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Name = Annotated[Storable, Field(min_length=1, max_length=MAX_NAME_CHARS)]

_GRADERS: Final = ("string_check", "text_similarity", "python", "score_model", "multi", "label_model")
_NEEDED: Final = {"reinforcement": "a grader", "ppo": "a reward model"}


def _branch(value: Any) -> str:
    return "auto" if isinstance(value, str) else "number"


_Auto: TypeAlias = Annotated[Literal["auto"], Tag("auto")]
Epochs = Annotated[_Auto | Annotated[int, Field(ge=1, le=50), Tag("number")], UnionBranch(_branch)]
BatchSize = Annotated[_Auto | Annotated[int, Field(ge=1, le=256), Tag("number")], UnionBranch(_branch)]
Multiplier = Annotated[_Auto | Annotated[float, Field(gt=0), Tag("number")], UnionBranch(_branch)]
Beta = Annotated[_Auto | Annotated[float, Field(gt=0, le=2), Tag("number")], UnionBranch(_branch)]


class Hyperparameters(RequestPart):
    n_epochs: Epochs = "auto"
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = Field(default="auto", description="Of the stage's own learning rate.")


class PreferenceHyperparameters(Hyperparameters):
    beta: Beta = "auto"


class ReinforcementHyperparameters(RequestPart):
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = Field(default="auto", description="Of the stage's own learning rate.")
    n_epochs: Annotated[Any, Unsupported("auto")] = "auto"
    reasoning_effort: Annotated[Any, Unsupported("default")] = "default"
    compute_multiplier: Annotated[Any, Unsupported("auto")] = "auto"
    eval_interval: Annotated[Any, Unsupported("auto")] = "auto"
    eval_samples: Annotated[Any, Unsupported("auto")] = "auto"


def _scalars(settings: dict[str, Any]) -> dict[str, Any]:
    if len(settings) > MAX_SETTINGS:
        raise problem("object_above_max_properties", f"expected at most {MAX_SETTINGS} settings")
    for name, value in settings.items():
        if value is not None and not isinstance(value, str | int | float):
            raise problem("invalid_type", "expected a string, a number, a boolean or null", field=name)
        if "\0" in f"{name}{value}" or (isinstance(value, float) and not math.isfinite(value)):
            raise problem("invalid_value", "it cannot be stored", field=name)
    return settings


StageSettings = Annotated[
    dict[str, Any],
    AfterValidator(_scalars),
    Field(json_schema_extra={"maxProperties": MAX_SETTINGS}, description="The stage's own, by their names."),
]


class SupervisedMethod(RequestPart):
    """Of `reward` too."""

    hyperparameters: Hyperparameters = Hyperparameters()
    settings: StageSettings = Field(default={})


class PreferenceMethod(RequestPart):
    """`dpo` and `kto`."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()
    settings: StageSettings = Field(default={})


def _supported(value: Any) -> Any:
    if value in _GRADERS:
        raise problem("unsupported_value", "this server's grader is 'reward_model'")
    return value


class Grader(RequestPart):
    """`model`: a reward model that was trained here."""

    type: Annotated[Literal["reward_model"], BeforeValidator(_supported)]
    model: Name


class ReinforcementMethod(RequestPart):
    grader: Grader
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()
    settings: StageSettings = Field(default={})


class PPOMethod(RequestPart):
    reward_model: Name
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()
    settings: StageSettings = Field(default={})


AnyMethod = SupervisedMethod | PreferenceMethod | ReinforcementMethod | PPOMethod


class Method(RequestPart):
    """How to train: the member that `type` names says the details."""

    type: Kind
    supervised: SupervisedMethod | None = None
    dpo: PreferenceMethod | None = None
    reinforcement: ReinforcementMethod | None = None
    reward: SupervisedMethod | None = None
    kto: PreferenceMethod | None = None
    ppo: PPOMethod | None = None

    @model_validator(mode="after")
    def _is_of_one_type(self) -> Self:
        for name in type(self).model_fields:
            if name not in ("type", self.type) and getattr(self, name) is not None:
                raise problem("invalid_value", f"it does not go with the type '{self.type}'", field=name)
        if self.type in _NEEDED and getattr(self, self.type) is None:
            raise problem("missing_required_parameter", f"it needs {_NEEDED[self.type]}", field=self.type)
        return self

    @property
    def details(self) -> AnyMethod:
        given: AnyMethod | None = getattr(self, self.type)
        return given or (PreferenceMethod() if self.type in ("dpo", "kto") else SupervisedMethod())


class CreateJobRequest(RequestPart):
    model: Name
    training_file: Name = Field(
        description="A file's id; `store:` for a new snapshot of the store, `store:ID` for one that is there."
    )
    validation_file: Name | None = Field(
        default=None, description="A file's id: what is measured on, in the place of a share that is held out."
    )
    hyperparameters: Hyperparameters | None = Field(
        default=None, json_schema_extra=DEPRECATED, description="Of supervised training; `method` has them too."
    )
    method: Method | None = Field(default=None, description="Unset, supervised.")
    suffix: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_SUFFIX_CHARS,
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="A part of the new model's name.",
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Unset, a new one.")
    metadata: Metadata = Field(default={}, description="Jobs can be listed by it.")
    integrations: Annotated[Any, Unsupported([])] = None

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if self.method is not None and self.hyperparameters is not None:
            raise problem("invalid_value", "with 'method' they belong into it", field="hyperparameters")
        return self

    @property
    def whole_method(self) -> Method:
        if self.method is not None:
            return self.method
        details = SupervisedMethod(hyperparameters=self.hyperparameters or Hyperparameters())
        return Method(type="supervised", supervised=details)


Number: TypeAlias = int | float | Literal["auto"]


class ShownHyperparameters(ResponsePart):
    n_epochs: Number | None = omitted_when_none()
    batch_size: Number
    learning_rate_multiplier: Number
    beta: Number | None = omitted_when_none()


class ShownGrader(ResponsePart):
    type: Literal["reward_model"] = "reward_model"
    model: str


class ShownMethod(ResponsePart):
    grader: ShownGrader | None = omitted_when_none()
    hyperparameters: ShownHyperparameters
    settings: dict[str, Any] | None = omitted_when_none()


class MethodObject(ResponsePart):
    """As in a request, where `ppo` was written as `reinforcement`."""

    type: Literal["supervised", "dpo", "reinforcement", "reward", "kto"]
    supervised: ShownMethod | None = omitted_when_none()
    dpo: ShownMethod | None = omitted_when_none()
    reinforcement: ShownMethod | None = omitted_when_none()
    reward: ShownMethod | None = omitted_when_none()
    kto: ShownMethod | None = omitted_when_none()


class JobError(ResponsePart):
    code: str
    message: str
    param: None = None


class JobObject(ResponsePart):
    """Times are in Unix seconds. `paused` is a state that OpenAI's type does not have."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: None = None
    status: Status
    error: JobError | None
    model: str
    fine_tuned_model: str | None
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    hyperparameters: ShownHyperparameters
    method: MethodObject
    seed: int
    metadata: dict[str, str] | None
    organization_id: Literal["honed"] = "honed"
    result_files: list[str] = Field(default=[])
    integrations: list[Any] = Field(default=[])


class JobList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class JobEventObject(ResponsePart):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


class JobEventList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[JobEventObject]
    has_more: bool


class JobCheckpointObject(ResponsePart):
    """`metrics`: OpenAI's names where there are such, else ours."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, float]


class JobCheckpointList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[JobCheckpointObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
