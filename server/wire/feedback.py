"""`/v1/feedback`: ours, in OpenAI's manner.

`value` by kind: thumb "up" or "down"; rating 1 to 7; comparison {"chosen", "rejected", "tie"?}; ranking a list of
groups, best first, those in a group tied; correction and comment a text. An answer is named by the index of its choice,
or, when it belongs to another completion, by {"completion_id", "choice"}.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator as UnionBranch
from pydantic import Field, Tag, model_validator

from honed.server.wire.metadata import Metadata
from honed.server.wire.request import RequestPart, Storable
from honed.server.wire.response import ResponsePart
from honed.server.wire.unsupported import problem

MAX_ID_CHARS = 128
MAX_LABELER_CHARS = 64
MAX_TEXT_CHARS = 100_000
MAX_ANSWERS = 32

Kind = Literal["thumb", "rating", "comparison", "ranking", "correction", "comment"]
Source = Literal["labeler", "user", "automatic"]
ChoiceIndex = Annotated[int, Field(ge=0, le=2**31 - 1)]
CompletionId = Annotated[Storable, Field(min_length=1, max_length=MAX_ID_CHARS)]
FeedbackText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]


class AnswerOf(RequestPart):
    """An answer of any completion."""

    completion_id: CompletionId
    choice: ChoiceIndex = 0


def _answer_kind(value: Any) -> str:
    return "answer" if isinstance(value, dict | AnswerOf) else "index"


AnswerRef = Annotated[
    Annotated[ChoiceIndex, Tag("index")] | Annotated[AnswerOf, Tag("answer")], UnionBranch(_answer_kind)
]


class Comparison(RequestPart):
    """`tie`: neither is better; the two may then stand in any order."""

    chosen: AnswerRef
    rejected: AnswerRef
    tie: bool = False


Ranking = Annotated[
    list[Annotated[list[AnswerRef], Field(min_length=1, max_length=MAX_ANSWERS, fail_fast=True)]],
    Field(min_length=1, max_length=MAX_ANSWERS, fail_fast=True),
]


class _FeedbackRequest(RequestPart):
    completion_id: CompletionId
    choice: ChoiceIndex = Field(default=0, description="Index of the answer that is judged.")
    labeler: Storable | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_LABELER_CHARS,
        description="Who judged, where it was not the key's owner: a name of yours.",
    )
    source: Source | None = Field(
        default=None, description="Who judged; unset, a labeler where one is named, else a user."
    )
    idempotency_key: Storable | None = Field(
        default=None, min_length=1, max_length=MAX_ID_CHARS, description="The same key again is the same feedback."
    )
    metadata: Metadata = Field(default={})


class ThumbRequest(_FeedbackRequest):
    kind: Literal["thumb"]
    value: Literal["up", "down"]


class RatingRequest(_FeedbackRequest):
    kind: Literal["rating"]
    value: int = Field(ge=1, le=7, description="InstructGPT's scale: 7 is the best.")


class ComparisonRequest(_FeedbackRequest):
    kind: Literal["comparison"]
    value: Comparison


class RankingRequest(_FeedbackRequest):
    kind: Literal["ranking"]
    value: Ranking = Field(description="Groups of answers, best first; those in a group are tied.")

    @model_validator(mode="after")
    def _has_two(self) -> Self:
        count = sum(map(len, self.value))
        if not 2 <= count <= MAX_ANSWERS:
            raise problem("invalid_value", f"expected 2 to {MAX_ANSWERS} answers, but got {count}", field="value")
        return self


class CorrectionRequest(_FeedbackRequest):
    kind: Literal["correction"]
    value: FeedbackText = Field(description="The answer as it should have been.")


class CommentRequest(_FeedbackRequest):
    kind: Literal["comment"]
    value: FeedbackText


FeedbackRequest = ThumbRequest | RatingRequest | ComparisonRequest | RankingRequest | CorrectionRequest | CommentRequest
REQUESTS: dict[str, type[FeedbackRequest]] = {
    "thumb": ThumbRequest,
    "rating": RatingRequest,
    "comparison": ComparisonRequest,
    "ranking": RankingRequest,
    "correction": CorrectionRequest,
    "comment": CommentRequest,
}


class FeedbackAnswer(ResponsePart):
    completion_id: str
    choice: int


class ComparisonValue(ResponsePart):
    chosen: FeedbackAnswer
    rejected: FeedbackAnswer
    tie: bool


class FeedbackObject(ResponsePart):
    """`created` is in Unix seconds; `policy` is the checkpoint that answered. Texts are as stored: redacted."""

    id: str
    object: Literal["feedback"] = "feedback"
    created: int
    completion_id: str
    choice: int
    kind: Kind
    value: str | int | ComparisonValue | list[list[FeedbackAnswer]]
    labeler: str | None
    source: Source
    policy: str
    metadata: dict[str, str]


class FeedbackList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[FeedbackObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
