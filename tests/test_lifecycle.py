"""`honed serve` as a process: signals, drains, exit statuses."""

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import eventually
from typer.testing import CliRunner

from honed.cli import app as command_line
from honed.server.serve import serve
from honed.server.settings import Settings

HONED = Path(sys.executable).with_name("honed")
BODY: dict[str, Any] = {"model": "honed", "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
DRAINS = {"patient": 600.0, "hasty": 0.1, "interrupted": 600.0}  # name -> --drain-timeout in seconds


@dataclass
class Process:
    """A running `honed serve`. `url` is read from its output, once it is ready."""

    popen: subprocess.Popen[str]
    _url: str | None = field(default=None)

    @property
    def url(self) -> str:
        assert self.popen.stdout is not None
        while self._url is None:
            line = self.popen.stdout.readline()
            assert line, "it ended before it was ready"
            if found := re.search(r"answers on (http://\S+)", line):
                self._url = found[1]
        return self._url

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)


def start(*arguments: str, errors: Path) -> Process:
    command = [str(HONED), "serve", "--port", "0", "--dtype", "float32", "--kv-cache-gib", "0.05", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HONED_")}
    environment["HONED_HOME"] = str(errors.parent / f"{errors.name}-home")  # not the developer's own store
    with errors.open("w") as file:
        return Process(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment | {"OMP_NUM_THREADS": "1"}
            )
        )


@pytest.fixture(scope="module")
def processes(long_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """One for each way to drain; started at once, since that takes longest."""
    folder = tmp_path_factory.mktemp("errors")
    started = {
        name: start("--model", str(long_checkpoint), "--drain-timeout", str(timeout_s), errors=folder / name)
        for name, timeout_s in DRAINS.items()
    }
    yield started
    for process in started.values():
        process.popen.kill()
        process.popen.communicate()


class Streams:
    """Answers that are being read, each in its own thread."""

    def __init__(self, url: str, count: int, max_tokens: int) -> None:
        self._url = url
        self._body = BODY | {"max_tokens": max_tokens, "stream": True}
        self._begun: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._payloads: list[list[str]] = [[] for _ in range(count)]
        self._threads = [threading.Thread(target=self._read, args=(payloads,)) for payloads in self._payloads]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._begun.get(timeout=60)

    def _read(self, payloads: list[str]) -> None:
        with httpx.stream("POST", f"{self._url}/v1/chat/completions", json=self._body, timeout=120) as response:
            for line in response.iter_lines():
                if not line:
                    continue
                payloads.append(line.removeprefix("data: "))
                if len(payloads) == 3:  # the role and two pieces of text; once a stream
                    self._begun.put(None)

    def read(self) -> list[list[str]]:
        """The payloads of each stream, when all have ended."""
        for thread in self._threads:
            thread.join()
        return self._payloads


def drain_begins(url: str) -> None:
    eventually(lambda: httpx.get(f"{url}/health").status_code == 503)


def test_running_answers_finish_before_the_process_ends(processes: dict[str, Process]) -> None:
    process = processes["patient"]
    streams = Streams(process.url, count=8, max_tokens=1000)
    process.terminate()
    drain_begins(process.url)
    assert httpx.get(f"{process.url}/health").json()["status"] == "draining"
    refused = httpx.post(f"{process.url}/v1/chat/completions", json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert refused.headers["retry-after"]
    for *_, last, done in streams.read():
        assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        assert done == "[DONE]"
    assert process.popen.wait(60) == 0


@pytest.mark.parametrize("way", ["hasty", "interrupted"])
def test_answers_that_take_too_long_end_with_an_error(processes: dict[str, Process], way: str) -> None:
    """The time for the drain is up, or a second signal comes."""
    process = processes[way]
    streams = Streams(process.url, count=3, max_tokens=8000)
    process.terminate()
    if way == "interrupted":
        drain_begins(process.url)
        process.terminate()
    for *_, last in streams.read():
        assert json.loads(last)["error"]["code"] == "shutting_down"
    assert process.popen.wait(60) == 0


@pytest.fixture
def damaged(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Half of the weights."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return folder


def test_a_model_that_cannot_be_served(damaged: Path, tmp_path: Path) -> None:
    process = start("--model", str(damaged), errors=tmp_path / "errors")
    assert process.popen.wait(120) == 1
    process.popen.communicate()
    lines = (tmp_path / "errors").read_text().splitlines()
    (line,) = [line for line in lines if "ERROR" in line]
    assert re.search(rf"cannot serve {damaged}: The weights in {damaged} are damaged: fetch the model again", line)
    assert "Traceback" not in "".join(lines)


def test_weights_of_another_model(tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody foresaw this error: the process ends all the same, and says what it was."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    assert serve(Settings(port=0, model=str(folder), home=tmp_path), on_ready=lambda *_: print("ready")) == 1
    assert f"cannot serve {folder}" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--host", "0.0.0.0"], "without an API key"),
        (["--drain-timeout", "-1"], "drain_timeout_s"),
    ],
)
def test_what_cannot_begin_says_so_in_a_line(
    tiny_checkpoint: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    given = ["serve", "--port", "0", "--model", str(tiny_checkpoint), *arguments]
    environment = {"HONED_API_KEYS": "", "HONED_API_KEYS_FILE": "", "HONED_HOME": str(tmp_path)}
    result = CliRunner().invoke(command_line, given, env=environment)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("honed: ")
    assert said in line


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ["serve", "--port", str(port), "--model", str(tiny_checkpoint)]
        result = CliRunner().invoke(command_line, given, env={"HONED_HOME": str(tmp_path)})
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert "--port" in line


def test_an_unknown_variable_is_said_without_decoration() -> None:
    result = CliRunner().invoke(command_line, ["serve"], env={"HONED_PROT": "8001"})
    assert result.stderr.startswith("honed: the environment variable HONED_PROT is unknown: did you mean HONED_PORT?")


LOADS_FOR_EVER = """
import os, signal, sys, threading
from honed.server import policies, serve
from honed.server.settings import Settings

def load(settings):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()

policies.load = load
sys.exit(serve.serve(Settings(port=0, model=sys.argv[1], home=sys.argv[2]), on_ready=lambda *_: print("ready")))
"""


def test_a_signal_while_the_model_loads(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Nobody waits for a load that may take as long as a download."""
    command = [sys.executable, "-c", LOADS_FOR_EVER, str(tiny_checkpoint), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "Traceback" not in result.stderr
