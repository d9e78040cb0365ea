"""The official client for Node.js, and curl, against the real application with a tiny model."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveServer

from honed.models.sources import honed_home

SCRIPTS = Path(__file__).parent / "node"


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on this machine: install it, or deselect these tests"
    return found


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """Where `openai` is installed, once for each version: outside the checkout, with the scripts beside it."""
    manifest = (SCRIPTS / "package.json").read_bytes()
    folder = honed_home() / "node" / hashlib.sha256(manifest).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS.iterdir():
        shutil.copy(script, folder)
    if not (folder / "node_modules" / ".package-lock.json").is_file():  # npm writes it last
        install = [program("npm"), "install", "--no-audit", "--no-fund", "--no-package-lock"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"npm cannot install the client (is the npm registry in reach?):\n{done.stderr}"
    return folder


def run_node(folder: Path, server: LiveServer, scenario: str) -> Any:
    command = [program("node"), "client.mjs", server.url, scenario]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.node
def test_node_streams_the_answer(node_folder: Path, live_server: LiveServer) -> None:
    said = run_node(node_folder, live_server, "stream")
    whole = said["whole"]
    assert len(said["deltas"]) > 1
    assert "".join(said["deltas"]) == whole["choices"][0]["message"]["content"]
    assert said["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert said["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert said["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


@pytest.mark.node
def test_node_lists_the_models(node_folder: Path, live_server: LiveServer) -> None:
    said = run_node(node_folder, live_server, "models")
    assert said["ids"] == ["honed", "tiny"]
    assert said["retrieved"]["id"] == "honed"
    assert said["retrieved"]["object"] == "model"


@pytest.mark.node
def test_node_gets_a_typed_error(node_folder: Path, live_server: LiveServer) -> None:
    error = run_node(node_folder, live_server, "missing")
    assert error["is_not_found"]
    assert error["status"] == 404
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert error["type"] == "invalid_request_error"
    assert error["requestID"].startswith("req_")


@pytest.mark.node
def test_node_leaves_a_stream(node_folder: Path, live_server: LiveServer) -> None:
    before = aborted(live_server)
    assert run_node(node_folder, live_server, "abort")["chunks"] >= 3
    until(lambda: aborted(live_server) == before + 32, "a client has gone and is still computed for")
    until(lambda: live_server.gauge("vllm:num_requests_running") == 0, "a sequence is left in the batch")


def aborted(server: LiveServer) -> float:
    """Sequences that ended because their client went away."""
    name, labels = "vllm:request_success_total", {"model_name": server.model, "finished_reason": "abort"}
    return server.app.state.service.metrics.registry.get_sample_value(name, labels) or 0


def until(condition: Any, complaint: str) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, complaint
        time.sleep(0.02)


def test_curl_streams(live_server: LiveServer) -> None:
    body = {"model": "honed", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}
    command = [program("curl"), "-sSN", "-i", f"{live_server.url}/v1/chat/completions", "-d", json.dumps(body)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    head, _, events = answer.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "content-type: text/event-stream" in head.lower()
    *frames, done, end = events.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert len({chunk["id"] for chunk in chunks}) == 1
