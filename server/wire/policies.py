"""`/v1/policies`: ours, in OpenAI's manner."""

from typing import Literal

from pydantic import Field

from honed.server.wire.request import RequestPart
from honed.server.wire.response import ResponsePart


class ChangeRequest(RequestPart):
    """A promotion or a rollback: it has no parameters, so that all are unknown."""


class CanaryRequest(RequestPart):
    share: int = Field(ge=1, le=99, description="Per cent of the users who get the policy as `honed`.")
    advance: bool = Field(
        default=False, description="Let the share grow by itself, up to a promotion, as the server's settings say."
    )


class ShadowRequest(RequestPart):
    share: int = Field(ge=1, le=100, description="Per cent of the users whose requests the policy answers unseen.")


class ThumbCounts(ResponsePart):
    """Each person's newest thumb on an answer counts. `rate`: the share of those that point up, which is from `low` to
    `high` with 95 % confidence (Wilson's interval); null where there are none."""

    up: int
    down: int
    rate: float | None
    low: float | None
    high: float | None


class ShadowCounts(ResponsePart):
    """Of labelers, who see a prompt with the policy's answer and that of the policy in service, and not which is which.
    `rate`: the share of wins, a tie counted as half of one, which is from `low` to `high` with 95 % confidence
    (Wilson's interval); null where there are none."""

    share: int = Field(description="Per cent of the users whose requests for `honed` it answers unseen.")
    wins: int
    ties: int
    losses: int
    rate: float | None
    low: float | None
    high: float | None


class PolicyObject(ResponsePart):
    """`id` is the checkpoint's, which completions have as `system_fingerprint`; `created` is in Unix seconds."""

    id: str
    object: Literal["policy"] = "policy"
    name: str
    stage: Literal["source", "sft", "ppo", "dpo", "kto"]
    state: Literal["current", "candidate", "loaded", "idle", "loading", "unloaded"] = Field(
        description="`current` is in service, `candidate` tried out beside it; `loaded` answers requests by its name; "
        "`idle` could, and goes first."
    )
    share: int = Field(description="Per cent of the users who get it as `honed`.")
    leases: int = Field(description="Requests that use it or wait for it.")
    created: int
    feedback: ThumbCounts = Field(
        description="Of a candidate, and of the current policy beside it: on answers to requests for `honed` since it "
        "began to be tried out, one for each key."
    )
    shadow: ShadowCounts = Field(description="How it does where it answers beside the policy in service, unseen.")


class PolicyList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[PolicyObject]


class PromotionObject(ResponsePart):
    """A change of what is in service. `candidate`: what is tried out from then on, by `share` per cent of the users;
    with `is_shadow`, unseen by them. `reason`: why a server did it by itself."""

    number: int
    object: Literal["policy.promotion"] = "policy.promotion"
    created: int
    policy: str
    candidate: str | None
    share: int
    is_shadow: bool
    reason: str | None


class PromotionList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[PromotionObject]
    has_more: bool
