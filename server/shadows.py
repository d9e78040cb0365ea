"""Answers that nobody sees: what a candidate says to the requests of some users, beside the policy in service.

The candidate answers the same messages with the same settings once the user's answer has ended and is remembered, in a
task of its own. Both answers are remembered as one completion of the candidate, a pair (`store/pairs.py`), which
labelers compare. Who is shadowed is the canary's rule. Invariants: no request waits for a shadow or fails by it; only
what may be trained on is shadowed, since labelers are to see it; at most AT_ONCE shadows run, none takes a place in the
batch from a request that waits for one, and what there is no room for is counted and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from honed.server.canary import gets_candidate
from honed.server.errors import ServerError, is_fault
from honed.server.generation import Generation, Prompt
from honed.server.policies import Service
from honed.server.recording import Recorder
from honed.server.remembering import Exchange, completion_id
from honed.server.served import ServedPolicy
from honed.server.store import pairs
from honed.server.store.logged import LoggedChoice, LoggedCompletion

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8

MakePrompt = Callable[[ServedPolicy], Awaitable[Prompt]]  # the request's, for another policy


class Shadows:
    """`follow` is for the event loop, as is all of it."""

    def __init__(self, service: Service, recorder: Recorder) -> None:
        self._service = service
        self._recorder = recorder
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def follow(self, exchange: Exchange, make_prompt: MakePrompt) -> None:
        """Has the candidate answer too, if it is to answer this user unseen. To be called when the answer to the user
        is remembered; returns at once."""
        candidate = self._candidate_for(exchange)
        if candidate is None:
            return
        if len(self._running) >= AT_ONCE or candidate.num_live >= candidate.max_running:
            self._service.metrics.shadows.labels("no_room").inc()
            return
        task = asyncio.create_task(self._shadow(exchange, make_prompt, candidate))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def cancel(self) -> None:
        """No more of them, and those that run end within a step."""
        self._closed = True
        for task in self._running:
            task.cancel()

    def _candidate_for(self, exchange: Exchange) -> ServedPolicy | None:
        promotion, candidate = self._service.followed, self._service.engines.candidate
        if self._closed or promotion is None or not promotion.is_shadow or candidate is None or not candidate.is_alive:
            return None
        if not exchange.is_assigned or not exchange.consent.trainable or exchange.served is candidate:
            return None
        seen = exchange.generation.transcript.choices(0, exchange.generation.num_choices)
        if len(seen) != 1 or seen[0].finish_reason is None:
            return None
        is_chosen = gets_candidate(candidate.policy.id, promotion.share, exchange.end_user)
        return candidate if is_chosen else None

    async def _shadow(self, exchange: Exchange, make_prompt: MakePrompt, candidate: ServedPolicy) -> None:
        """The edge: whatever goes wrong here is counted, and ends here."""
        outcomes = self._service.metrics.shadows
        try:
            with candidate.leased():
                await self._answer(exchange, await make_prompt(candidate), candidate)
        except asyncio.CancelledError:
            outcomes.labels("cut_off").inc()
            raise
        except Exception as error:  # what nobody foresaw included
            if is_fault(error):
                candidate.count_failure()
            if not isinstance(error, ServerError):
                logger.exception("%s failed in the shadow", candidate.policy.name)
            outcomes.labels("failed" if is_fault(error) else "unanswered").inc()
        else:
            candidate.count_answer()
            outcomes.labels("answered").inc()

    async def _answer(self, exchange: Exchange, prompt: Prompt, candidate: ServedPolicy) -> None:
        created_s = time.time()
        generation = Generation(
            candidate,
            self._service.metrics,
            [prompt],
            n=1,
            seed=exchange.request.seed,
            stop=exchange.request.stop_strings,
            timeout_s=self._service.settings.request_timeout_s,
        )
        try:
            await generation.by_choice()
        finally:
            generation.close()
        shadow = replace(
            exchange, served=candidate, generation=generation, id=completion_id("chat", created_s), created_s=created_s
        )
        self._recorder.record(_pair(exchange, shadow))


def _pair(seen: Exchange, shadow: Exchange) -> LoggedCompletion:
    """The shadow's completion, with what the user saw as the rival where that reads otherwise."""
    own, rival = shadow.completion(0), seen.completion(0)
    choices: list[LoggedChoice] = [*own.choices]
    if own.choices[0].text.strip() != rival.choices[0].text.strip():
        choices.append(replace(rival.choices[0], index=pairs.RIVAL, source=rival.policy_id))
    return replace(
        own,
        source=pairs.SHADOW,
        choices=choices,
        derived_from=rival.id,
        assigned=False,
        retrievable=False,
        tags={},
    )
