"""Commands of `honed` that are killed (`kill -9`): each runs in a fork of this process, since starting one takes
seconds. `killed_script.py COMMANDS`, a file of `[arguments, where]`: a run is killed when its folder's metrics.jsonl
has so many lines, or, where it says `save`, when it is about to put its checkpoint into place."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from honed.cli import app
from honed.training.reports.tracking import Tracker

MORE_LINES = 3  # that a run may write before it waits for its end, however late this process looks

log = Tracker.log
rename = Path.rename


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # as in the tests
    for name in ("runs", "sft", "reward", "ppo"):  # once, and not in every fork
        import_module(f"honed.training.{name}")
    for arguments, where in json.loads(Path(sys.argv[1]).read_bytes()):
        output = arguments[arguments.index("--output") + 1]
        metrics = Path(os.environ["HONED_HOME"]) / "runs" / output / "metrics.jsonl"
        if child := os.fork():
            watch(child, metrics, where)
        else:
            wait_for_end(metrics, where)
            app(arguments)


def watch(child: int, metrics: Path, where: int | str) -> None:
    while where == "save" or lines(metrics) < int(where):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended and where == "save" and os.WIFSIGNALED(status):
            return
        assert not ended, f"{metrics.parent.name} ended before it was to be killed, with {status}"
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def wait_for_end(metrics: Path, where: int | str) -> None:
    """In the child."""

    def log_or_wait(tracker: Tracker, step: int, numbers: Mapping[str, float], *, tokens: int = 0) -> None:
        if where != "save" and lines(metrics) >= int(where) + MORE_LINES:
            signal.pause()
        log(tracker, step, numbers, tokens=tokens)

    def rename_or_end(path: Path, to: Any) -> Path:
        if where == "save" and Path(to).parent.name == "models":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, to)

    Tracker.log, Path.rename = log_or_wait, rename_or_end


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


if __name__ == "__main__":
    main()
