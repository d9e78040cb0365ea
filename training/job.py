"""The process that one training job runs in: `python -m honed.training.job`, an order in JSON on its standard input.

Owns nothing but its run. It ends when its standard input does: a worker that is killed takes it along, and whoever
takes the job over finds nobody at work on it. Invariant: OUTCOME_FILE is there when, and only when, the run has ended,
with what came of it or with what is wrong.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.policy import PolicyError
from honed.models.sources import SourceError, honed_home
from honed.server.store.database import StoreError, database_url, open_database, reading
from honed.server.store.exchange.files import FileError
from honed.server.store.files import read_content
from honed.training.ending import is_finished
from honed.training.failures import TrainingError
from honed.training.orders import STORE, model_name, result, run_config
from honed.training.reports.findings import RUN_FILE

OUTCOME_FILE: Final = "outcome.json"
DATA_FILE: Final = "training.jsonl"
LOST: Final = 3  # the exit status of a job whose worker is gone


def main() -> int:
    """0 where the run ended well, 1 where it did not: OUTCOME_FILE says how."""
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    folder = Path(asked["folder"])
    outcome: dict[str, Any]
    try:
        outcome = {"result": carry_out(asked, folder)}
    except (TrainingError, SourceError, StoreError, FileError, PolicyError, UnsupportedArchitectureError) as error:
        outcome = {"error": str(error)}
    except Exception as error:  # the edge of the worker: what nobody foresaw fails this job and nothing else
        logging.exception("the job failed")
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
    has_begun = (run_folder / RUN_FILE).is_file()
    if not (has_begun and (home / "models" / name).is_dir() and is_finished(run_folder)):
        engine = open_database(database_url(asked["database_url"], home))
        try:
            data = _data(engine, str(order["training_file"]), folder)
            config = run_config(asked["id"], order, data=data, device=asked["device"], resume=has_begun)
            run(config, home=home, engine=engine, show=False)
        finally:
            engine.dispose()
    return result(run_folder, name)


def _data(engine: Engine, training_file: str, folder: Path) -> str:
    """What the run reads: `store`, a snapshot's id, or the uploaded file, copied into the job's folder."""
    if training_file.startswith(STORE):
        return training_file.removeprefix(STORE) or "store"
    path, partial = folder / DATA_FILE, folder / f".{DATA_FILE}.partial"
    if not path.is_file():
        with reading(engine) as connection, partial.open("wb") as out:
            parts = read_content(connection, training_file)
            if parts is None:
                raise TrainingError(f"training_file: {training_file} was deleted: upload it again, in a new job.")
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
