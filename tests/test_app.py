"""The application as it is put together."""

from __future__ import annotations

import fastapi.routing
import pytest
from fastapi.testclient import TestClient

from honed.server.app import create_app
from honed.server.settings import Settings


def test_routes_are_made_at_the_start_and_not_by_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(logging="off"))

    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("a route was made in a request")

    monkeypatch.setattr(fastapi.routing, "get_dependant", too_late)
    client = TestClient(app, base_url="http://127.0.0.1")  # as no context: nothing is loaded
    assert client.get("/health").status_code in (200, 503)
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400
    assert client.get("/nowhere").status_code == 404
