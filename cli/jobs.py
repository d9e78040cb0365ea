"""`honed worker`: the process that trains what the jobs API and the circle ask for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from honed.cli.failure import fail
from honed.cli.store import DatabaseUrl, opened


def worker(
    device: Annotated[str, typer.Option(help="What to train on: auto, cpu, cuda or cuda:N; one worker each.")] = "auto",
    database_url: DatabaseUrl = None,
    once: Annotated[bool, typer.Option("--once", help="End when no job waits.")] = False,
    with_parent: Annotated[bool, typer.Option("--with-parent", help="End when standard input does.")] = False,
) -> None:
    """Train what jobs ask for, one at a time, each in a process of its own. Several machines may each have workers."""
    import logging

    from honed.models.policy import PolicyError, choose_device
    from honed.models.sources import honed_home
    from honed.training.worker import Worker

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    if with_parent:
        threading.Thread(target=_set_with_stdin, args=(stop,), daemon=True).start()
    try:
        found = choose_device(device)
    except PolicyError as error:
        raise fail(str(error)) from None
    # By one name, or the queue would take `auto`, `cuda` and `cuda:0` for three devices.
    name = f"cuda:{found.index or 0}" if found.type == "cuda" else found.type
    with opened(database_url) as engine:
        Worker(engine, database_url, honed_home(), name).work(stop, once=once)


def _set_with_stdin(stop: threading.Event) -> None:
    while os.read(0, 1 << 16):
        pass
    stop.set()


@contextmanager
def beside(environment: dict[str, str], device: str) -> Iterator[None]:
    """A worker for as long as the block takes, and no longer, whatever ends it."""
    command = [sys.executable, "-c", "from honed.cli import app; app()", "worker", "--with-parent", "--device", device]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)  # noqa: S603 (our own command)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
