"""How a wire type says what this server cannot do, and what a field may not hold.

Owns two things: `problem`, the one way in which a validator of the wire types refuses, and `Unsupported`, the
type of parameters that exist in OpenAI's API but not here. Invariant: such a parameter is refused by name
unless its value asks for nothing (null, or one of the listed harmless values); it is never ignored.
"""

import json
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def problem(code: str, message: str, *, field: str | None = None) -> PydanticCustomError:
    """A refusal with OpenAI's error `code`; `field` is below the value that is validated, where it is not the
    value.
    """
    return PydanticCustomError("honed", "{message}", {"code": code, "message": message, "field": field})


class Unsupported:
    """The mark of a parameter that is refused with `code` unless it is null or one of `harmless`."""

    def __init__(self, *harmless: Any, code: str = "unsupported_parameter") -> None:
        self.harmless = harmless
        self.code = code

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._accept)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "enum": [None, *self.harmless],
            "description": "Not supported yet; these values ask for nothing.",
        }

    def _accept(self, value: Any) -> Any:
        # 0 == False in Python, not in JSON.
        if any(type(value) is type(harmless) and value == harmless for harmless in self.harmless):
            return value
        if self.code == "unsupported_value":
            choices = " or ".join(json.dumps(harmless) for harmless in self.harmless)
            raise problem(self.code, f"this server supports only {choices}")
        raise problem(self.code, "it is not supported by this server")
