"""`/v1/labeling`: ours, in OpenAI's manner.

A labeler sees a task as `ShownTask`: a conversation and answers with letters, in an order of the labeler's own. Only
admins see where answers come from.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from honed.server.wire.feedback import MAX_ID_CHARS, MAX_LABELER_CHARS, FeedbackText
from honed.server.wire.request import INT64_MAX, RequestPart, Storable
from honed.server.wire.response import FinishReason, ResponsePart, omitted_when_none
from honed.server.wire.unsupported import problem

MAX_ANSWERS = 9

Label = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I"]
State = Literal["leased", "ranked", "skipped", "all_bad"]
Verdict = Literal["ranked", "skip", "all_bad"]
Labeler = Annotated[Storable, Field(min_length=1, max_length=MAX_LABELER_CHARS)]
Group = Annotated[list[Label], Field(min_length=1, max_length=MAX_ANSWERS, fail_fast=True)]


class TasksRequest(RequestPart):
    count: int = Field(ge=1, le=64, description="Tasks to make, of as many prompts.")
    answers: int = Field(default=4, ge=4, le=MAX_ANSWERS, description="Answers to each prompt: InstructGPT's K.")
    labelers: int = Field(default=1, ge=1, le=16, description="Labelers who are to rank each task.")
    max_tokens: int = Field(default=256, ge=1, le=INT64_MAX, description="Longest answer, in tokens.")
    seed: int | None = Field(
        default=None, ge=-INT64_MAX - 1, le=INT64_MAX, description="Decides which prompts are drawn, and the answers."
    )


class LeaseRequest(RequestPart):
    labeler: Labeler | None = Field(default=None, description="A name of yours; a labeler's key stands for itself.")


class VerdictRequest(RequestPart):
    verdict: Verdict = Field(description="`skip` says nothing of the answers; `all_bad` that none is of any use.")
    ranking: Annotated[list[Group], Field(min_length=1, max_length=MAX_ANSWERS, fail_fast=True)] | None = Field(
        default=None, description="Groups of letters, best first; those in a group are tied. Each letter once."
    )
    demonstration: FeedbackText | None = Field(default=None, description="The answer as it should have been.")
    comment: FeedbackText | None = None
    labeler: Labeler | None = Field(default=None, description="As for the lease.")
    idempotency_key: Annotated[Storable, Field(min_length=1, max_length=MAX_ID_CHARS)] | None = None

    @model_validator(mode="after")
    def _parts_fit_the_verdict(self) -> Self:
        if self.verdict == "ranked" and self.ranking is None:
            raise problem("missing_required_parameter", "", field="ranking")
        if self.verdict != "ranked" and self.ranking is not None:
            raise problem("invalid_value", "it is only allowed with the verdict 'ranked'", field="ranking")
        if self.verdict == "skip" and self.demonstration is not None:
            raise problem("invalid_value", "who skips a task does not answer it", field="demonstration")
        return self


class TaskMessage(ResponsePart):
    role: str
    content: str
    name: str | None = omitted_when_none()


class ShownAnswer(ResponsePart):
    label: Label
    text: str


class ShownTask(ResponsePart):
    """What a labeler sees. `leased_until` is in Unix seconds."""

    id: str
    object: Literal["labeling.task"] = "labeling.task"
    messages: list[TaskMessage]
    answers: list[ShownAnswer]
    leased_until: int


class VerdictObject(ResponsePart):
    """`id` is the task's; `finished` is in Unix seconds. Letters that are tied are sorted."""

    id: str
    object: Literal["labeling.verdict"] = "labeling.verdict"
    labeler: str
    verdict: Verdict
    ranking: list[list[Label]] | None
    finished: int


class TaskObject(ResponsePart):
    """A task as admins see it; times are in Unix seconds, `policy` is the checkpoint that answered, and the counts are
    of labelers: `leased` of those who are at it now."""

    id: str
    object: Literal["labeling.task"] = "labeling.task"
    created: int
    completion_id: str
    policy: str
    model: str
    labelers: int = Field(description="As many as are to rank it.")
    open: bool
    leased: int
    ranked: int
    skipped: int
    all_bad: int


class TaskList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[TaskObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CreatedTaskList(TaskList):
    """`passed_over`: why prompts made no task, and how many. `stopped`: why there are fewer tasks than asked for."""

    passed_over: dict[str, int]
    stopped: str | None


class TaskChoice(ResponsePart):
    index: int
    text: str
    finish_reason: FinishReason | None


class TaskAssignment(ResponsePart):
    """`ranking`: groups of indices of choices, best first."""

    labeler: str
    state: State
    leased_until: int
    finished: int | None
    feedback_id: str | None
    ranking: list[list[int]] | None


class WholeTaskObject(TaskObject):
    """`derived_from` is the completion whose prompt was sampled."""

    derived_from: str
    messages: list[TaskMessage]
    choices: list[TaskChoice]
    assignments: list[TaskAssignment]


class LabelerProgress(ResponsePart):
    labeler: str
    leased: int
    ranked: int
    skipped: int
    all_bad: int


class ProgressObject(ResponsePart):
    """`open` and `done` count tasks, the others the labelers' verdicts."""

    object: Literal["labeling.progress"] = "labeling.progress"
    open: int
    done: int
    leased: int
    ranked: int
    skipped: int
    all_bad: int
    labelers: list[LabelerProgress]


class ShareObject(ResponsePart):
    """`value` of `pairs` are so; with 95 % confidence it is from `low` to `high`."""

    value: float
    pairs: int
    low: float
    high: float


class LabelerAgreementObject(ResponsePart):
    labeler: str
    tasks: int
    pairs: int = Field(description="Of answers, in those tasks.")
    agreement: ShareObject | None = Field(description="With the others, of pairs that both order.")
    alpha_without: float | None = Field(description="Alpha of all others: above `alpha` for the odd one out.")
    prefers_longer: ShareObject | None = Field(description="The longer answer of a pair won.")
    prefers_first: ShareObject | None = Field(description="The answer shown earlier won; by rights a half.")
    tie_rate: float | None


class AgreementObject(ResponsePart):
    """Over the tasks that two or more labelers have ranked. `alpha` is Krippendorff's, ordinal."""

    object: Literal["labeling.agreement"] = "labeling.agreement"
    pairwise: ShareObject | None = Field(description="Pairs ordered alike, of those that two labelers both order.")
    pairwise_with_ties: ShareObject | None = Field(description="The same of all; a tie against an order is a half.")
    alpha: float | None
    labelers: list[LabelerAgreementObject]
