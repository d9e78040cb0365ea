"""OpenAI's `metadata`: up to 16 pairs of short strings, to find an object again by."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from honed.server.wire.request import Storable
from honed.server.wire.unsupported import problem

MAX_PAIRS = 16
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512


def _few(value: Any) -> Any:
    # Before its items are looked at: a million wrong items would be a million problems.
    if isinstance(value, dict) and len(value) > MAX_PAIRS:
        raise problem("object_above_max_properties", f"expected at most {MAX_PAIRS} pairs")
    return value


Metadata = Annotated[
    dict[Annotated[Storable, Field(max_length=MAX_KEY_CHARS)], Annotated[Storable, Field(max_length=MAX_VALUE_CHARS)]],
    BeforeValidator(_few),
    Field(json_schema_extra={"maxProperties": MAX_PAIRS}),
]
