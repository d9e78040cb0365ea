"""The served OpenAPI document: bodies are parsed by hand (`validation.py`), so routes say here what they take."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from honed.server.wire.errors import ErrorBody
from honed.server.wire.response import ResponsePart

_REF = "#/components/schemas/{model}"


def document(request: type[BaseModel], response: type[ResponsePart]) -> dict[str, Any]:
    """Keyword arguments for a route that reads its own body. `request`'s definitions go into the document's
    components, by way of `add_components`."""
    schema = request.model_json_schema(ref_template=_REF)
    definitions = schema.pop("$defs", {})
    return {
        "response_model": None,
        "responses": {200: {"model": response}, "default": {"model": ErrorBody}},
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "x-definitions": definitions,
        },
    }


def add_components(app: FastAPI) -> None:
    """Makes `app.openapi()` carry the definitions that `document` left beside its routes."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        for path in schema["paths"].values():
            for operation in path.values():
                schema.setdefault("components", {}).setdefault("schemas", {}).update(operation.pop("x-definitions", {}))
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
