"""Making labeling tasks: prompts sampled from the store, each answered K times by the policy in service.

The answers are drawn as training wants them, at temperature 1 from the whole distribution, through the engine that
serves. They are for ranking, so of answers that read the same the first is kept. A prompt that can make no task is
passed over, the reason is counted, and the next is sampled. Invariants: each task is stored as soon as its answers are
there, so that what was made before a failure stays; at most ANSWERS_AT_ONCE answers are in the engine, so that a large
order does not crowd out the clients.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count

from fastapi import Request

from honed.models.chat import ChatTemplateError, render_chat
from honed.server.admission import make_prompt, require_capacity, tokenize
from honed.server.errors import ContextLengthExceeded, InvalidValue, ServerError
from honed.server.generation import Generation, Prompt
from honed.server.policies import CURRENT, Service
from honed.server.remembering import completion_id, sampling_params
from honed.server.served import ServedPolicy
from honed.server.storage import Storage
from honed.server.store import labeling, sampling
from honed.server.store.ingest import Ingest
from honed.server.store.labeling import PassedOverError, StoredTask
from honed.server.store.logged import LoggedChoice, LoggedCompletion
from honed.server.store.sampling import SampledPrompt
from honed.server.store.users import load_salt
from honed.server.wire.labeling import TasksRequest
from honed.server.wire.sampling import SamplingRequest

ANSWERS_AT_ONCE = 32
MIN_DISTINCT = 2  # answers that can be ranked
MAX_PASSED_OVER = 64  # prompts a request: then something is wrong with them, or with the policy


@dataclass(frozen=True, slots=True)
class _Question:
    sampled: SampledPrompt
    prompt: Prompt


class TaskMaker:
    """One request for tasks: `make`, once, then look at what it made. `stopped` says why that is less than asked for:
    `no_prompts`, `passed_over`, or the code of the error that came between."""

    def __init__(self, http: Request, request: TasksRequest) -> None:
        self.tasks: list[StoredTask] = []
        self.passed_over: Counter[str] = Counter()
        self.stopped: str | None = None
        self._service: Service = http.app.state.service
        self._storage: Storage = http.app.state.storage
        self._request_id: str = http.state.request_id
        self._order = request
        self._params = SamplingRequest(model=CURRENT, temperature=1.0, top_p=1.0, n=request.answers, seed=request.seed)
        self._starts = _starts(request.seed)
        self._tried: set[int] = set()
        self._ends_s = time.monotonic() + http.app.state.settings.request_timeout_s

    async def make(self) -> None:
        """Raises ServerError where not even the first task could be made."""
        try:
            salt = await self._storage.run(load_salt, self._storage.engine)
            ingest = Ingest(salt, self._storage.sealer)
            while len(self.tasks) < self._order.count and self.stopped is None:
                async with self._service.leased(CURRENT) as served:
                    await self._round(served, ingest)
        except ServerError as error:
            if not self.tasks:
                raise
            self.stopped = error.code

    async def _round(self, served: ServedPolicy, ingest: Ingest) -> None:
        """As many tasks as fit into the engine at once, all by one policy."""
        require_capacity(served, self._order.answers, "answers")
        if (room := served.context_length - 1) < self._order.max_tokens:
            message = f"Invalid 'max_tokens': the model's context has room for answers of at most {room} tokens."
            raise InvalidValue(message, param="max_tokens")
        questions = await self._questions(served)
        if not questions:
            return
        created_s = time.time()
        generation = Generation(
            served,
            self._service.metrics,
            [question.prompt for question in questions],
            n=self._order.answers,
            seed=self._order.seed,
            stop=(),
            timeout_s=max(0.0, self._ends_s - time.monotonic()),
        )
        try:
            await generation.by_choice()
        finally:
            generation.close()
        for index, question in enumerate(questions):
            await self._keep(ingest, question, self._answers(served, generation, index, question, created_s))

    async def _questions(self, served: ServedPolicy) -> list[_Question]:
        """Prompts for a round; fewer, and `stopped` is set, where there are no more."""
        at_once = max(1, min(ANSWERS_AT_ONCE, served.max_live) // self._order.answers)
        questions: list[_Question] = []
        while len(questions) < min(at_once, self._order.count - len(self.tasks)):
            if self.passed_over.total() >= MAX_PASSED_OVER:
                self.stopped = "passed_over"
                break
            sampled = await self._storage.read(sampling.sample, next(self._starts), self._tried)
            if sampled is None:
                self.stopped = "no_prompts"
                break
            self._tried.add(sampled.prefix)
            prompt = await self._prompt(served, sampled)
            if prompt is not None:
                questions.append(_Question(sampled, prompt))
        return questions

    async def _prompt(self, served: ServedPolicy, sampled: SampledPrompt) -> Prompt | None:
        """None where the policy cannot answer it, or where the context has no room for a whole answer: InstructGPT
        leaves long prompts out too (Ouyang et al. 2022, appendix C)."""
        try:
            ids = await tokenize(served, lambda: _token_ids(served, sampled))
            prompt = make_prompt(
                self._params, served, ids, max_tokens=self._order.max_tokens, top_logprobs=0, param="messages"
            )
        except ContextLengthExceeded:
            self.passed_over["too_long"] += 1
            return None
        except (ChatTemplateError, InvalidValue):
            self.passed_over["unrenderable"] += 1
            return None
        if prompt.params.max_tokens < self._order.max_tokens:
            self.passed_over["too_long"] += 1
            return None
        return prompt

    def _answers(
        self, served: ServedPolicy, generation: Generation, index: int, question: _Question, created_s: float
    ) -> LoggedCompletion:
        sampled, n = question.sampled, self._order.answers
        choices = _distinct(generation.transcript.choices(index * n, (index + 1) * n))
        return LoggedCompletion(
            id=completion_id(sampled.endpoint, created_s),
            endpoint=sampled.endpoint,
            source=labeling.SOURCE,
            created_s=created_s,
            model=served.policy.name,
            policy_id=served.policy.id,
            request_id=self._request_id,
            messages=sampled.messages,
            choices=choices,
            params=sampling_params(self._params) | {"max_tokens": self._order.max_tokens},
            prompt_tokens=generation.prompt_lengths[index],
            completion_tokens=sum(len(choice.token_ids or ()) for choice in choices),
            cached_tokens=generation.cached_lengths[index],
            total_ms=round(generation.elapsed_s * 1000),
            key_id=sampled.key_id,
            user_hash=sampled.user_hash,
            derived_from=sampled.completion_id,
            retrievable=False,
            trainable=True,
        )

    async def _keep(self, ingest: Ingest, question: _Question, answers: LoggedCompletion) -> None:
        if len(answers.choices) < MIN_DISTINCT:
            self.passed_over["identical"] += 1
            return
        try:
            task = await self._storage.write(
                labeling.create, ingest, question.sampled, answers, wanted=self._order.labelers
            )
        except PassedOverError as error:
            self.passed_over[error.obstacle] += 1
        else:
            self.tasks.append(task)


def _token_ids(served: ServedPolicy, sampled: SampledPrompt) -> list[int]:
    """A text as `/v1/completions` reads it, also where its client sent ids: they were another policy's, perhaps."""
    tokenizer = served.policy.tokenizer
    if sampled.endpoint == "text":
        return list(tokenizer.encode(sampled.messages[0]["content"]))
    return render_chat(tokenizer, sampled.messages)


def _distinct(choices: Sequence[LoggedChoice]) -> list[LoggedChoice]:
    """The first of those that read the same, numbered anew."""
    texts: dict[str, LoggedChoice] = {}
    for choice in choices:
        texts.setdefault(choice.text.strip(), choice)
    return [replace(choice, index=index) for index, choice in enumerate(texts.values())]


def _starts(seed: int | None) -> Iterator[int]:
    """Where to look for prompts: signed 64-bit numbers, the same ones for the same seed."""
    for number in count():
        if seed is None:
            yield secrets.randbits(64) + sampling.LOWEST
        else:
            drawn = blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
            yield int.from_bytes(drawn, "little", signed=True)
