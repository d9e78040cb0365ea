"""`/v1/files`: upload rows to train on, list them, read them back, delete them.

Owns what is taken: JSON Lines of the formats that training reads (`store/exchange/reading.py`), each line of which is
read before anything is stored. Invariant: a file that is in the store can be trained on, by some stage.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from honed.server.admission import identify
from honed.server.auth import Caller
from honed.server.errors import (
    MAX_PROBLEMS,
    InvalidFile,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MissingParameter,
    NotFound,
)
from honed.server.routes.document import form_of
from honed.server.routes.stored import Order
from honed.server.storage import Storage
from honed.server.store import files
from honed.server.store.exchange import jsonl
from honed.server.store.exchange.reading import Malformed, entries
from honed.server.store.files import StoredFile
from honed.server.validation import parse_object, warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.files import DeletedFile, FileList, FileObject, UploadRequest

router = APIRouter(responses={"default": {"model": ErrorBody}})

PATH: Final = "/v1/files"
MAX_LISTED = 10_000
MAX_NAME_CHARS = 255
MAX_FIELDS = 20
PART_BYTES = 2**20


@router.post(PATH, openapi_extra=form_of(UploadRequest, file="file"))
async def create_file(http: Request, response: Response) -> FileObject:
    """Checks every line of the file and stores it, or says what is wrong with which lines and stores nothing."""
    caller = identify(http)
    storage: Storage = http.app.state.storage
    strict: bool = http.app.state.settings.strict
    async with _form(http) as form:
        request, unknown = parse_object(UploadRequest, _fields(form), strict=strict)
        upload, name = _upload(form)
        ignored = await storage.run(_check, upload.file)
        if ignored and strict:
            names = ", ".join(ignored[:MAX_PROBLEMS])
            raise InvalidFile(f"Invalid 'file': its rows have keys that nobody knows: {names}.", param="file")
        stored = await storage.write(
            files.add, name=name, purpose=request.purpose, key_id=caller.key_id, parts=_cut(upload.file)
        )
    response.headers.update(warning_header([*unknown, *ignored]))
    return _object(stored)


@router.get(PATH)
async def list_files(
    http: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
    order: Order = "desc",
    purpose: str | None = None,
) -> FileList:
    """The files that the caller's key uploaded (an admin's: all)."""
    caller = identify(http)
    storage: Storage = http.app.state.storage
    page, has_more = await storage.read(
        files.list_files, scope=caller.scope, after=after, limit=limit, order=order, purpose=purpose
    )
    data = [_object(stored) for stored in page]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return FileList(data=data, first_id=first_id, last_id=last_id, has_more=has_more)


@router.get(f"{PATH}/{{file_id}}")
async def retrieve_file(http: Request, file_id: str) -> FileObject:
    return _object(await _found(http, identify(http), file_id))


@router.get(
    f"{PATH}/{{file_id}}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def retrieve_file_content(http: Request, file_id: str) -> StreamingResponse:
    """The bytes that were uploaded."""
    stored = await _found(http, identify(http), file_id)
    headers = {"content-length": str(stored.num_bytes), "x-content-type-options": "nosniff"}
    content = _content(http.app.state.storage, file_id)
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)


@router.delete(f"{PATH}/{{file_id}}")
async def delete_file(http: Request, file_id: str) -> DeletedFile:
    """A job that waits for the file will fail; one that runs has a copy."""
    stored = await _found(http, identify(http), file_id)
    await http.app.state.storage.write(files.remove, stored.id)
    return DeletedFile(id=stored.id)


@asynccontextmanager
async def _form(http: Request) -> AsyncIterator[FormData]:
    """The form, its file on the disk where it is large, for as long as the block takes. Raises InvalidRequest."""
    if not http.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidRequest("The body must be a form of the type multipart/form-data.", code="invalid_form")
    try:
        form = await http.form(max_files=1, max_fields=MAX_FIELDS)
    except HTTPException as error:
        raise InvalidRequest(f"The body is not a form that can be read: {error.detail}", code="invalid_form") from None
    try:
        yield form
    finally:
        await form.close()


def _fields(form: FormData) -> dict[str, Any]:
    """The fields by name, less the file; `a[b]` is a part of `a`."""
    return {name.partition("[")[0]: value for name, value in form.multi_items() if name != "file"}


def _upload(form: FormData) -> tuple[UploadFile, str]:
    """The file and its name."""
    upload = form.get("file")
    if upload is None:
        raise MissingParameter("Missing required parameter: 'file'.", param="file")
    if not isinstance(upload, UploadFile):
        raise InvalidType("Invalid type for 'file': expected a file with a name, but got a field.", param="file")
    name = upload.filename or ""
    if len(name) > MAX_NAME_CHARS or "\0" in name:
        raise InvalidValue(f"Invalid 'file': a name has up to {MAX_NAME_CHARS} characters, no U+0000.", param="file")
    return upload, name


def _check(file: BinaryIO) -> list[str]:
    """The keys of the rows that their formats do not have. Raises InvalidFile, with what is wrong with the first lines
    that cannot be read."""
    spooled: Any = file  # a SpooledTemporaryFile, which has all that a reader needs, but not the type
    stream = io.BufferedReader(spooled)
    faults: list[str] = []
    ignored: set[str] = set()
    is_empty = True
    try:
        for item in entries(Path("file"), jsonl.decode(stream)):
            is_empty = False
            if isinstance(item, Malformed):
                faults.append(f"line {item.line}: {item.reason}.")
            else:
                ignored.update(item.ignored_keys)
            if len(faults) == MAX_PROBLEMS:
                break
    except jsonl.NotJsonLinesError as error:
        faults.append(f"it {error}.")
    finally:
        stream.detach()
    if faults or is_empty:
        raise InvalidFile(f"Invalid 'file': {' '.join(faults) or 'it has no rows.'}", param="file")
    return sorted(ignored)


def _cut(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while part := file.read(PART_BYTES):
        yield part


async def _content(storage: Storage, file_id: str) -> AsyncIterator[bytes]:
    """A file that is deleted meanwhile ends early, which its declared length shows."""
    position = 0
    while (part := await storage.read(files.read_part, file_id, position)) is not None:
        yield part
        position += 1


async def _found(http: Request, caller: Caller, file_id: str) -> StoredFile:
    """Raises NotFound, also for somebody else's."""
    storage: Storage = http.app.state.storage
    stored = await storage.read(files.load, file_id, scope=caller.scope)
    if stored is None:
        raise NotFound("There is no such file.", param="file_id")
    return stored


def _object(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.num_bytes,
        created_at=int(stored.created.timestamp()),
        filename=stored.name,
        purpose=stored.purpose,
    )
