"""What honed's own endpoints answer, as values: feedback, labeling tasks, how far the labelers are and how they agree.

Owns the names and types of the Python client's results; `python.py` owns how they are come by. Keys that a newer server
adds are left out. Invariant: values are frozen, times are aware, and what the wire calls an answer is an `Answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Answer(NamedTuple):
    """One answer of a completion: `Answer(completion.id)` is the first of it."""

    completion_id: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`tie`: neither is better."""

    chosen: Answer
    rejected: Answer
    tie: bool


@dataclass(frozen=True, slots=True)
class Feedback:
    """`value` by `kind`: thumb "up" or "down"; rating 1 to 7; comparison a `Comparison`; ranking groups of answers,
    best first, those in a group tied; correction and comment the text as it is stored, redacted. `policy` is the
    checkpoint that answered."""

    id: str
    created: datetime
    completion_id: str
    choice: int
    kind: str
    value: str | int | Comparison | tuple[tuple[Answer, ...], ...]
    labeler: str | None
    source: str
    policy: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FeedbackPage:
    data: tuple[Feedback, ...]
    last_id: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """`label` is a letter."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class LeasedTask:
    """What a labeler sees of a task, and until when nobody else gets it instead."""

    id: str
    messages: tuple[Message, ...]
    answers: tuple[ShownAnswer, ...]
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a labeler said of a task: `ranked`, `skip` or `all_bad`. `id` is the task's."""

    id: str
    labeler: str
    verdict: str
    ranking: tuple[tuple[str, ...], ...] | None
    finished: datetime


@dataclass(frozen=True, slots=True)
class LabelingTask:
    """A task as admins see it. `labelers` are to rank it; `leased`, `ranked`, `skipped` and `all_bad` count those who
    do or did."""

    id: str
    created: datetime
    completion_id: str
    policy: str
    model: str
    labelers: int
    open: bool
    leased: int
    ranked: int
    skipped: int
    all_bad: int


@dataclass(frozen=True, slots=True)
class CreatedTasks:
    """`passed_over`: why prompts made no task, and how many. `stopped`: why there are fewer tasks than asked for."""

    data: tuple[LabelingTask, ...]
    passed_over: Mapping[str, int]
    stopped: str | None


@dataclass(frozen=True, slots=True)
class LabelerProgress:
    labeler: str
    leased: int
    ranked: int
    skipped: int
    all_bad: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`open` and `done` count tasks, the others the labelers' verdicts."""

    open: int
    done: int
    leased: int
    ranked: int
    skipped: int
    all_bad: int
    labelers: tuple[LabelerProgress, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """`value` of `pairs` are so; with 95 % confidence it is from `low` to `high`."""

    value: float
    pairs: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LabelerAgreement:
    """One labeler against the others. `alpha_without`: alpha of all others, above `Agreement.alpha` for the odd one
    out."""

    labeler: str
    tasks: int
    pairs: int
    agreement: Share | None
    alpha_without: float | None
    prefers_longer: Share | None
    prefers_first: Share | None
    tie_rate: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over the tasks that two or more labelers have ranked. `alpha` is Krippendorff's, ordinal."""

    pairwise: Share | None
    pairwise_with_ties: Share | None
    alpha: float | None
    labelers: tuple[LabelerAgreement, ...]
