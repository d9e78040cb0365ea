"""What a valid request asks for, in the engine's terms, or a refusal: before anything is computed or sent. Shared by
chat and legacy completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from honed.models.engine.sequence import SamplingParams
from honed.server.auth import Caller, KeyRing, require_own_page, short_hash
from honed.server.errors import ContextLengthExceeded, InvalidValue
from honed.server.generation import Prompt
from honed.server.served import ServedPolicy
from honed.server.validation import parse_request
from honed.server.wire.request import RequestPart
from honed.server.wire.sampling import SamplingRequest

RequestT = TypeVar("RequestT", bound=RequestPart)
ResultT = TypeVar("ResultT")


def identify(http: Request) -> Caller:
    """Raises InvalidApiKey or ForeignPage unless the caller may use this server. The access log learns who it was."""
    ring: KeyRing = http.app.state.keyring
    require_own_page(ring, http.headers.get("host"), http.headers.get("origin"))
    caller = ring.verify(http.headers.get("authorization"))
    http.state.key_id = caller.key_id
    return caller


def note_end_user(http: Request, end_user: str | None) -> None:
    """For the access log: which of the client's users this was, hashed."""
    if end_user is not None:
        http.state.user_hash = short_hash(end_user)


async def read_request(http: Request, model: type[RequestT]) -> tuple[RequestT, list[str]]:
    """The body as a request, and the keys in it that nobody knows."""
    return parse_request(model, await http.body(), strict=http.app.state.settings.strict)


async def tokenize(served: ServedPolicy, work: Callable[[], ResultT]) -> ResultT:
    """Runs tokenizer work off the event loop, in the policy's own thread for it."""
    return await asyncio.get_running_loop().run_in_executor(served.tokenizing, work)


def make_prompt(
    request: SamplingRequest,
    served: ServedPolicy,
    ids: list[int],
    *,
    max_tokens: int | None,
    top_logprobs: int,
    param: str,
) -> Prompt:
    """Checks the prompt against the context and the vocabulary; `max_tokens` is clamped to what fits, and None takes
    all of it. `param` names the prompt in errors. Raises ContextLengthExceeded and InvalidValue."""
    if not ids:
        raise InvalidValue(f"Invalid '{param}': it has no tokens.", param=param)
    room = served.context_length - len(ids)
    if room < 1:
        raise ContextLengthExceeded(prompt_tokens=len(ids), max_tokens=served.context_length, param=param)
    size = served.policy.vocab_size
    _require_in_vocabulary(ids, size, param)
    _require_in_vocabulary(request.stop_token_ids, size, "stop_token_ids")
    bias = {int(token): value for token, value in request.logit_bias.items()}
    _require_in_vocabulary(list(bias), size, "logit_bias")
    eos = frozenset() if request.ignore_eos else served.policy.eos_token_ids
    params = SamplingParams(
        max_tokens=room if max_tokens is None else min(max_tokens, room),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        logit_bias=bias,
        min_tokens=request.min_tokens,
        stop_token_ids=eos | frozenset(request.stop_token_ids),
        top_logprobs=top_logprobs,
    )
    return Prompt(ids, params)


def _require_in_vocabulary(ids: list[int], size: int, param: str) -> None:
    beyond = next((token for token in ids if token >= size), None)
    if beyond is not None:
        raise InvalidValue(
            f"Invalid '{param}': token id {beyond} is not in the vocabulary, whose ids are 0 to {size - 1}.",
            param=param,
        )


def require_capacity(served: ServedPolicy, count: int, param: str) -> None:
    """Raises InvalidValue where a request has more choices than this server could ever hold at once, and Overloaded
    where it has no room for them now. To be called before the prompt is read."""
    if count > served.max_live:
        raise InvalidValue(
            f"Invalid '{param}': the request asks for {count} choices, and this server takes at most "
            f"{served.max_live} at once.",
            param=param,
        )
    served.require_room(count)
