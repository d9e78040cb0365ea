"""`/v1/chat/completions`, what is stored of them: list, retrieve, messages, update, delete."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from honed.server.admission import identify, read_request
from honed.server.arrivals import arrived, caught_up
from honed.server.auth import Caller
from honed.server.errors import NotFound
from honed.server.routes.document import body_of
from honed.server.storage import Storage
from honed.server.store import completions
from honed.server.store.completions import StoredCompletion
from honed.server.store.erasure import erase_completion
from honed.server.validation import warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.stored import (
    DeletedChatCompletion,
    PromptMessage,
    PromptMessageList,
    StoredChatCompletion,
    StoredChatCompletionList,
    StoredChoice,
    StoredMessage,
    UpdateRequest,
)
from honed.server.wire.usage import Usage

router = APIRouter(responses={"default": {"model": ErrorBody}})

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]
_METADATA_FILTER = re.compile(r"metadata\[(.*)\]")


@router.get("/v1/chat/completions")
async def list_chat_completions(
    http: Request, after: str | None = None, limit: Limit = 20, order: Order = "asc", model: str | None = None
) -> StoredChatCompletionList:
    """The caller's stored completions (an admin's: everybody's); `metadata[KEY]=VALUE` narrows them down."""
    caller = identify(http)
    await caught_up(http)
    storage: Storage = http.app.state.storage
    tags = metadata_filter(http)
    page, has_more = await storage.read(
        completions.list_chats,
        storage.sealer,
        scope=caller.scope,
        after=after,
        limit=limit,
        order=order,
        model=model,
        tags=tags,
    )
    data = [_completion(stored) for stored in page]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return StoredChatCompletionList(data=data, first_id=first_id, last_id=last_id, has_more=has_more)


@router.get("/v1/chat/completions/{completion_id}")
async def retrieve_chat_completion(http: Request, completion_id: str) -> StoredChatCompletion:
    return _completion(await _found(http, identify(http), completion_id))


@router.get("/v1/chat/completions/{completion_id}/messages")
async def list_chat_completion_messages(
    http: Request, completion_id: str, after: str | None = None, limit: Limit = 20, order: Order = "asc"
) -> PromptMessageList:
    """The messages of the prompt."""
    stored = await _found(http, identify(http), completion_id)
    messages = [PromptMessage(id=f"{stored.id}-{place}", **message) for place, message in enumerate(stored.messages)]
    if order == "desc":
        messages.reverse()
    ids = [message.id for message in messages]
    rest = messages[ids.index(after) + 1 :] if after in ids else messages
    page = rest[:limit]
    first_id, last_id = (page[0].id, page[-1].id) if page else (None, None)
    return PromptMessageList(data=page, first_id=first_id, last_id=last_id, has_more=len(rest) > limit)


@router.post("/v1/chat/completions/{completion_id}", openapi_extra=body_of(UpdateRequest))
async def update_chat_completion(http: Request, response: Response, completion_id: str) -> StoredChatCompletion:
    """Puts new metadata in the place of the old."""
    caller = identify(http)
    request, unknown = await read_request(http, UpdateRequest)
    response.headers.update(warning_header(unknown))
    await _found(http, caller, completion_id)
    await http.app.state.storage.write(completions.set_tags, completion_id, request.metadata)
    return _completion(await _found(http, caller, completion_id))


@router.delete("/v1/chat/completions/{completion_id}")
async def delete_chat_completion(http: Request, completion_id: str) -> DeletedChatCompletion:
    """Erases it, with the feedback on it and its place in every snapshot."""
    await _found(http, identify(http), completion_id)
    storage: Storage = http.app.state.storage
    await storage.run(erase_completion, storage.engine, completion_id)
    return DeletedChatCompletion(id=completion_id)


def metadata_filter(http: Request) -> dict[str, str]:
    """The pairs that a query asks for."""
    return {
        found[1]: value
        for name, value in http.query_params.items()
        if (found := _METADATA_FILTER.fullmatch(name)) is not None
    }


async def _found(http: Request, caller: Caller, completion_id: str) -> StoredCompletion:
    """Raises NotFound, also for somebody else's."""
    await arrived(http, [completion_id])
    storage: Storage = http.app.state.storage
    stored = await storage.read(completions.get_chat, storage.sealer, completion_id, scope=caller.scope)
    if stored is None:
        raise NotFound("There is no such stored completion.", param="completion_id")
    return stored


def _completion(stored: StoredCompletion) -> StoredChatCompletion:
    params: dict[str, Any] = stored.params
    return StoredChatCompletion(
        id=stored.id,
        created=int(stored.created.timestamp()),
        model=stored.model,
        system_fingerprint=stored.policy_id,
        request_id=stored.request_id,
        temperature=params.get("temperature"),
        top_p=params.get("top_p"),
        presence_penalty=params.get("presence_penalty"),
        frequency_penalty=params.get("frequency_penalty"),
        seed=params.get("seed"),
        metadata=stored.tags,
        choices=[
            StoredChoice(
                index=choice.index, message=StoredMessage(content=choice.text), finish_reason=choice.finish_reason
            )
            for choice in stored.choices
        ],
        usage=Usage.of(
            prompt_tokens=stored.prompt_tokens,
            completion_tokens=stored.completion_tokens,
            cached_tokens=stored.cached_tokens,
        ),
    )
