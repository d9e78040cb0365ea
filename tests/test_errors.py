"""The error tree and what clients see of it."""

import json
import logging

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from honed.server import errors


def make_app(exc: Exception) -> FastAPI:
    app = FastAPI()
    errors.install_error_handlers(app)

    @app.get("/fail")
    async def fail() -> None:
        raise exc

    @app.get("/typed")
    async def typed(limit: int) -> int:
        return limit

    return app


def get(exc: Exception, path: str = "/fail", method: str = "GET") -> tuple[int, dict[str, object], dict[str, str]]:
    client = TestClient(make_app(exc), raise_server_exceptions=False)
    response = client.request(method, path)
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return response.status_code, body["error"], dict(response.headers)


ROWS = [
    (errors.InvalidJson("x"), 400, "invalid_request_error", "invalid_json"),
    (errors.MissingParameter("x"), 400, "invalid_request_error", "missing_required_parameter"),
    (errors.InvalidType("x"), 400, "invalid_request_error", "invalid_type"),
    (
        errors.OutOfRange("x", code="integer_above_max_value"),
        400,
        "invalid_request_error",
        "integer_above_max_value",
    ),
    (errors.UnsupportedParameter("x"), 400, "invalid_request_error", "unsupported_parameter"),
    (errors.UnsupportedValue("x"), 400, "invalid_request_error", "unsupported_value"),
    (errors.InvalidFile("x"), 400, "invalid_request_error", "invalid_file"),
    (errors.UnknownParameter("x"), 400, "invalid_request_error", "unknown_parameter"),
    (errors.ModelNotFound("gpt"), 404, "invalid_request_error", "model_not_found"),
    (errors.InvalidApiKey("x"), 401, "invalid_request_error", "invalid_api_key"),
    (errors.RequestTimeout(1.5), 408, "invalid_request_error", "request_timeout"),
    (errors.RequestTooLarge(10), 413, "invalid_request_error", "request_too_large"),
    (errors.InternalError(), 500, "server_error", "internal_error"),
    (errors.PolicyUnloadable("x", "y"), 500, "server_error", "policy_unloadable"),
    (errors.NoRoomForPolicy("x"), 503, "server_error", "no_room_for_policy"),
    (errors.Overloaded(retry_after_s=2), 503, "server_error", "overloaded"),
    (errors.Loading(), 503, "server_error", "model_loading"),
    (errors.Draining(), 503, "server_error", "shutting_down"),
    (errors.EngineDead(), 503, "server_error", "engine_dead"),
]


@pytest.mark.parametrize(("error", "status", "kind", "code"), ROWS, ids=lambda value: type(value).__name__)
def test_each_row_of_the_table(error: errors.ServerError, status: int, kind: str, code: str) -> None:
    seen_status, body, _ = get(error)
    assert (seen_status, body["type"], body["code"]) == (status, kind, code)


def test_the_context_error_names_both_numbers() -> None:
    error = errors.ContextLengthExceeded(prompt_tokens=9001, max_tokens=2048, param="messages")
    assert "9001" in error.message
    assert "2048" in error.message
    assert error.param == "messages"


def test_headers_tell_clients_when_to_try_again() -> None:
    assert get(errors.Overloaded(retry_after_s=0.2))[2]["retry-after"] == "1"
    assert get(errors.Overloaded(retry_after_s=7))[2]["retry-after"] == "7"
    assert get(errors.InternalError())[2]["x-should-retry"] == "false"
    assert "x-should-retry" not in get(errors.InternalError(retry=True))[2]
    assert get(errors.InvalidApiKey("x"))[2]["www-authenticate"] == "Bearer"


def test_unknown_paths_and_wrong_methods() -> None:
    status, body, _ = get(errors.NotFound("x"), path="/nowhere")
    assert (status, body["code"], body["message"]) == (404, "not_found", "Unknown path: GET /nowhere.")
    status, body, headers = get(errors.NotFound("x"), method="DELETE")
    assert (status, body["code"], headers["allow"]) == (405, "method_not_allowed", "GET")


def test_query_parameters_are_refused_in_the_same_shape() -> None:
    status, body, _ = get(errors.NotFound("x"), path="/typed?limit=a")
    assert (status, body["code"], body["param"]) == (400, "invalid_value", "limit")


def test_other_http_exceptions_keep_their_status() -> None:
    status, body, _ = get(HTTPException(409, "busy"))
    assert (status, body["type"], body["message"]) == (409, "invalid_request_error", "busy")
    assert get(HTTPException(502, "a secret"))[1]["message"] == errors.InternalError().message


def test_a_traceback_goes_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="honed.server.errors"):
        status, body, _ = get(KeyError("a secret"))
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert "KeyError: 'a secret'" in caplog.text


def test_messages_are_bounded_and_encodable() -> None:
    error = errors.InvalidRequest("\ud800" + "é" * 10**6, param="x" * 10**6)
    body = json.dumps(errors.error_body(error), ensure_ascii=False).encode("utf-8")
    assert len(body) < 4096
    assert error.message.startswith("?é")
    assert error.message.endswith("é…")
    many = errors.ModelNotFound("m" * 10**6, ["a" * 10**6] * 10**3)
    assert len(many.message) <= errors.MAX_MESSAGE_BYTES
    assert errors.ModelNotFound("a\n", ["b"]).message == "The model 'a?' does not exist. This server has 'b'."


def test_a_message_of_just_the_limit_is_whole() -> None:
    text = "é" * (errors.MAX_MESSAGE_BYTES // 2)
    assert errors.InvalidRequest(text).message == text
    assert len(errors.InvalidRequest(text + "é").message.encode()) <= errors.MAX_MESSAGE_BYTES
