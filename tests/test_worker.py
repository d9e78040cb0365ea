"""The worker: jobs run in processes of their own, are paused, taken over and failed, and make what a run makes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import eventually
from databases import Postgres
from filelock import FileLock
from sqlalchemy import Engine, insert, text
from toy_runs import WORDS, begin, make_home, record, reward, sft, train, weights, write_rows

from honed.server.store import jobs
from honed.server.store.database import database_url, open_database, reading, writing
from honed.server.store.jobs import StoredEvent, StoredJob
from honed.server.store.migrations import migrate
from honed.server.store.tables import File, FilePart
from honed.training import job as job_process
from honed.training import worker
from honed.training.configs import KTOConfig
from honed.training.orders import KIND, model_name, run_config
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
    upload(engine, FILE, home / "demonstrations.jsonl")
    yield engine
    engine.dispose()


def upload(engine: Engine, file_id: str, path: Path) -> str:
    content = path.read_bytes()
    row = {"id": file_id, "created": datetime.now(UTC), "name": "x", "purpose": "fine-tune", "key_id": "k"}
    with writing(engine) as connection:
        connection.execute(insert(File).values(**row, num_bytes=len(content)))
        for position, part in enumerate((content[:50], content[50:])):
            connection.execute(insert(FilePart).values(file_id=file_id, position=position, content=part))
    return file_id


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


def events(engine: Engine, job_id: str) -> list[StoredEvent]:
    """The oldest first."""
    with reading(engine) as connection:
        return jobs.events(connection, job_id, limit=1000)[::-1]


def messages(engine: Engine, job_id: str) -> list[str]:
    return [event.message for event in events(engine, job_id)]


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


@contextmanager
def a_worker() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from honed.cli import app; app()", "worker", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        yield process


def ask(engine: Engine, job_id: str, wanted: Any) -> None:
    with writing(engine) as connection:
        assert jobs.ask(connection, job_id, wanted)


def copied(home: Path, job_id: str, file: str = "demonstrations.jsonl") -> str:
    """The copy of the upload that a job's process makes."""
    folder = home / "jobs" / job_id
    folder.mkdir(parents=True)
    return str(shutil.copy(home / file, folder / "training.jsonl"))


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


@pytest.mark.parametrize("method", ["supervised", "dpo", "kto", "reward"])
def test_a_job_is_measured_on_a_file_of_its_own(home: Path, engine: Engine, method: str) -> None:
    def row(word: str, n: int) -> dict[str, Any]:
        if method == "supervised":
            return {"prompt": word, "completion": word[::-1]}
        if method == "kto":
            return {"prompt": word, "completion": word[::-1], "label": n % 2 == 0}
        return {"prompt": word, "answers": [{"text": word, "rank": 1}, {"text": word[::-1], "rank": 2}]}

    rows = [row(word, n) for n, word in enumerate(WORDS)]
    training = upload(engine, "file-2", write_rows(home / "some.jsonl", rows[:9]))
    validation = upload(engine, "file-3", write_rows(home / "others.jsonl", rows[8:]))
    own = {"dtype": "float32", "max_tokens": 64, "save_every": 2}
    asked = order(engine, epochs=1, method=method, training_file=training, validation_file=validation, settings=own)
    gone = order(engine, epochs=1, training_file=training, validation_file="file-4", settings=own)
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)

    assert job(engine, asked).state == "succeeded", job(engine, asked).error
    (made,) = job(engine, asked).result["checkpoints"]
    assert made["metrics"]["validation/loss"] > 0
    card = record(home, job(engine, asked).result["fine_tuned_model"])["dataset"]
    assert (card["splits"]["train"]["examples"], card["splits"]["validation"]["examples"]) == (9, 3)
    assert card["left_out"] == {"to measure on, of a prompt that is trained on": 1}
    assert str(job(engine, gone).error).startswith("validation_file: file-4 was deleted")
    assert not [*home.glob("jobs/*/*.jsonl"), *home.glob("jobs/*/.*.partial")]


def test_ppo_keeps_the_language_of_the_texts_that_the_operator_names(
    home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a run that was cut off of those that it began with."""
    train(home, reward(home, output="judge", epochs=1))
    prompts = upload(engine, "file-2", home / "prompts.jsonl")
    own = {
        "dtype": "float32",
        "max_tokens": 64,
        "validation": 3,
        "iterations": 2,
        "save_every": 1,
        "samples_per_prompt": 2,
        "max_new_tokens": 6,
        "ptx_examples": 2,
        "ptx_tokens": 12,
        "min_entropy": 0.0,
    }
    asked: dict[str, Any] = {"method": "ppo", "reward_model": "judge", "training_file": prompts, "settings": own}
    mixed, cut_off = (order(engine, hyperparameters={"batch_size": 8}, **asked) for _ in range(2))
    before, now = home / "texts.jsonl", home / "others.jsonl"
    shutil.copy(before, now)
    data = copied(home, cut_off, "prompts.jsonl")
    environment = {"HONED_PRETRAINING": str(before)}
    payload = job(engine, cut_off).payload
    begin(home, run_config(cut_off, payload, environment, data=data, device="cpu", resume=False), 1)
    monkeypatch.setenv("HONED_PRETRAINING", str(now))
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)

    for job_id, texts in ((mixed, now), (cut_off, before)):
        assert job(engine, job_id).state == "succeeded", job(engine, job_id).error
        (made,) = job(engine, job_id).result["checkpoints"]
        assert made["metrics"]["ppo/ptx_loss"] > 0
        assert made["metrics"]["validation/language_loss"] > 0
        assert record(home, job(engine, job_id).result["fine_tuned_model"])["settings"]["pretraining"] == str(texts)


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
    with a_worker() as first:
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


def stop_without_a_lock(process: subprocess.Popen[bytes], engine: Engine) -> None:
    """With SIGSTOP, but not within a transaction, where it would lock everybody out of an SQLite store."""
    while True:
        process.send_signal(signal.SIGSTOP)
        connection = sqlite3.connect(str(engine.url.database), timeout=0.2)
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.05)  # for it to end the transaction that it was stopped in
        finally:
            connection.close()


def test_a_job_waits_for_the_process_of_a_worker_that_does_not_know_it_was_lost(
    home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = order(engine, epochs=2000)
    log = home / "jobs" / lost / "log.txt"
    with a_worker() as first:
        eventually(has_begun(engine, lost))
        (old,) = psutil.Process(first.pid).children()
        stop_without_a_lock(first, engine)  # as one that a store does not answer: its training goes on
        try:
            monkeypatch.setattr(worker, "STALE", timedelta(seconds=0.1))
            with at_work(home, engine):
                eventually(lambda: "waiting for its end" in log.read_text())
                assert (job(engine, lost).state, old.is_running()) == ("running", True)
                monkeypatch.setattr(worker, "STALE", timedelta(seconds=120))
                first.send_signal(signal.SIGCONT)
                old.wait(60)
                eventually(has_begun(engine, lost, before=len(messages(engine, lost))))
            assert job(engine, lost).state == "queued"
        finally:
            first.kill()


def test_a_process_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_process, "PATIENCE_S", 0.1)
    asked = io.StringIO(json.dumps({"folder": str(tmp_path)}) + "\n")
    monkeypatch.setattr(sys, "stdin", asked)
    monkeypatch.setattr(job_process, "_end_with_the_worker", lambda: None)
    with FileLock(tmp_path / ".lock"):
        assert job_process.main() == 1
    outcome = json.loads((tmp_path / "outcome.json").read_bytes())
    assert outcome["error"].startswith("Another process is at work on the job")


def began_on_a_gpu(home: Path, name: str) -> None:
    """What a run that was begun here says then."""
    facts = record(home, name)
    settings = facts["settings"] | {"device": "cuda:0", "tokens_per_pass": 0}
    (home / "runs" / name / "run.json").write_text(json.dumps(facts | {"settings": settings}))


def test_a_run_that_draws_dropout_begins_anew_on_a_device_of_another_kind(home: Path, engine: Engine) -> None:
    own = {"dropout": 0.1, "tokens_per_pass": 0}
    taken_over = order(engine, settings=SETTINGS | own)
    name = model_name(taken_over, job(engine, taken_over).payload)
    begin(home, sft(home, output=name, data=copied(home, taken_over), **own), 3)
    began_on_a_gpu(home, name)
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)

    assert job(engine, taken_over).state == "succeeded", job(engine, taken_over).error
    (warning,) = [event for event in events(engine, taken_over) if event.level == "warn"]
    assert warning.message == "The run began on cuda, which draws another dropout than cpu: it begins anew."
    train(home, sft(home, output="alone", **own))
    assert same(weights(home, name), weights(home, "alone"))


def test_kto_goes_on_with_the_passes_that_it_began_with(home: Path, engine: Engine) -> None:
    rows = [{"prompt": word, "completion": word[::-1], "label": n % 2 == 0} for n, word in enumerate(WORDS)]
    thumbs = upload(engine, "file-2", write_rows(home / "thumbs.jsonl", rows))
    own = {"dtype": "float32", "max_tokens": 64, "validation": 0, "save_every": 2, "lora": True}
    taken_over = order(engine, epochs=3, method="kto", training_file=thumbs, settings=own)
    name = model_name(taken_over, job(engine, taken_over).payload)

    def kto(**changes: Any) -> KTOConfig:
        config = run_config(taken_over, job(engine, taken_over).payload, {}, data=str(home / "thumbs.jsonl"),
                            device="cpu", resume=False)  # fmt: skip
        assert isinstance(config, KTOConfig)
        return config.model_copy(update={"tokens_per_pass": 4096} | changes)  # a GPU's

    begin(home, kto(data=copied(home, taken_over, "thumbs.jsonl")), 5)
    began_on_a_gpu(home, name)
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)

    assert job(engine, taken_over).state == "succeeded", job(engine, taken_over).error
    assert "The job goes on." not in messages(engine, taken_over), "it was begun by hand"
    said = [event.data["step"] for event in events(engine, taken_over) if event.kind == "metrics"]
    assert min(said) == 6, "it went on where it was cut off"
    train(home, kto(output="alone"))
    assert same(weights(home, name), weights(home, "alone"))


def test_a_run_that_has_its_weights_is_finished_on_any_device(home: Path, engine: Engine) -> None:
    taken_over = order(engine, settings=SETTINGS | {"dropout": 0.1})
    name = model_name(taken_over, job(engine, taken_over).payload)
    train(home, sft(home, output=name, data=copied(home, taken_over), dropout=0.1))
    (home / "runs" / name / "report.html").unlink()
    began_on_a_gpu(home, name)
    made = weights(home, name)
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)
    assert job(engine, taken_over).state == "succeeded", job(engine, taken_over).error
    assert same(weights(home, name), made)


def test_copies_of_jobs_that_ended_without_a_worker_are_dropped(
    home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, cancelled = order(engine), order(engine)
    kept, dropped = (Path(copied(home, job_id)) for job_id in (paused, cancelled))
    partial = dropped.with_name(".training.jsonl.partial")
    partial.write_text("{")
    (dropped.parent / "log.txt").write_text("kept")
    ask(engine, paused, "pause")
    ask(engine, cancelled, "cancel")
    Worker(engine, None, home, "cpu").work(threading.Event(), once=True)
    assert (kept.exists(), dropped.exists(), partial.exists()) == (True, False, False)
    assert (dropped.parent / "log.txt").exists()

    monkeypatch.setattr(worker, "SWEEP_S", 0.0)
    with at_work(home, engine):
        ask(engine, paused, "cancel")
        eventually(lambda: not kept.exists())


def test_a_worker_outlives_a_queue_that_cannot_be_read(
    home: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On PostgreSQL, which tells a table that is not there from a database that is away."""
    monkeypatch.setattr(worker, "REFUSED_S", 0.01)
    engine = open_database(postgres.new_store())
    with writing(engine) as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
    with at_work(home, engine):
        eventually(lambda: caplog.text.count("the queue cannot be read") > 1)
        with writing(engine) as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO jobs"))
        done = order(engine, training_file="store:", settings={"nonsense": 1})
        eventually(lambda: job(engine, done).state == "failed")
    engine.dispose()


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
