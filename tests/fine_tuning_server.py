"""Servers with keys of every role, and what clients and workers do with fine-tuning jobs. A test module has the
fixtures `server` and `api` where it names them as its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, running
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from honed.server.settings import Settings
from honed.server.store import jobs
from honed.server.store.database import reading, writing
from honed.server.store.jobs import ClaimedJob, StoredJob
from honed.server.store.snapshots import register_checkpoint

KEYS = ("sk-ann", "sk-lab role=labeler", "sk-root role=admin", "sk-boss role=admin")
ROWS = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'
ABSENT = object()


def started(url: URL, home: Path, **more: Any) -> running:
    secret = SecretStr(url.render_as_string(hide_password=False))
    return running(Settings(home=home, database_url=secret, api_keys=tuple(map(SecretStr, KEYS)), **more))


@pytest.fixture
def server(store_url: URL, tmp_path: Path) -> Iterator[LiveServer]:
    with started(store_url, tmp_path) as live:
        yield live


@pytest.fixture
def api(server: LiveServer) -> Iterator[OpenAI]:
    with client(server, "root") as root:
        yield root


def client(server: LiveServer, name: str) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=f"sk-{name}", max_retries=0)


def upload(api: OpenAI) -> str:
    return api.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune").id


def create(api: OpenAI, **fields: Any) -> FineTuningJob:
    return api.fine_tuning.jobs.create(**{"model": "honed", "training_file": "store:"} | fields)


def post(server: LiveServer, key: str = "root", **fields: Any) -> httpx.Response:
    body = {"model": "honed", "training_file": "store:"} | fields
    body = {name: value for name, value in body.items() if value is not ABSENT}
    headers = {"authorization": f"Bearer sk-{key}"}
    return httpx.post(f"{server.url}/v1/fine_tuning/jobs", json=body, headers=headers)


def stored(store: Engine, job_id: str) -> StoredJob:
    with reading(store) as connection:
        job = jobs.load(connection, job_id)
    assert job is not None
    return job


def payload(store: Engine, job_id: str) -> dict[str, Any]:
    return stored(store, job_id).payload


def claim(store: Engine) -> ClaimedJob:
    """As a worker does."""
    with writing(store) as connection:
        job = jobs.claim(connection, "fine_tuning", device="here/cpu")
    assert job is not None
    return job


def register(store: Engine, name: str, stage: str = "sft", parent_id: str | None = None) -> None:
    with writing(store) as connection:
        register_checkpoint(
            connection, id=f"ckpt-{name}", created=datetime.now(UTC), name=name, stage=stage, parent_id=parent_id,
            snapshot_id=None, folder=name, settings={}, metrics={},
        )  # fmt: skip
