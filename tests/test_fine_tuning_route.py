"""`/v1/fine_tuning/jobs` through the official client: what clients see of a job, and who may change it when."""

from __future__ import annotations

import itertools
from typing import Any

import fine_tuning_server
import httpx
import openai
import pytest
from conftest import LiveServer
from fine_tuning_server import claim, client, create, stored
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from sqlalchemy import Engine

from honed.server.store import jobs
from honed.server.store.database import writing

pytestmark = pytest.mark.usefixtures("fake_engine")
server, api = fine_tuning_server.server, fine_tuning_server.api


@pytest.fixture(autouse=True)
def _ids_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made in the same millisecond too."""
    numbers = itertools.count(1)
    monkeypatch.setattr(jobs, "new_id", lambda prefix: f"{prefix}-{next(numbers):032x}")


def test_only_admins_make_and_change_jobs(server: LiveServer, api: OpenAI) -> None:
    job = create(api)
    for name in ("ann", "lab"):
        with client(server, name) as other:
            assert list(other.fine_tuning.jobs.list()) == []
            for call in (other.fine_tuning.jobs.cancel, other.fine_tuning.jobs.pause, other.fine_tuning.jobs.resume):
                with pytest.raises(openai.PermissionDeniedError):
                    call(job.id)
            with pytest.raises(openai.PermissionDeniedError):
                create(other)
            for call in (other.fine_tuning.jobs.retrieve, other.fine_tuning.jobs.list_events):
                with pytest.raises(openai.NotFoundError):
                    call(job.id)
    with client(server, "boss") as boss:
        assert boss.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_lists_have_pages_and_are_narrowed_by_metadata(server: LiveServer, api: OpenAI) -> None:
    odd = {'a "b" \\ $.[0]': "x'\"%"}
    given: list[dict[str, str]] = [{}, {"team": "a"}, {"team": "a", "n": "2"}, {"team": "b"}, odd]
    ids = [create(api, metadata=metadata).id for metadata in given]

    def listed(**query: Any) -> list[str]:
        return [each.id for each in api.fine_tuning.jobs.list(**query)]

    assert listed(limit=2) == ids[::-1], "the client turns the pages"
    page = api.fine_tuning.jobs.list(limit=2, after=ids[3])
    assert ([each.id for each in page.data], page.has_next_page()) == ([ids[2], ids[1]], True)
    assert listed(metadata={"team": "a"}) == [ids[2], ids[1]]
    assert listed(metadata={"team": "a", "n": "2"}) == [ids[2]]
    assert listed(metadata=odd) == [ids[4]]
    assert listed(metadata={"n": "3"}) == []
    root = {"authorization": "Bearer sk-root"}
    without = httpx.get(f"{server.url}/v1/fine_tuning/jobs?metadata=null", headers=root).json()
    assert [each["id"] for each in without["data"]] == [ids[0]]
    for query, param in (("limit=0", "limit"), ("limit=1001", "limit"), ("metadata=x", "metadata")):
        response = httpx.get(f"{server.url}/v1/fine_tuning/jobs?{query}", headers=root)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_waiting_job_is_paused_resumed_and_cancelled_at_once(api: OpenAI) -> None:
    job_id = create(api).id
    assert api.fine_tuning.jobs.pause(job_id).status == "paused"
    assert api.fine_tuning.jobs.resume(job_id).status == "queued"
    cancelled = api.fine_tuning.jobs.cancel(job_id)
    assert (cancelled.status, cancelled.finished_at is not None) == ("cancelled", True)
    calls = {"paused": api.fine_tuning.jobs.pause, "resumed": api.fine_tuning.jobs.resume,
             "cancelled": api.fine_tuning.jobs.cancel}  # fmt: skip
    for done, call in calls.items():
        with pytest.raises(openai.BadRequestError, match=f"The job is cancelled: it cannot be {done}") as refused:
            call(job_id)
        assert refused.value.code == "invalid_job_state"
    said = [event.message for event in api.fine_tuning.jobs.list_events(job_id)]
    assert said == ["The job is cancelled.", "The job is queued.", "The job is paused.", "The job is queued."]


def test_a_running_job_is_told_to_its_worker(api: OpenAI, store: Engine) -> None:
    job_id = create(api).id
    worker = claim(store)
    assert api.fine_tuning.jobs.pause(job_id).status == "running"
    with writing(store) as connection:
        assert jobs.beat(connection, worker) == "pause"
        jobs.put_down(connection, worker)
    assert api.fine_tuning.jobs.retrieve(job_id).status == "paused"
    assert api.fine_tuning.jobs.resume(job_id).status == "queued"
    worker = claim(store)
    assert api.fine_tuning.jobs.cancel(job_id).status == "running"
    with pytest.raises(openai.BadRequestError, match="The job is about to be cancelled: it cannot be resumed"):
        api.fine_tuning.jobs.resume(job_id)
    with writing(store) as connection:
        assert jobs.put_down(connection, worker) == "cancelled"
    assert api.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


def test_a_job_that_succeeds_shows_what_it_made(api: OpenAI, store: Engine) -> None:
    job_id = create(api).id
    assert list(api.fine_tuning.jobs.checkpoints.list(job_id)) == []
    metrics = {"train/loss": 0.5, "validation/loss": 0.75, "validation/score": 1.5, "train/accuracy": None}
    made = [{"step": 3, "metrics": {}}, {"step": 6, "metrics": metrics}]
    result = {"fine_tuned_model": "ft:fake::1", "trained_tokens": 1234, "checkpoints": made}
    worker = claim(store)
    with writing(store) as connection:
        jobs.finish(connection, worker, result=result)
    job = api.fine_tuning.jobs.retrieve(job_id)
    FineTuningJob.model_validate(job.model_dump(), strict=True)
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("succeeded", "ft:fake::1", 1234)
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at

    last, first = api.fine_tuning.jobs.checkpoints.list(job_id)
    FineTuningJobCheckpoint.model_validate(last.model_dump(), strict=True)
    assert (last.object, last.fine_tuning_job_id) == ("fine_tuning.job.checkpoint", job_id)
    assert (last.step_number, last.fine_tuned_model_checkpoint) == (6, "ft:fake::1")
    assert last.metrics.model_dump(exclude_unset=True) == {
        "step": 6, "train_loss": 0.5, "full_valid_loss": 0.75, "validation/score": 1.5
    }  # fmt: skip
    page = api.fine_tuning.jobs.checkpoints.list(job_id, limit=1)
    assert ([each.id for each in page.data], page.has_next_page()) == ([last.id], True)
    assert [each.id for each in page.get_next_page().data] == [first.id]


def test_a_job_that_fails_says_why(api: OpenAI, store: Engine) -> None:
    job_id = create(api).id
    worker = claim(store)
    with writing(store) as connection:
        jobs.finish(connection, worker, error="settings: nonsense")
    job = api.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.model_dump() == {"code": "training_failed", "message": "settings: nonsense", "param": None}
    with pytest.raises(openai.BadRequestError, match="The job is failed: it cannot be resumed"):
        api.fine_tuning.jobs.resume(job_id)


def test_events_are_read_page_by_page(api: OpenAI, store: Engine) -> None:
    job_id = create(api).id
    other = create(api).id
    with writing(store) as connection:
        jobs.add_event(connection, job_id, "Step 1", data={"step": 1, "train/loss": 0.5})
        jobs.add_event(connection, job_id, "Trouble", level="error")
    events = list(api.fine_tuning.jobs.list_events(job_id, limit=1))
    assert [event.message for event in events] == ["Trouble", "Step 1", "The job is queued."]
    trouble, step, queued = events
    assert (trouble.level, trouble.type, trouble.data) == ("error", "message", {})
    assert (step.level, step.type, step.data) == ("info", "metrics", {"step": 1, "train/loss": 0.5})
    assert (queued.object, queued.id.startswith("ftevent-")) == ("fine_tuning.job.event", True)
    assert [event.message for event in api.fine_tuning.jobs.list_events(other)] == ["The job is queued."]


def test_other_kinds_of_jobs_are_none_of_these(api: OpenAI, store: Engine) -> None:
    with writing(store) as connection:
        other = jobs.enqueue(connection, "another", payload={})
    assert list(api.fine_tuning.jobs.list()) == []
    api_jobs = api.fine_tuning.jobs
    for call in (api_jobs.retrieve, api_jobs.cancel, api_jobs.list_events, api_jobs.checkpoints.list):
        for job_id in (other, "ftjob-none"):
            with pytest.raises(openai.NotFoundError) as refused:
                call(job_id)
            assert refused.value.param == "fine_tuning_job_id"
    assert stored(store, other).state == "queued"


def test_the_document_has_them(server: LiveServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    base = "/v1/fine_tuning/jobs"
    paths = {path: set(methods) for path, methods in document["paths"].items() if path.startswith(base)}
    one = f"{base}/{{fine_tuning_job_id}}"
    assert paths == {
        base: {"get", "post"}, one: {"get"},
        **{f"{one}/{verb}": {"post"} for verb in ("cancel", "pause", "resume")},
        **{f"{one}/{what}": {"get"} for what in ("events", "checkpoints")},
    }  # fmt: skip
    body = document["paths"][base]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model", "training_file"]
    assert "Hyperparameters" in document["components"]["schemas"]
