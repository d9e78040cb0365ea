"""The worker: jobs run in processes of their own, are paused, taken over and failed, and make what a run makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import eventually
from sqlalchemy import Engine, insert
from toy_runs import make_home, sft, train, weights

from honed.server.store import jobs
from honed.server.store.database import database_url, open_database, reading, writing
from honed.server.store.jobs import StoredJob
from honed.server.store.migrations import migrate
from honed.server.store.tables import File, FilePart
from honed.training import worker
from honed.training.orders import KIND, model_name
from honed.training.worker import Worker

FILE = "file-1"
SETTINGS = {"dtype": "float32", "max_tokens": 64, "validation": 3, "tokens_per_pass": 20, "save_every": 2}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONED_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many as here: with others the numbers round differently
    monkeypatch.delenv("HONED_DATABASE_URL", raising=False)
    return make_home(tmp_path)


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    engine = open_database(database_url(None, home))
    migrate(engine)
    content = (home / "demonstrations.jsonl").read_bytes()
    row = {"id": FILE, "created": datetime.now(UTC), "name": "x", "purpose": "fine-tune", "key_id": "k"}
    with writing(engine) as connection:
        connection.execute(insert(File).values(**row, num_bytes=len(content)))
        for position, part in enumerate((content[:50], content[50:])):
            connection.execute(insert(FilePart).values(file_id=FILE, position=position, content=part))
    yield engine
    engine.dispose()


def order(engine: Engine, *, epochs: int = 2, **changes: Any) -> str:
    hyperparameters = {"n_epochs": epochs, "batch_size": 3, "learning_rate_multiplier": 10}
    asked = {"model": "tiny", "method": "supervised", "training_file": FILE, "suffix": "x", "settings": SETTINGS}
    with writing(engine) as connection:
        payload = asked | {"hyperparameters": hyperparameters} | changes
        return jobs.enqueue(connection, KIND, payload=payload, prefix="ftjob")


def job(engine: Engine, job_id: str) -> StoredJob:
    with reading(engine) as connection:
        found = jobs.load(connection, job_id)
    assert found is not None
    return found


def messages(engine: Engine, job_id: str) -> list[str]:
    with reading(engine) as connection:
        return [event.message for event in reversed(jobs.events(connection, job_id, limit=1000))]


def has_begun(engine: Engine, job_id: str, *, before: int = 0) -> Callable[[], bool]:
    """Whether there are more steps than `before`."""
    return lambda: sum(message.startswith("Step") for message in messages(engine, job_id)) > before


@contextmanager
def at_work(home: Path, engine: Engine) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=Worker(engine, None, home, "cpu").work, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


def same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_job_makes_what_a_run_makes(home: Path, engine: Engine) -> None:
    wrong = order(engine, settings={"nonsense": 1})
    right = order(engine)
    gone = order(engine, training_file="file-2")
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)

    name = model_name(right, job(engine, right).payload)
    assert job(engine, right).state == "succeeded"
    assert job(engine, right).result["fine_tuned_model"] == name
    assert job(engine, right).result["trained_tokens"] > 0
    steps = [message.split(":")[0] for message in messages(engine, right) if message.startswith("Step")]
    assert list(dict.fromkeys(steps)) == [f"Step {n}" for n in range(7)]
    assert messages(engine, right)[-1] == f"The job made {name}."
    train(home, sft(home, output="alone", learning_rate=1e-3))
    assert same(weights(home, name), weights(home, "alone"))

    assert job(engine, wrong).state == "failed"
    assert "nonsense" in str(job(engine, wrong).error)
    assert "file-2 was deleted" in str(job(engine, gone).error)
    assert [*home.glob("jobs/*/training.jsonl")] == []


def test_a_training_process_that_dies_fails_its_job_alone(home: Path, engine: Engine) -> None:
    doomed, spared = order(engine, epochs=200), order(engine)
    with at_work(home, engine):
        eventually(has_begun(engine, doomed))
        (process,) = psutil.Process().children()
        process.kill()
        eventually(lambda: job(engine, spared).state == "succeeded")
    assert job(engine, doomed).state == "failed"
    assert "killed by signal 9" in str(job(engine, doomed).error)
    assert not (home / "models" / model_name(doomed, job(engine, doomed).payload)).exists()


def test_a_job_survives_its_worker_and_a_pause(home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = order(engine, epochs=100)
    command = [sys.executable, "-c", "from honed.cli import app; app()", "worker", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as first:
        eventually(has_begun(engine, kept))
        (process,) = psutil.Process(first.pid).children()
        os.kill(first.pid, signal.SIGKILL)
        process.wait(60)  # it ends with its worker
    assert job(engine, kept).state == "running"

    monkeypatch.setattr(worker, "STALE", timedelta(seconds=0.1))
    seen = len(messages(engine, kept))
    with at_work(home, engine):
        eventually(has_begun(engine, kept, before=seen))
        with writing(engine) as connection:
            assert jobs.ask(connection, kept, "pause")
        eventually(lambda: job(engine, kept).state == "paused")
        with writing(engine) as connection:
            assert jobs.ask(connection, kept, "resume")
        eventually(lambda: job(engine, kept).state == "succeeded")
    train(home, sft(home, output="alone", epochs=100))
    assert same(weights(home, job(engine, kept).result["fine_tuned_model"]), weights(home, "alone"))


def test_a_job_that_is_cancelled_or_whose_worker_stops(home: Path, engine: Engine) -> None:
    cancelled, put_back = order(engine, epochs=200), order(engine, epochs=200)
    with at_work(home, engine) as stop:
        eventually(has_begun(engine, cancelled))
        with writing(engine) as connection:
            assert jobs.ask(connection, cancelled, "cancel")
        eventually(lambda: job(engine, cancelled).state == "cancelled")
        eventually(lambda: job(engine, put_back).state == "running")
        stop.set()
        eventually(lambda: job(engine, put_back).state == "queued")
    assert psutil.Process().children() == []
