"""The process that one training job runs in: `python -m honed.training.job`, an order in JSON on its standard input.

Owns its run and the copy of what the run reads. It ends when its standard input does: a worker that is killed takes it
along, and one that has lost its job ends it at its next beat. Invariants: one process at a time works on a job, since
each holds the job's folder, and whoever takes a job over waits for it; OUTCOME_FILE is there when, and only when, the
run has ended, with what came of it or with what is wrong.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from sqlalchemy import Engine

from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.policy import PolicyError
from honed.models.sources import SourceError, honed_home
from honed.server.store import jobs
from honed.server.store.database import StoreError, database_url, open_database, reading, writing
from honed.server.store.exchange.files import FileError
from honed.server.store.files import read_content
from honed.training.configs import RunConfig
from honed.training.ending import is_finished
from honed.training.failures import TrainingError
from honed.training.orders import EVALUATION, PRETRAINING, STORE, evaluation_config, model_name, result, run_config
from honed.training.planning.prepare import read_started
from honed.training.planning.resumption import can_go_on, kind_of, with_passes_of
from honed.training.reports.findings import RUN_FILE

logger = logging.getLogger(__name__)

OUTCOME_FILE: Final = "outcome.json"
TRAINING: Final = "training_file"  # what an order names, and what its copies are called
VALIDATION: Final = "validation_file"
COPIES: Final = {TRAINING: "training.jsonl", VALIDATION: "validation.jsonl"}
LOCK_FILE: Final = ".lock"
PATIENCE_S: Final = 600.0  # for the process before: a worker may learn late that it has lost its job
LOST: Final = 3  # the exit status of a job whose worker is gone


def main() -> int:
    """0 where the run ended well, 1 where it did not: OUTCOME_FILE says how."""
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    folder = Path(asked["folder"])
    outcome: dict[str, Any]
    try:
        with _held(folder):
            outcome = {"result": (judge if asked["kind"] == EVALUATION else carry_out)(asked, folder)}
    except (TrainingError, SourceError, StoreError, FileError, PolicyError, UnsupportedArchitectureError) as error:
        outcome = {"error": str(error)}
    except Exception as error:  # the edge of the worker: what nobody foresaw fails this job and nothing else
        logger.exception("the job failed")
        outcome = {"error": f"{type(error).__name__}: {error}"}
    partial = folder / f".{OUTCOME_FILE}.partial"
    partial.write_text(json.dumps(outcome), encoding="utf-8")
    partial.replace(folder / OUTCOME_FILE)
    return 1 if "error" in outcome else 0


def carry_out(asked: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result for the job's row. Raises what runs raise."""
    from honed.training.runs import run

    home, order = honed_home(), asked["order"]
    name = model_name(asked["id"], order)
    run_folder = home / "runs" / name
    has_begun, has_weights = (run_folder / RUN_FILE).is_file(), (home / "models" / name).is_dir()
    if not (has_begun and has_weights and is_finished(run_folder)):
        engine = open_database(database_url(asked["database_url"], home))
        try:
            config = run_config(
                asked["id"],
                order,
                _environment_of(run_folder) if has_begun else os.environ,
                data=_data(engine, order, folder),
                validation_data=_copied(engine, order, VALIDATION, folder) if order.get(VALIDATION) else None,
                device=asked["device"],
                resume=has_begun,
            )
            if has_begun and not has_weights:
                config = _taken_over(config, run_folder, engine, asked["id"])
            run(config, home=home, engine=engine, show=False)
        finally:
            engine.dispose()
    return result(run_folder, name)


def judge(asked: Mapping[str, Any], _: Path) -> dict[str, Any]:
    """The gate's report. One that was cut off is made anew, and is the same. Raises what `evaluate` raises."""
    from honed.training.evaluate import evaluate

    home = honed_home()
    config = evaluation_config(asked["id"], asked["order"], os.environ, device=asked["device"])
    engine = open_database(database_url(asked["database_url"], home))
    try:
        return evaluate(config, home=home, engine=engine, show=False)
    finally:
        engine.dispose()


def _environment_of(run_folder: Path) -> dict[str, str]:
    """This worker's, with the texts that the run began with: its operator may name others by now."""
    return {**os.environ, PRETRAINING: read_started(run_folder)["settings"].get("pretraining") or ""}


def _taken_over(config: RunConfig, run_folder: Path, engine: Engine, job_id: str) -> RunConfig:
    """What the run goes on with on this device, which need not be what it began on. Where it cannot go on, what it
    learned is dropped, and the job's events say so."""
    started = read_started(run_folder)["settings"]
    if can_go_on(started, config):
        return with_passes_of(started, config)
    before, now = kind_of(started["device"]), kind_of(config.device)
    with writing(engine) as connection:
        message = f"The run began on {before}, which draws another dropout than {now}: it begins anew."
        jobs.add_event(connection, job_id, message, level="warn")
    shutil.rmtree(run_folder)
    return config.model_copy(update={"resume": False})


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The job's folder, for this process alone. Raises TrainingError where another keeps it for too long."""
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is at work on the job: waiting for its end")
        try:
            lock.acquire(timeout=PATIENCE_S, poll_interval=0.2)
        except Timeout:
            raise TrainingError(f"Another process is at work on the job, {PATIENCE_S:.0f} s later still.") from None
    try:
        yield
    finally:
        lock.release()


def holds_data(folder: Path) -> bool:
    """Whether a job's folder has a copy of an upload, or a part of one."""
    return any(path.exists() for path in _copies(folder))


def drop_data(folder: Path) -> None:
    """The copies of uploaded files, which their owners may want gone."""
    for path in _copies(folder):
        path.unlink(missing_ok=True)


def _copies(folder: Path) -> list[Path]:
    """Where they are, whole or in part."""
    return [path for name in COPIES.values() for path in (folder / name, _partial(folder / name))]


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _data(engine: Engine, order: Mapping[str, Any], folder: Path) -> str:
    """What the run reads: `store`, a snapshot's id, or the uploaded file."""
    name = str(order[TRAINING])
    return (name.removeprefix(STORE) or "store") if name.startswith(STORE) else _copied(engine, order, TRAINING, folder)


def _copied(engine: Engine, order: Mapping[str, Any], which: str, folder: Path) -> str:
    """An uploaded file, in the job's folder. Raises TrainingError where it is not there any more."""
    path, file_id = folder / COPIES[which], str(order[which])
    if not path.is_file():
        partial = _partial(path)
        with reading(engine) as connection, partial.open("wb") as out:
            parts = read_content(connection, file_id)
            if parts is None:
                raise TrainingError(f"{which}: {file_id} was deleted: upload it again, in a new job.")
            out.writelines(parts)
        partial.replace(path)
    return str(path)


def _end_with_the_worker() -> None:
    while os.read(0, 1 << 16):  # not through a buffer, whose lock the interpreter would miss when it ends
        pass
    os._exit(LOST)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(main())
