"""What all request types share: strict JSON types, null as absence, and unknown keys kept where they can be
told.

Does not map errors to OpenAI's codes: `server/validation.py` does. Invariant: an optional field never holds
null after validation unless its default is None, so that whoever reads a request needs no second default.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

INT64_MAX = 2**63 - 1
MAX_TOKEN_ID_DIGITS = 10

# `Field(deprecated=True)` would also warn whoever reads the field in Python.
DEPRECATED: JsonDict = {"deprecated": True}


Storable = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # databases have no NUL in texts
NonEmptyStr = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, le=10**MAX_TOKEN_ID_DIGITS - 1)]
# A list of a million wrong values is one problem, not a million.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]


class RequestPart(BaseModel):
    """A JSON object in a request. Strict: "5" and true are no integers, 1.0 is none either."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None or not cls._may_be_null(key)}

    @classmethod
    def _may_be_null(cls, key: str) -> bool:
        return key in cls.model_fields and not cls.model_fields[key].is_required()

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        body = handler.resolve_ref_schema(schema)
        for name, field in body.get("properties", {}).items():
            if name not in body.get("required", []):
                body["properties"][name] = _nullable(field)
        return schema


def _nullable(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The same schema with null allowed; its description and default stay outside, where readers look for
    them.
    """
    if {"type": "null"} in schema.get("anyOf", []) or None in schema.get("enum", []):
        return schema
    outside: JsonSchemaValue = {
        key: schema[key] for key in ("title", "description", "default", "deprecated") if key in schema
    }
    inside = {key: item for key, item in schema.items() if key not in outside}
    return {"anyOf": [inside, {"type": "null"}], **outside}
