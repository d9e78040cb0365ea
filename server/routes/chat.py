"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from honed.models.chat import ChatTemplateError, render_chat
from honed.server.admission import (
    identify,
    make_prompt,
    note_end_user,
    read_request,
    require_capacity,
    tokenize,
)
from honed.server.answering import respond, start
from honed.server.consent import Consent
from honed.server.errors import InvalidValue
from honed.server.generation import Prompt
from honed.server.logprobs import chat_logprobs
from honed.server.remembering import AskedPrompt, Exchange, completion_id, consent_of
from honed.server.routes.document import document
from honed.server.served import ServedPolicy
from honed.server.shadows import Shadows
from honed.server.streaming import padding
from honed.server.transcript import Delta
from honed.server.wire.chat import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatDelta,
    ChatMessage,
)
from honed.server.wire.logprobs import ChatLogprobs
from honed.server.wire.messages import for_template
from honed.server.wire.usage import Usage

router = APIRouter()


@router.post("/v1/chat/completions", **document(ChatCompletionRequest, ChatCompletion, ChatCompletionChunk))
async def create_chat_completion(http: Request) -> Response:
    """An answer to a conversation, whole or as server-sent events."""
    caller = identify(http)
    request, unknown = await read_request(http, ChatCompletionRequest)
    note_end_user(http, request.end_user)
    consent = consent_of(http, caller, request.store)
    require_kept(request.metadata, consent)
    async with http.app.state.service.answering(request.model, request.end_user) as served:
        require_capacity(served, request.n, "n")
        prompt = await _prompt(request, served)
        created_s = time.time()
        exchange = Exchange(
            endpoint="chat",
            http=http,
            request=request,
            caller=caller,
            consent=consent,
            served=served,
            generation=start(http, request, served, [prompt]),
            prompts=[AskedPrompt([for_template(message) for message in request.messages])],
            id=completion_id("chat", created_s),
            created_s=created_s,
            end_user=request.end_user,
            tags=request.metadata,
        )
        shadows: Shadows = http.app.state.shadows
        return await respond(
            exchange,
            ChatAnswer(exchange, request, prompt.ids),
            unknown,
            then=lambda: shadows.follow(exchange, lambda candidate: _prompt(request, candidate)),
        )


def require_kept(metadata: Mapping[str, str], consent: Consent) -> None:
    """OpenAI's rule. Raises InvalidValue."""
    if metadata and not consent.retrievable:
        raise InvalidValue("Invalid 'metadata': it is only allowed when the completion is stored.", param="metadata")


async def _prompt(request: ChatCompletionRequest, served: ServedPolicy) -> Prompt:
    messages = [for_template(message) for message in request.messages]
    try:
        ids = await tokenize(served, lambda: render_chat(served.policy.tokenizer, messages))
    except ChatTemplateError as error:
        raise InvalidValue(str(error), param="messages") from error
    return make_prompt(
        request,
        served,
        ids,
        max_tokens=request.token_limit,
        top_logprobs=request.top_logprobs or 0,
        param="messages",
    )


class ChatAnswer:
    """One request's deltas in OpenAI's shapes: `whole` or `lines`, one of the two, once."""

    def __init__(self, exchange: Exchange, request: ChatCompletionRequest, prompt_ids: list[int]) -> None:
        served = exchange.served
        self._request = request
        self._served = served
        self._generation = exchange.generation
        self._prompt_ids = prompt_ids if request.return_token_ids else None
        self._envelope: dict[str, Any] = {
            "id": exchange.id,
            "created": int(exchange.created_s),
            "model": served.policy.name,
            "system_fingerprint": served.policy.id,
            "service_tier": "default" if request.service_tier else None,
        }

    async def whole(self) -> str:
        parts = await self._generation.by_choice()
        completion = ChatCompletion(
            **self._envelope,
            choices=[self._choice(index, deltas) for index, deltas in enumerate(parts)],
            usage=self._usage(),
            prompt_token_ids=self._prompt_ids,
        )
        return completion.model_dump_json()

    async def lines(self) -> AsyncIterator[str]:
        """A chunk with the role for each choice, the deltas, an empty one with each finish reason, the usage."""
        for index in range(self._generation.num_choices):
            yield self._line(index, ChatDelta(role="assistant", content=""), prompt_ids=self._prompt_ids)
        async for delta in self._generation.deltas():
            for line in self._delta_lines(delta):
                yield line
        if self._include_usage:
            chunk = ChatCompletionChunk(**self._envelope, choices=[], usage=self._usage())
            yield chunk.to_json(include_usage=True)

    def _delta_lines(self, delta: Delta) -> Iterator[str]:
        if delta.text or delta.tokens:
            yield self._line(delta.choice, ChatDelta(content=delta.text), delta)
        if delta.finish_reason is not None:
            yield self._line(delta.choice, ChatDelta(), finish_reason=delta.finish_reason)

    def _line(
        self,
        index: int,
        content: ChatDelta,
        delta: Delta | None = None,
        *,
        finish_reason: Any = None,
        prompt_ids: list[int] | None = None,
    ) -> str:
        choice = ChatChunkChoice(
            index=index,
            delta=content,
            logprobs=self._logprobs([delta]) if delta else None,
            finish_reason=finish_reason,
            token_ids=self._token_ids([delta]) if delta else None,
        )
        options = self._request.stream_options
        chunk = ChatCompletionChunk(
            **self._envelope,
            choices=[choice],
            usage=self._usage() if options and options.continuous_usage_stats else None,
            obfuscation=padding(content.content or "") if options is None or options.include_obfuscation else None,
            prompt_token_ids=prompt_ids,
        )
        return chunk.to_json(include_usage=self._include_usage)

    def _choice(self, index: int, deltas: list[Delta]) -> ChatChoice:
        ending = deltas[-1].finish_reason
        assert ending is not None, "the last delta of a choice ends it"
        return ChatChoice(
            index=index,
            message=ChatMessage(content="".join(delta.text for delta in deltas)),
            logprobs=self._logprobs(deltas),
            finish_reason=ending,
            token_ids=self._token_ids(deltas),
        )

    def _logprobs(self, deltas: list[Delta]) -> ChatLogprobs | None:
        if not self._request.logprobs:
            return None
        return chat_logprobs([token for delta in deltas for token in delta.tokens], self._served.token_bytes)

    def _token_ids(self, deltas: list[Delta]) -> list[int] | None:
        if not self._request.return_token_ids:
            return None
        return [token.token_id for delta in deltas for token in delta.tokens]

    @property
    def _include_usage(self) -> bool:
        options = self._request.stream_options
        return options is not None and options.include_usage

    def _usage(self) -> Usage:
        return Usage.of(
            prompt_tokens=self._generation.prompt_tokens,
            completion_tokens=self._generation.completion_tokens,
            cached_tokens=self._generation.cached_tokens,
        )
