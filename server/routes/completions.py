"""`POST /v1/completions`: OpenAI's older endpoint, which continues texts or token ids as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from honed.models.chat import replace_lone_surrogates
from honed.server.admission import (
    identify,
    make_prompt,
    note_end_user,
    read_request,
    require_capacity,
    tokenize,
)
from honed.server.answering import respond, start
from honed.server.generation import Prompt
from honed.server.logprobs import CompletionTokenWriter
from honed.server.remembering import AskedPrompt, Exchange, completion_id, consent_of
from honed.server.routes.document import document
from honed.server.served import ServedPolicy
from honed.server.store.exchange.records import TEXT_ROLE
from honed.server.streaming import padding
from honed.server.transcript import Delta
from honed.server.wire.completions import Completion, CompletionChoice, CompletionRequest
from honed.server.wire.usage import Usage

router = APIRouter()


@router.post("/v1/completions", **document(CompletionRequest, Completion, Completion))
async def create_completion(http: Request) -> Response:
    """Continuations of prompts, whole or as server-sent events."""
    caller = identify(http)
    request, unknown = await read_request(http, CompletionRequest)
    note_end_user(http, request.end_user)
    consent = consent_of(http, caller)
    async with http.app.state.service.answering(request.model, request.end_user) as served:
        require_capacity(served, len(request.prompts) * request.n, "n" if request.n > 1 else "prompt")
        prompts = await _prompts(request, served)
        created_s = time.time()
        exchange = Exchange(
            endpoint="text",
            http=http,
            request=request,
            caller=caller,
            consent=consent,
            served=served,
            generation=start(http, request, served, prompts),
            prompts=[_asked(prompt, served) for prompt in request.prompts] if consent.is_kept else [],
            id=completion_id("text", created_s),
            created_s=created_s,
            end_user=request.end_user,
        )
        return await respond(exchange, CompletionAnswer(exchange, request, prompts), unknown)


def _asked(prompt: str | list[int], served: ServedPolicy) -> AskedPrompt:
    """For the store, which keeps texts: token ids are kept beside theirs."""
    if isinstance(prompt, str):
        return AskedPrompt([{"role": TEXT_ROLE, "content": prompt}])
    text = b"".join(map(served.token_bytes.display_bytes, prompt)).decode("utf-8", "replace")
    return AskedPrompt([{"role": TEXT_ROLE, "content": text}], prompt)


async def _prompts(request: CompletionRequest, served: ServedPolicy) -> list[Prompt]:
    tokenizer = served.policy.tokenizer

    def encode(prompt: str | list[int]) -> list[int]:
        """A text gets the tokenizer's own beginning (BOS, where it has one); token ids are taken as they are."""
        return prompt if isinstance(prompt, list) else list(tokenizer.encode(replace_lone_surrogates(prompt)))

    ids = await tokenize(served, lambda: [encode(prompt) for prompt in request.prompts])
    return [
        make_prompt(
            request,
            served,
            each,
            max_tokens=request.max_tokens,
            top_logprobs=request.logprobs or 0,
            param="prompt",
        )
        for each in ids
    ]


class CompletionAnswer:
    """One request's deltas in OpenAI's shape: `whole` or `lines`, one of the two, once."""

    def __init__(self, exchange: Exchange, request: CompletionRequest, prompts: list[Prompt]) -> None:
        served, generation = exchange.served, exchange.generation
        self._request = request
        self._generation = generation
        self._prompts = prompts
        count = generation.num_choices
        self._token_writers = [CompletionTokenWriter(served.token_bytes) for _ in range(count)]
        self._envelope: dict[str, Any] = {
            "id": exchange.id,
            "created": int(exchange.created_s),
            "model": served.policy.name,
            "system_fingerprint": served.policy.id,
        }

    async def whole(self) -> str:
        parts = await self._generation.by_choice()
        choices = [self._choice(index, deltas, is_first=True) for index, deltas in enumerate(parts)]
        return Completion(**self._envelope, choices=choices, usage=self._usage()).to_json(include_usage=True)

    async def lines(self) -> AsyncIterator[str]:
        """A chunk a delta; the last of each choice has its finish reason. Then, if asked for, the usage."""
        options = self._request.stream_options
        include_usage = options is not None and options.include_usage
        begun: set[int] = set()
        async for delta in self._generation.deltas():
            chunk = Completion(
                **self._envelope,
                choices=[self._choice(delta.choice, [delta], is_first=delta.choice not in begun)],
                usage=self._usage() if options and options.continuous_usage_stats else None,
                obfuscation=padding(delta.text) if options is None or options.include_obfuscation else None,
            )
            begun.add(delta.choice)
            yield chunk.to_json(include_usage=include_usage)
        if include_usage:
            yield Completion(**self._envelope, choices=[], usage=self._usage()).to_json(include_usage=True)

    def _choice(self, index: int, deltas: list[Delta], *, is_first: bool) -> CompletionChoice:
        tokens = [token for delta in deltas for token in delta.tokens]
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._token_writers[index].write(tokens, self._request.logprobs)
        with_ids = self._request.return_token_ids
        return CompletionChoice(
            index=index,
            text="".join(delta.text for delta in deltas),
            logprobs=logprobs,
            finish_reason=deltas[-1].finish_reason,
            token_ids=[token.token_id for token in tokens] if with_ids else None,
            prompt_token_ids=self._prompts[index // self._request.n].ids if with_ids and is_first else None,
        )

    def _usage(self) -> Usage:
        return Usage.of(
            prompt_tokens=self._generation.prompt_tokens,
            completion_tokens=self._generation.completion_tokens,
            cached_tokens=self._generation.cached_tokens,
        )
