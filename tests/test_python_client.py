"""The Python client: every call against the real application, and when it sends again what got lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from completions import count
from conftest import LiveServer, running
from labeling_tasks import TEXTS, make_task
from pydantic import SecretStr
from sqlalchemy import Engine

from honed.clients.objects import LeasedTask, Message
from honed.clients.python import Answer, Comparison, Honed, HonedError
from honed.server.settings import Settings
from honed.server.store.database import database_url, open_database
from honed.server.store.tables import Feedback, Task

pytestmark = pytest.mark.usefixtures("fake_engine")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with running(Settings(logging="all", home=tmp_path)) as live:
        yield live


@pytest.fixture
def honed(server: LiveServer) -> Iterator[Honed]:
    with Honed(server.url) as client:
        yield client


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    """The server's."""
    engine = open_database(database_url(None, tmp_path))
    yield engine
    engine.dispose()


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited before each further try."""
    waits: list[float] = []
    monkeypatch.setattr("honed.clients.retries.sleep", waits.append)
    return waits


def lose_first_response(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """The server gets every request; the answer to the first does not come back."""
    requests: list[httpx.Request] = []
    send = httpx.HTTPTransport.handle_request

    def handle(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        requests.append(request)
        response = send(self, request)
        if len(requests) == 1:
            response.read()
            response.close()
            raise httpx.ReadError("the connection broke off", request=request)
        return response

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    return requests


def ask(server: LiveServer, content: str = "Hi", n: int = 1) -> str:
    messages: Any = [{"role": "user", "content": content}]
    with server.openai() as client:
        return str(client.chat.completions.create(model="honed", messages=messages, n=n).id)


def refused(call: Callable[[], object]) -> HonedError:
    with pytest.raises(HonedError) as caught:
        call()
    return caught.value


# Feedback


def test_it_judges_what_openais_client_was_answered(server: LiveServer, honed: Honed) -> None:
    completion_id = ask(server)
    given = honed.thumb(completion_id, up=True)
    assert (given.completion_id, given.choice, given.kind, given.value) == (completion_id, 0, "thumb", "up")
    assert (given.source, given.labeler, given.policy, given.metadata) == ("user", None, "ckpt-fake", {})
    assert abs(given.created - datetime.now(UTC)) < timedelta(minutes=1)
    assert list(honed.feedback()) == [given]


def test_every_kind_comes_back_as_it_was_given(server: LiveServer, honed: Honed) -> None:
    one, two = ask(server, n=3), ask(server)
    a, b, c, d = Answer(one), Answer(one, 1), Answer(one, 2), Answer(two)
    given = [
        honed.thumb(one, up=False, choice=2),
        honed.rate(one, 7),
        honed.correct(one, "As it should have been."),
        honed.comment(one, "Too long."),
        honed.compare(b, d),
        honed.compare((one, 0), (one, 1), tie=True),
        honed.rank([d, [a, c], b]),
        honed.rank([[(one, 1)], [(one, 0)]]),
    ]
    assert [(each.kind, each.value) for each in given] == [
        ("thumb", "down"),
        ("rating", 7),
        ("correction", "As it should have been."),
        ("comment", "Too long."),
        ("comparison", Comparison(b, d, tie=False)),
        ("comparison", Comparison(a, b, tie=True)),
        ("ranking", ((d,), (a, c), (b,))),
        ("ranking", ((b,), (a,))),
    ]
    assert [(each.completion_id, each.choice) for each in (given[0], given[4], given[6])] == [(one, 2), b, d]
    assert list(honed.feedback(order="asc")) == given


def test_details_are_sent(server: LiveServer, honed: Honed) -> None:
    given = honed.rate(ask(server), 3, labeler="ann", source="automatic", metadata={"run": "7"})
    assert (given.labeler, given.source, given.metadata) == ("ann", "automatic", {"run": "7"})


def test_feedback_is_read_page_by_page(server: LiveServer, honed: Honed, monkeypatch: pytest.MonkeyPatch) -> None:
    completion_id = ask(server)
    given = [honed.rate(completion_id, value) for value in (1, 2, 3, 4, 5)]
    pages: list[httpx.URL] = []
    send = httpx.HTTPTransport.handle_request

    def handle(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        pages.append(request.url)
        return send(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    listed = honed.feedback(page_size=2)
    assert not pages, "nothing is asked for before it is read"
    assert list(islice(listed, 2)) == [given[4], given[3]]
    assert len(pages) == 1
    assert list(listed) == [given[2], given[1], given[0]]
    assert len(pages) == 3


def test_feedback_is_filtered(server: LiveServer, honed: Honed) -> None:
    one, two = ask(server, "One"), ask(server, "Two")
    thumb, rating = honed.thumb(one, up=True), honed.rate(two, 4, labeler="ann")
    assert list(honed.feedback(kind="thumb")) == [thumb]
    assert list(honed.feedback(completion_id=two)) == [rating]
    assert list(honed.feedback(labeler="ann")) == [rating]
    assert list(honed.feedback(policy="ckpt-fake", after=rating.id)) == [thumb]
    assert list(honed.feedback(policy="another")) == []


def test_a_refusal_has_the_servers_words(server: LiveServer, honed: Honed, waits_s: list[float]) -> None:
    error = refused(lambda: honed.thumb("chatcmpl-none", up=True))
    assert (error.status, error.code, error.param) == (404, "not_found", "completion_id")
    assert error.message == str(error) == "There is no such answer."
    error = refused(lambda: honed.rate("chatcmpl-none", 8))
    assert (error.status, error.code, error.param) == (400, "integer_above_max_value", "value")
    assert not waits_s, "what is refused for good is not sent again"


def test_a_key_is_needed_where_the_server_has_keys(tmp_path: Path) -> None:
    keys = (SecretStr("sk-ann"), SecretStr("sk-lab role=labeler"))
    with (
        running(Settings(logging="all", home=tmp_path, api_keys=keys)) as server,
        Honed(server.url) as nobody,
        Honed(server.url, "sk-ann") as ann,
        Honed(f"{server.url}/v1", "sk-lab") as lab,
    ):
        assert refused(nobody.progress).status == 401
        error = refused(ann.progress)
        assert (error.status, error.code) == (403, "insufficient_permissions")
        assert lab.progress().open == 0
        assert lab.lease_task() is None


@pytest.mark.parametrize("groups", [[], [[]]])
def test_a_ranking_of_nothing_is_refused_here(groups: list[list[Answer]], honed: Honed) -> None:
    assert refused(lambda: honed.rank(groups)).param == "value"


# What is sent again


def test_a_judgement_whose_answer_got_lost_is_counted_once(
    server: LiveServer, honed: Honed, database: Engine, monkeypatch: pytest.MonkeyPatch, waits_s: list[float]
) -> None:
    completion_id = ask(server)
    requests = lose_first_response(monkeypatch)
    given = honed.thumb(completion_id, up=True)
    assert len(requests) == 2
    assert requests[0].content == requests[1].content
    assert len(waits_s) == 1
    assert list(honed.feedback()) == [given]
    assert count(database, Feedback) == 1


def test_two_calls_are_two_judgements(server: LiveServer, honed: Honed) -> None:
    completion_id = ask(server)
    assert honed.thumb(completion_id, up=True).id != honed.thumb(completion_id, up=True).id
    assert len(list(honed.feedback())) == 2


def test_an_idempotency_key_may_be_given(server: LiveServer, honed: Honed) -> None:
    completion_id = ask(server)
    first = honed.thumb(completion_id, up=True, idempotency_key="once")
    assert honed.thumb(completion_id, up=True, idempotency_key="once") == first
    error = refused(lambda: honed.thumb(completion_id, up=False, idempotency_key="once"))
    assert (error.status, error.code, error.param) == (400, "idempotency_key_reused", "idempotency_key")


# Labeling


def taken(honed: Honed, labeler: str | None = None) -> LeasedTask:
    task = honed.lease_task(labeler)
    assert task is not None
    return task


def letters(task: LeasedTask, texts: Sequence[str]) -> list[str]:
    labels = {answer.text: answer.label for answer in task.answers}
    return [labels[text] for text in texts]


def test_a_labeler_ranks(honed: Honed, database: Engine) -> None:
    made = make_task(database)
    task = taken(honed, "ann")
    assert task == taken(honed, "ann"), "the same until it is judged"
    assert task.id == made.id
    assert task.messages == (Message("user", "What is the capital of France?"),)
    assert {answer.text for answer in task.answers} == set(TEXTS)
    assert timedelta() < task.leased_until - datetime.now(UTC) < timedelta(hours=1)
    first, second, third, last = letters(task, TEXTS)
    verdict = honed.submit_ranking(
        task.id, [first, sorted([second, third]), last], demonstration="Paris!", comment="Easy.", labeler="ann"
    )
    assert (verdict.id, verdict.labeler, verdict.verdict) == (task.id, "ann", "ranked")
    assert verdict.ranking == ((first,), tuple(sorted([second, third])), (last,))
    assert honed.lease_task("ann") is None
    given = {each.kind: each for each in honed.feedback(labeler="ann")}
    assert set(given) == {"ranking", "correction", "comment"}
    assert given["correction"].value == "Paris!"
    best = Answer(made.completion_id, TEXTS.index("Paris."))
    assert given["ranking"].value == (
        (best,),
        (best._replace(choice=1), best._replace(choice=2)),
        (best._replace(choice=3),),
    )


def test_a_labeler_skips_and_finds_all_bad(honed: Honed, database: Engine) -> None:
    for prompt in ("One", "Two"):
        make_task(database, prompt)
    task = taken(honed, "ann")
    assert honed.skip(task.id, labeler="ann", comment="Not mine.").verdict == "skip"
    other = taken(honed, "ann")
    assert other.id != task.id
    verdict = honed.all_bad(other.id, labeler="ann", demonstration="Better.")
    assert (verdict.verdict, verdict.ranking) == ("all_bad", None)
    progress = honed.progress()
    assert (progress.open, progress.done, progress.skipped, progress.all_bad, progress.ranked) == (1, 1, 1, 1, 0)
    assert [(one.labeler, one.skipped, one.all_bad) for one in progress.labelers] == [("ann", 1, 1)]


def test_a_verdict_whose_answer_got_lost_is_counted_once(
    honed: Honed, database: Engine, monkeypatch: pytest.MonkeyPatch, waits_s: list[float]
) -> None:
    make_task(database)
    task = taken(honed)
    requests = lose_first_response(monkeypatch)
    honed.submit_ranking(task.id, letters(task, TEXTS), comment="Once.")
    assert len(requests) == 2
    assert count(database, Feedback) == 2, "a ranking and a comment"


def test_verdicts_that_are_refused(honed: Honed, database: Engine) -> None:
    make_task(database)
    error = refused(lambda: honed.skip("task-none"))
    assert (error.status, error.param) == (404, "task_id")
    assert refused(lambda: honed.skip("../progress?")).status == 404
    task = taken(honed)
    error = refused(lambda: honed.submit_ranking(task.id, ["A", "B"]))
    assert (error.status, error.code, error.param) == (400, "invalid_value", "ranking")
    honed.skip(task.id)
    assert refused(lambda: honed.all_bad(task.id)).code == "already_judged"


def test_labelers_agree(honed: Honed, database: Engine) -> None:
    make_task(database, wanted=2)
    assert honed.agreement().pairwise is None
    for labeler in ("ann", "ben"):
        task = taken(honed, labeler)
        honed.submit_ranking(task.id, letters(task, TEXTS), labeler=labeler)
    agreement = honed.agreement()
    assert agreement.pairwise is not None
    assert (agreement.pairwise.value, agreement.pairwise.pairs, agreement.alpha) == (1.0, 6, 1.0)
    assert [one.labeler for one in agreement.labelers] == ["ann", "ben"]
    assert agreement.labelers[0].tie_rate == 0.0


def test_tasks_are_made_of_stored_prompts(server: LiveServer, honed: Honed, database: Engine) -> None:
    honed.thumb(ask(server, "What is the capital of France?"), up=True)  # then it is stored
    made = honed.create_tasks(1, 4, labelers=2, max_tokens=16, seed=1)
    assert made.data == ()
    assert sum(made.passed_over.values()) == 1, "this engine gives one answer four times"
    assert made.stopped == "no_prompts"
    assert count(database, Task) == 0
