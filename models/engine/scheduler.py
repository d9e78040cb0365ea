"""Who runs in this step: admits, preempts, finishes. Imports no torch.

Every sequence that was added is in exactly one of `waiting` and `running` until it is finished. First come, first
served, with two rules: sequences that are answering come before prompts that are still being read, so that a long
prompt cannot stall them, and when memory runs out the newest gives up its blocks and is computed again later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from honed.models.engine.kv_cache import KVCache
from honed.models.engine.sequence import FinishReason, Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens `[start, end)` of a sequence, to be run through the model in this step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        """True when this chunk reaches the newest token, whose logits give the next one."""
        return self.end == self.sequence.num_tokens


class Scheduler:
    def __init__(self, cache: KVCache, *, max_batch_tokens: int, max_sequences: int) -> None:
        """`max_batch_tokens`: tokens a step, prompts and answers together. `max_sequences`: running at once."""
        assert max_batch_tokens >= max_sequences >= 1, "every running sequence must get its token each step"
        self.cache = cache
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of arrival
        self.preemptions = 0  # since the start

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. It must fit when it is alone: `prompt + max_tokens` within the cache's capacity."""
        assert len(sequence.prompt_ids) + sequence.params.max_tokens <= self.cache.capacity
        leader = sequence.leader
        assert leader is None or leader.is_finished or leader in self.waiting or leader in self.running, "leaders first"
        self.waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """This step's chunks: answering sequences first. Empty only when nothing is left to do."""
        answering = [s for s in self.running if s.num_tokens - s.num_computed == 1]
        reading = [s for s in self.running if s.num_tokens - s.num_computed > 1]
        queue = answering + reading
        chunks: list[Chunk] = []
        budget = self.max_batch_tokens
        preempted = False
        while len(chunks) < len(queue) and budget > 0:
            sequence = queue[len(chunks)]
            if not self.cache.extend(sequence):
                self._preempt(queue.pop())
                preempted = True
                continue
            chunks.append(_chunk(sequence, budget))
            budget -= chunks[-1].end - chunks[-1].start
        if not preempted:
            self._admit(chunks, budget)
        return chunks

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Ends a sequence, wherever it is. Nothing happens when it has ended before."""
        if sequence.is_finished:
            return
        sequence.finish_reason = reason
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.cache.release(sequence)

    def _admit(self, chunks: list[Chunk], budget: int) -> None:
        """Moves waiting sequences into the running ones while there is room, and adds their first chunks."""
        while budget > 0 and len(self.running) < self.max_sequences:
            sequence = next((s for s in self.waiting if not s.awaits_leader), None)
            # One spare block a running sequence: an admission must not force a preemption in the next step.
            if sequence is None or not self.cache.admit(sequence, spare=len(self.running)):
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)
            if sequence.num_cached is None:
                sequence.num_cached = sequence.num_computed
            chunks.append(_chunk(sequence, budget))
            budget -= chunks[-1].end - chunks[-1].start

    def _preempt(self, sequence: Sequence) -> None:
        """Takes the blocks back; what was sampled stays and is read again, as a prompt, on the next admission."""
        self.running.remove(sequence)
        self.cache.release(sequence)
        self.preemptions += 1
        self.waiting.appendleft(sequence)


def _chunk(sequence: Sequence, budget: int) -> Chunk:
    return Chunk(sequence, sequence.num_computed, min(sequence.num_tokens, sequence.num_computed + budget))
