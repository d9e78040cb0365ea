"""`/v1/models`: OpenAI's `Model` and `ListModelsResponse`."""

from typing import Literal

from honed.server.wire.response import ResponsePart


class Model(ResponsePart):
    """`created` is in Unix seconds."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[Model]
