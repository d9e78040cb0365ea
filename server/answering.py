"""What the two completion endpoints do alike: start a generation, and send its answer whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from fastapi import Request, Response

from honed.server.disconnection import unless_disconnected
from honed.server.errors import is_fault
from honed.server.generation import Generation, Prompt
from honed.server.remembering import Exchange
from honed.server.served import ServedPolicy
from honed.server.streaming import EventStream
from honed.server.validation import warning_header
from honed.server.wire.sampling import SamplingRequest


class Answer(Protocol):
    """A generation's deltas in an endpoint's shape: `whole` or `lines`, one of the two, once."""

    async def whole(self) -> str:
        """The unstreamed answer, as JSON."""

    def lines(self) -> AsyncIterator[str]:
        """The chunks of the stream, as JSON."""


def start(http: Request, request: SamplingRequest, served: ServedPolicy, prompts: list[Prompt]) -> Generation:
    """Raises Overloaded, Draining and EngineDead."""
    return Generation(
        served,
        http.app.state.service.metrics,
        prompts,
        n=request.n,
        seed=request.seed,
        stop=request.stop_strings,
        timeout_s=http.app.state.settings.request_timeout_s,
    )


async def respond(
    exchange: Exchange, answer: Answer, unknown: list[str], then: Callable[[], None] = lambda: None
) -> Response:
    """Sends the answer as the request wants it, closes the generation however that goes, has remembered what was sent,
    and then calls `then`. `unknown`: the keys of the request that were ignored. Counts how it went where the server
    chose the policy, but for what is raised here."""
    http, generation = exchange.http, exchange.generation
    headers = warning_header(unknown)
    if exchange.request.stream:

        def end() -> None:
            generation.close()
            exchange.remember()
            then()

        lines = _counted(answer.lines(), exchange.served) if exchange.is_assigned else answer.lines()
        timeout_s = http.app.state.settings.request_timeout_s
        return EventStream(lines, headers=headers, timeout_s=timeout_s, on_end=end)
    try:
        whole = await unless_disconnected(http, answer.whole())
    finally:
        generation.close()
    if exchange.is_assigned:
        exchange.served.count_answer()
    exchange.remember()
    then()
    return Response(whole, headers=headers, media_type="application/json")


async def _counted(lines: AsyncIterator[str], served: ServedPolicy) -> AsyncIterator[str]:
    try:
        async for line in lines:
            yield line
    except Exception as error:  # whatever it is, it is only counted here
        if is_fault(error):
            served.count_failure()
        raise
    served.count_answer()
