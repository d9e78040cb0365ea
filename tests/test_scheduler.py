"""The scheduler and the cache's books by property: whatever comes, no block leaks and every request ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from honed.models.engine.kv_cache import KVCache
from honed.models.engine.scheduler import Chunk, Scheduler
from honed.models.engine.sequence import FinishReason, SamplingParams, Sequence

BLOCK = 4


def request(length: int, max_tokens: int = 8, token: int = 1, leader: Sequence | None = None) -> Sequence:
    return Sequence((token,) * length, SamplingParams(max_tokens=max_tokens), seed=0, leader=leader)


def advance(cache: KVCache, scheduler: Scheduler, chunks: list[Chunk], next_token: int = 9) -> None:
    """What the engine does after a forward pass, with a model that always says `next_token`."""
    for chunk in chunks:
        assert chunk.start == chunk.sequence.num_computed < chunk.end <= chunk.sequence.num_tokens
        ends = chunk.is_last
        chunk.sequence.num_computed = chunk.end
        cache.register(chunk.sequence)
        if ends:
            chunk.sequence.token_ids.append(next_token)
            if chunk.sequence.num_output >= chunk.sequence.params.max_tokens:
                scheduler.finish(chunk.sequence, FinishReason.LENGTH)


def test_answering_comes_before_reading() -> None:
    cache = KVCache(64, BLOCK)
    scheduler = Scheduler(cache, max_batch_tokens=8, max_sequences=4)
    long, short = request(30), request(3, token=2)
    scheduler.add(short)
    advance(cache, scheduler, scheduler.schedule())
    scheduler.add(long)
    chunks = scheduler.schedule()
    assert [(c.sequence, c.end - c.start) for c in chunks] == [(short, 1), (long, 7)]


def test_admission_waits_for_memory_and_does_not_overtake() -> None:
    cache = KVCache(1 + 8, BLOCK)
    scheduler = Scheduler(cache, max_batch_tokens=64, max_sequences=4)
    first, big, small = request(16), request(24, token=2), request(2, token=3)
    for sequence in (first, big, small):
        scheduler.add(sequence)
    assert [c.sequence for c in scheduler.schedule()] == [first]
    scheduler.finish(first, FinishReason.ABORT)
    assert [c.sequence for c in scheduler.schedule()] == [big, small]


def test_the_newest_gives_up_its_blocks() -> None:
    cache = KVCache(1 + 4, BLOCK)
    scheduler = Scheduler(cache, max_batch_tokens=64, max_sequences=4)
    old, new = request(4, max_tokens=12), request(4, max_tokens=12, token=2)
    scheduler.add(old)
    scheduler.add(new)
    while not old.is_finished:
        advance(cache, scheduler, scheduler.schedule())
        cache.check_integrity(scheduler.running)
        assert old not in scheduler.waiting
    assert scheduler.preemptions > 0
    while not new.is_finished:
        advance(cache, scheduler, scheduler.schedule())
    assert new.num_output == 12


def test_a_request_that_could_never_fit_is_a_fault_of_the_caller() -> None:
    scheduler = Scheduler(KVCache(1 + 2, BLOCK), max_batch_tokens=64, max_sequences=4)
    with pytest.raises(AssertionError):
        scheduler.add(request(6, max_tokens=3))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2)), max_size=12))
@settings(deadline=None)
def test_everybody_ends(requests: list[tuple[int, int, int]]) -> None:
    cache = KVCache(1 + 16, BLOCK)
    scheduler = Scheduler(cache, max_batch_tokens=8, max_sequences=4)
    sequences = [request(length, min(more, 64 - length), token) for length, more, token in requests]
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(5000):
        chunks = scheduler.schedule()
        if not chunks:
            break
        advance(cache, scheduler, chunks)
        cache.check_integrity(scheduler.running)
    assert all(sequence.is_finished for sequence in sequences)
    assert cache.usage == 0


class Traffic(RuleBasedStateMachine):
    """Requests come, share beginnings, follow leaders, are aborted and preempted, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(1 + 12, BLOCK)
        self.scheduler = Scheduler(self.cache, max_batch_tokens=6, max_sequences=3)
        self.sequences: list[Sequence] = []

    @rule(
        length=st.integers(1, 30),
        more=st.integers(1, 18),
        token=st.integers(0, 1),
        followers=st.integers(0, 3),
    )
    def arrive(self, length: int, more: int, token: int, followers: int) -> None:
        leader = request(length, min(more, 48 - length), token)
        group = [leader] + [request(length, leader.params.max_tokens, token, leader) for _ in range(followers)]
        for sequence in group:
            self.scheduler.add(sequence)
        self.sequences += group

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.scheduler.finish(data.draw(st.sampled_from(self.sequences)), FinishReason.ABORT)

    @rule(token=st.integers(0, 1))
    def step(self, token: int) -> None:
        chunks = self.scheduler.schedule()
        assert sum(c.end - c.start for c in chunks) <= self.scheduler.max_batch_tokens
        assert bool(chunks) == bool(self.scheduler.running)
        advance(self.cache, self.scheduler, chunks, token)

    @invariant()
    def balances(self) -> None:
        self.cache.check_integrity(self.scheduler.running)
        living = {s for s in self.sequences if not s.is_finished}
        assert living == {*self.scheduler.running, *self.scheduler.waiting}
        assert len(living) == len(self.scheduler.running) + len(self.scheduler.waiting)
        assert all(s.num_computed < s.num_tokens for s in living)

    def teardown(self) -> None:
        for _ in range(10_000):
            chunks = self.scheduler.schedule()
            if not chunks:
                break
            advance(self.cache, self.scheduler, chunks)
        assert all(sequence.is_finished for sequence in self.sequences)
        assert self.cache.usage == 0


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)
