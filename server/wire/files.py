"""`/v1/files`. Source: OpenAI's `CreateFileRequest`, `OpenAIFile`, `ListFilesResponse`, `DeleteFileResponse`."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from honed.server.wire.request import DEPRECATED, RequestPart
from honed.server.wire.response import ResponsePart
from honed.server.wire.unsupported import Unsupported, problem

_OTHER_PURPOSES: Final = ("assistants", "batch", "vision", "user_data", "evals")


def _supported(value: Any) -> Any:
    if value in _OTHER_PURPOSES:
        raise problem("unsupported_value", "files are for 'fine-tune' here")
    return value


class UploadRequest(RequestPart):
    """The fields of the form beside the file."""

    purpose: Annotated[Literal["fine-tune"], BeforeValidator(_supported)]
    expires_after: Annotated[Any, Unsupported()] = None


class FileObject(ResponsePart):
    """`created_at` is in Unix seconds. A file is checked before it is stored, so it is processed once it is there."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = Field(default="processed", json_schema_extra=DEPRECATED)


class FileList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(ResponsePart):
    object: Literal["file"] = "file"
    id: str
    deleted: bool = True
