"""`/v1/cycles`: ours, in OpenAI's manner."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from honed.server.wire.fine_tuning import MAX_SEED, StageSettings
from honed.server.wire.request import RequestPart
from honed.server.wire.response import ResponsePart


class CycleSettings(RequestPart):
    """What differs from the defaults of a stage, by the names of its settings; `all`: of all of them."""

    all: StageSettings = Field(default={})
    sft: StageSettings = Field(default={})
    reward: StageSettings = Field(default={}, description="Of the judge too.")
    ppo: StageSettings = Field(default={})
    evaluation: StageSettings = Field(default={})


class CreateCycleRequest(RequestPart):
    """It begins with the policy in service, which the new one is measured against."""

    approve: bool = Field(default=False, description="Wait for a person's word before the new policy is in service.")
    share: int = Field(default=10, ge=1, le=100, description="Per cent of users that try it out; 100 is a promotion.")
    demonstrations: int = Field(default=20, ge=1, description="New ones from which on SFT is a step.")
    settings: CycleSettings = CycleSettings()
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Unset, a new one.")


class CycleStep(ResponsePart):
    """`job_id` is null until it is the step's turn; all but `evaluation` are fine-tuning jobs."""

    name: Literal["sft", "reward", "judge", "ppo", "evaluation"]
    job_id: str | None
    status: Literal["waiting", "queued", "running", "paused", "succeeded", "failed", "cancelled"]


CycleStatus: TypeAlias = Literal[
    "queued", "running", "awaiting_labelers", "proposed", "succeeded", "failed", "cancelled"
]


class CycleObject(ResponsePart):
    """Times are in Unix seconds. `model`: the policy in service, which it begins with. `awaiting_labelers`
    waits for what people say of the last pairs, and goes on by itself; `proposed` waits for approval;
    `evaluation` is the gate's report."""

    id: str
    object: Literal["cycle"] = "cycle"
    created_at: int
    finished_at: int | None
    status: CycleStatus
    model: str
    approve: bool
    share: int
    seed: int
    steps: list[CycleStep]
    candidate: str | None
    decision: Literal["proposed", "refused", "canary", "promoted"] | None
    reasons: list[str]
    evaluation: dict[str, Any] | None
    error: str | None


class CycleList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[CycleObject]
    has_more: bool
