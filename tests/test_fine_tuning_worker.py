"""Fine-tuning as OpenAI's client knows it, from the upload to a chat with what came of it, with a real worker."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import running
from fine_tuning_server import client, create
from pydantic import SecretStr
from toy_runs import WORDS, make_home, write_rows

from honed.server.settings import Settings
from honed.server.store.database import database_url, open_database
from honed.training.worker import Worker


def _row(word: str) -> dict[str, Any]:
    turns = (("user", word), ("assistant", word[::-1]))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_model_is_trained_and_asked_by_the_official_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONED_HOME", str(tmp_path))
    monkeypatch.delenv("HONED_DATABASE_URL", raising=False)
    make_home(tmp_path)
    rows = write_rows(tmp_path / "rows.jsonl", map(_row, WORDS))
    settings = Settings(
        home=tmp_path, model="tiny", dtype="float32", kv_cache_gib=0.01, api_keys=(SecretStr("sk-root role=admin"),)
    )
    with running(settings) as server:
        api = client(server, "root")
        file = api.files.create(file=("rows.jsonl", rows.read_bytes()), purpose="fine-tune")
        own = {"max_tokens": 64, "validation": 0, "dtype": "float32"}
        hyperparameters = {"n_epochs": 50, "batch_size": 3, "learning_rate_multiplier": 20}
        method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters, "settings": own}}
        job = create(api, model="honed", training_file=file.id, suffix="backwards", method=method)
        assert job.status == "queued"

        engine = open_database(database_url(None, tmp_path))
        Worker(engine, None, tmp_path, "cpu").work(threading.Event(), once=True)
        engine.dispose()

        job = api.fine_tuning.jobs.retrieve(job.id)
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model is not None
        assert job.fine_tuned_model.startswith("ft:tiny:backwards:")
        assert job.trained_tokens
        said = [event.message for event in api.fine_tuning.jobs.list_events(job.id, limit=100)]
        assert said[0] == f"The job made {job.fine_tuned_model}."
        assert sum(message.startswith("Step") for message in said) > 50
        (checkpoint,) = api.fine_tuning.jobs.checkpoints.list(job.id)
        assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model

        assert job.fine_tuned_model in [model.id for model in api.models.list()]
        for word in WORDS:
            chat = api.chat.completions.create(
                model=job.fine_tuned_model, messages=[{"role": "user", "content": word}], temperature=0, max_tokens=8
            )
            assert (chat.model, chat.choices[0].message.content) == (job.fine_tuned_model, word[::-1])
        before = api.chat.completions.create(
            model="honed", messages=[{"role": "user", "content": "one"}], temperature=0, max_tokens=8
        )
        assert (before.model, before.choices[0].message.content == "eno") == ("tiny", False)
