"""honed from Python, beside OpenAI's client: feedback on its answers, and the labelers' work.

    from openai import OpenAI
    from honed.clients.python import Honed

    openai, honed = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none"), Honed("http://127.0.0.1:8000")
    answer = openai.chat.completions.create(model="honed", messages=[{"role": "user", "content": "Hi"}])
    honed.thumb(answer.id, up=True)

Owns the calls and their arguments; what comes back is in `objects.py`, tries and errors are in `retries.py`. Asking and
stored completions are OpenAI's, and so is its client. Invariant: a call is counted once however often it had to be
sent: each has an idempotency key of its own, unless it is given one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Self, TypedDict, Unpack, cast
from urllib.parse import quote
from uuid import uuid4

from pydantic import TypeAdapter

from honed.clients.endpoint import DEFAULT_URL
from honed.clients.objects import (
    Agreement,
    Answer,
    Comparison,
    CreatedTasks,
    Feedback,
    FeedbackPage,
    LeasedTask,
    Progress,
    Verdict,
)
from honed.clients.retries import HonedError, ResultT, Retrying

__all__ = [
    "Agreement",
    "Answer",
    "Comparison",
    "CreatedTasks",
    "Details",
    "Feedback",
    "Honed",
    "HonedError",
    "LeasedTask",
    "Progress",
    "Verdict",
]

TIMEOUT_S = 60.0
TASKS_TIMEOUT_S = 660.0  # a server's default for one request is 600

Kind = Literal["thumb", "rating", "comparison", "ranking", "correction", "comment"]
AnswerRef = tuple[str, int]  # completion_id and choice; an `Answer` is one

_FEEDBACK: Final = TypeAdapter(Feedback)
_FEEDBACK_PAGE: Final = TypeAdapter(FeedbackPage)
_LEASED_TASK: Final = TypeAdapter(LeasedTask)
_VERDICT: Final = TypeAdapter(Verdict)
_CREATED_TASKS: Final = TypeAdapter(CreatedTasks)
_PROGRESS: Final = TypeAdapter(Progress)
_AGREEMENT: Final = TypeAdapter(Agreement)


class Details(TypedDict, total=False):
    """What every kind of feedback may have. `labeler`: who judged, where it was not the key's owner. `source`: who it
    was; unset, a labeler where one is named, else a user. `idempotency_key`: for a call that may be made again, by
    another process say; the same key again is the same feedback."""

    labeler: str
    source: Literal["labeler", "user", "automatic"]
    metadata: Mapping[str, str]
    idempotency_key: str


class Honed:
    """A server's endpoints that are not OpenAI's. Every call raises HonedError; may be used by many threads."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = 2,
    ) -> None:
        """`base_url` comes with or without /v1; `timeout_s` is of a try."""
        self._server = Retrying(base_url, api_key, timeout_s=timeout_s, max_retries=max_retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.close()

    # Feedback

    def thumb(self, completion_id: str, up: bool, *, choice: int = 0, **details: Unpack[Details]) -> Feedback:
        return self._judge((completion_id, choice), "thumb", "up" if up else "down", details)

    def rate(self, completion_id: str, value: int, *, choice: int = 0, **details: Unpack[Details]) -> Feedback:
        """`value` is 1 to 7; 7 is the best."""
        return self._judge((completion_id, choice), "rating", value, details)

    def correct(self, completion_id: str, text: str, *, choice: int = 0, **details: Unpack[Details]) -> Feedback:
        """`text` is the answer as it should have been."""
        return self._judge((completion_id, choice), "correction", text, details)

    def comment(self, completion_id: str, text: str, *, choice: int = 0, **details: Unpack[Details]) -> Feedback:
        return self._judge((completion_id, choice), "comment", text, details)

    def compare(
        self, chosen: AnswerRef, rejected: AnswerRef, *, tie: bool = False, **details: Unpack[Details]
    ) -> Feedback:
        """Two answers to the same prompt. `tie`: neither is better, and they may stand in any order."""
        value = {"chosen": _named(chosen), "rejected": _named(rejected), "tie": tie}
        return self._judge(chosen, "comparison", value, details)

    def rank(self, groups: Sequence[AnswerRef | Sequence[AnswerRef]], **details: Unpack[Details]) -> Feedback:
        """Answers to the same prompt, best first; those in a list within the list are tied."""
        ranked = [_group(given) for given in groups]
        if not ranked or not ranked[0]:
            raise HonedError("a ranking has two answers at least, and none of its groups is empty", param="value")
        return self._judge(ranked[0][0], "ranking", [[_named(answer) for answer in group] for group in ranked], details)

    def feedback(
        self,
        *,
        completion_id: str | None = None,
        kind: Kind | None = None,
        labeler: str | None = None,
        policy: str | None = None,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        page_size: int = 100,
    ) -> Iterator[Feedback]:
        """All feedback that the key gave (an admin's: everybody's), the newest first, from behind the id `after` on. A
        page is asked for when the one before it is used up."""
        params = {
            "completion_id": completion_id,
            "kind": kind,
            "labeler": labeler,
            "policy": policy,
            "after": after,
            "order": order,
            "limit": page_size,
        }
        has_more = True
        while has_more:
            page = self._get(_FEEDBACK_PAGE, "feedback", params)
            yield from page.data
            params["after"], has_more = page.last_id, page.has_more

    # Labeling

    def create_tasks(
        self,
        count: int,
        answers: int = 4,
        labelers: int = 1,
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        timeout_s: float = TASKS_TIMEOUT_S,
    ) -> CreatedTasks:
        """Has the server sample `count` prompts and answer each of them `answers` times, to be ranked by `labelers`
        each. For admins. It is not sent again where the server may have begun: tasks have no idempotency key."""
        body = {"count": count, "answers": answers, "labelers": labelers, "max_tokens": max_tokens, "seed": seed}
        path = "labeling/tasks"
        made = self._server.send(_CREATED_TASKS, "POST", path, body=body, idempotent=False, timeout_s=timeout_s)
        return _there(made)

    def lease_task(self, labeler: str | None = None) -> LeasedTask | None:
        """The labeler's next task, the same one until it is judged or its lease runs out; None where there is none.
        `labeler`: a name of yours; a labeler's key stands for itself."""
        return self._server.send(_LEASED_TASK, "POST", "labeling/leases", body={"labeler": labeler})

    def submit_ranking(
        self,
        task_id: str,
        ranking: Sequence[str | Sequence[str]],
        *,
        demonstration: str | None = None,
        comment: str | None = None,
        labeler: str | None = None,
        idempotency_key: str | None = None,
    ) -> Verdict:
        """The letters of all answers, best first; those in a list within the list are tied. `demonstration` is the
        answer as it should have been, `labeler` is as for the lease."""
        groups = [[group] if isinstance(group, str) else list(group) for group in ranking]
        return self._say(
            task_id,
            verdict="ranked",
            ranking=groups,
            demonstration=demonstration,
            comment=comment,
            labeler=labeler,
            idempotency_key=idempotency_key,
        )

    def all_bad(
        self,
        task_id: str,
        *,
        demonstration: str | None = None,
        comment: str | None = None,
        labeler: str | None = None,
        idempotency_key: str | None = None,
    ) -> Verdict:
        """None of the answers is of any use."""
        return self._say(
            task_id,
            verdict="all_bad",
            demonstration=demonstration,
            comment=comment,
            labeler=labeler,
            idempotency_key=idempotency_key,
        )

    def skip(
        self,
        task_id: str,
        *,
        comment: str | None = None,
        labeler: str | None = None,
        idempotency_key: str | None = None,
    ) -> Verdict:
        """Says nothing of the answers; the task goes to somebody else."""
        return self._say(task_id, verdict="skip", comment=comment, labeler=labeler, idempotency_key=idempotency_key)

    def progress(self) -> Progress:
        """How far the tasks are, and what each labeler did. For labelers and admins."""
        return self._get(_PROGRESS, "labeling/progress")

    def agreement(self) -> Agreement:
        """How much the labelers agree. For admins."""
        return self._get(_AGREEMENT, "labeling/agreement")

    def _judge(self, answer: AnswerRef, kind: Kind, value: Any, details: Details) -> Feedback:
        key = details.get("idempotency_key") or uuid4().hex
        body = {**details, **_named(answer), "kind": kind, "value": value, "idempotency_key": key}
        return _there(self._server.send(_FEEDBACK, "POST", "feedback", body=body))

    def _say(self, task_id: str, **said: Any) -> Verdict:
        path = f"labeling/tasks/{quote(task_id, safe='')}/rankings"
        said["idempotency_key"] = said["idempotency_key"] or uuid4().hex
        return _there(self._server.send(_VERDICT, "POST", path, body=said))

    def _get(self, result: TypeAdapter[ResultT], path: str, params: dict[str, Any] | None = None) -> ResultT:
        return _there(self._server.send(result, "GET", path, params=params))


def _named(answer: AnswerRef) -> dict[str, Any]:
    completion_id, choice = answer
    return {"completion_id": completion_id, "choice": choice}


def _group(given: AnswerRef | Sequence[AnswerRef]) -> list[AnswerRef]:
    """One answer is a group of its own."""
    if given and isinstance(given[0], str):
        return [cast(AnswerRef, given)]
    return list(cast(Sequence[AnswerRef], given))


def _there(result: ResultT | None) -> ResultT:
    """Only a lease may be answered with nothing."""
    if result is None:
        raise HonedError("the server's answer is empty: see that it is a honed server of this version")
    return result
