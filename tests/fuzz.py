"""`make fuzz`: schemathesis against the served OpenAPI document of a tiny model, for FUZZ_MINUTES (5 where unset).

Ends with a status other than 0 where an answer broke the document (a server error, an undocumented status, type or
shape) or where the server was not well afterwards. The random model is real, its context short: a request for 128
choices is over in a second. Valid requests are to reach the model, so the document gets what only a running server
knows first: the names of its models and the size of its vocabulary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from conftest import LiveServer, running
from fakes import save_tiny_policy

from honed.server.settings import Settings

CONTEXT_TOKENS = 128
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def main() -> int:
    minutes = float(os.environ.get("FUZZ_MINUTES", "5"))
    with tempfile.TemporaryDirectory() as work:
        folder = save_tiny_policy(Path(work) / "tiny", max_position_embeddings=CONTEXT_TOKENS)
        # A queue for the largest request there is (1,024 prompts, 128 answers each), so that 503 is always a finding.
        settings = Settings(model=str(folder), kv_cache_gib=0.02, max_queue=1024 * 128, logging="all")
        with running(settings) as server:
            document = Path(work) / "openapi.json"
            document.write_text(json.dumps(_reachable(httpx.get(f"{server.url}/openapi.json").json(), server)))
            status = _fuzz(document, server.url, seconds=round(minutes * 60), work=Path(work))
            return status or _illness(server)


def _fuzz(document: Path, url: str, *, seconds: int, work: Path) -> int:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(document), "--url", url]
    command += ["--checks", ",".join(CHECKS), "--max-time", str(seconds), "--continue-on-failure"]
    command += ["--generation-database", "none", "--request-timeout", "120"]
    return subprocess.run(command, cwd=work, check=False).returncode


def _reachable(document: dict[str, Any], server: LiveServer) -> dict[str, Any]:
    """The document for this very server: `model` is one of its models, and token ids are in its vocabulary."""
    for path in ("/v1/chat/completions", "/v1/completions"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body["properties"]["model"] = {"enum": ["honed", server.model]}
        body["required"].append("stream")  # one of forty optional keys: otherwise hardly any answer is a stream
    return _with_bounds(document, server.app.state.service.current().policy.vocab_size - 1)


def _with_bounds(schema: Any, largest_id: int) -> Any:
    if isinstance(schema, list):
        return [_with_bounds(item, largest_id) for item in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = {key: _with_bounds(item, largest_id) for key, item in schema.items()}
    if schema.get("type") == "integer" and schema.get("maximum") == 10**10 - 1:
        bounded["maximum"] = largest_id
    return bounded


def _illness(server: LiveServer) -> int:
    """0 where the server still answers and nothing is left in it."""
    health = httpx.get(f"{server.url}/health")
    left = server.gauge("vllm:num_requests_running") + server.gauge("vllm:num_requests_waiting")
    print(f"health: {health.status_code}; sequences left: {left:g}")
    return 0 if health.status_code == 200 and left == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
