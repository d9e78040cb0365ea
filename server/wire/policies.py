"""`/v1/policies`: ours, in OpenAI's manner."""

from typing import Literal

from pydantic import Field

from honed.server.wire.request import RequestPart
from honed.server.wire.response import ResponsePart


class ChangeRequest(RequestPart):
    """A promotion or a rollback: it has no parameters, so that all are unknown."""


class PolicyObject(ResponsePart):
    """`id` is the checkpoint's, which completions have as `system_fingerprint`; `created` is in Unix seconds."""

    id: str
    object: Literal["policy"] = "policy"
    name: str
    stage: Literal["source", "sft", "ppo", "dpo", "kto"]
    state: Literal["current", "loaded", "idle", "loading", "unloaded"] = Field(
        description="`current` is in service; `loaded` answers requests by its name; `idle` could, and goes first."
    )
    leases: int = Field(description="Requests that use it or wait for it.")
    created: int


class PolicyList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[PolicyObject]
