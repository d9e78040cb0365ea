"""The served OpenAPI document: bodies are parsed by hand (`validation.py`), so routes say here what they take."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from honed.server.wire.errors import ErrorBody
from honed.server.wire.response import ResponsePart

_REF = "#/components/schemas/{model}"


def body_of(*requests: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own body, which is one of `requests`."""
    schemas = [request.model_json_schema(ref_template=_REF) for request in requests]
    definitions = {name: one for schema in schemas for name, one in schema.pop("$defs", {}).items()}
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "x-definitions": definitions,
    }


def form_of(request: type[BaseModel], *, file: str) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own multipart form: the fields of `request`, and a file."""
    schema = request.model_json_schema(ref_template=_REF)
    schema["properties"][file] = {"type": "string", "format": "binary"}
    schema["required"] = [file, *schema.get("required", [])]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def document(request: type[BaseModel], response: type[ResponsePart], chunk: type[ResponsePart]) -> dict[str, Any]:
    """Keyword arguments for a route that reads its own body; `chunk` is what it streams. The types' definitions go
    into the document's components, by way of `add_components`."""
    body = body_of(request)
    line = chunk.model_json_schema(ref_template=_REF, mode="serialization")
    body["x-definitions"] |= line.pop("$defs", {}) | {chunk.__name__: line}
    return {
        "response_model": None,
        "responses": {200: {"model": response, "content": _events(chunk)}, "default": {"model": ErrorBody}},
        "openapi_extra": body,
    }


def _events(chunk: type[ResponsePart]) -> dict[str, Any]:
    """Each event of a stream, as OpenAPI 3.2 describes them (section "Server-Sent Event Streams")."""
    lines = [{"$ref": _REF.format(model=kind.__name__)} for kind in (chunk, ErrorBody)]
    data = {
        "type": "string",
        "if": {"const": "[DONE]"},
        "else": {"contentMediaType": "application/json", "contentSchema": {"anyOf": lines}},
    }
    event = {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {"text/event-stream": {"itemSchema": event}}


def add_components(app: FastAPI) -> None:
    """Makes `app.openapi()` carry the definitions that `document` left beside its routes."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for path in schema["paths"].values():
            for operation in path.values():
                for name, definition in operation.pop("x-definitions", {}).items():
                    components.setdefault(name, definition)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
