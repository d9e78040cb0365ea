"""OpenAI's `ErrorResponse`, as the served OpenAPI document shows it; `server/errors.py` writes it."""

from honed.server.wire.response import ResponsePart


class ErrorDetail(ResponsePart):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponsePart):
    error: ErrorDetail
