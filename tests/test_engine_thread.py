"""The engine's thread: whoever was accepted is told the end, exactly once, however it comes."""

import threading
from collections import Counter

import pytest
from fakes import tiny_model

from honed.models.engine.engine import Engine, EngineConfig
from honed.models.engine.sequence import FinishReason, SamplingParams, Sequence
from honed.models.engine.thread import EngineDeadError, EngineThread, Report


class Listener:
    """Collects reports, as the server's event loop would."""

    def __init__(self) -> None:
        self.ends: list[tuple[Sequence, FinishReason]] = []
        self.tokens: Counter[Sequence] = Counter()
        self.last = Report([], None)  # type: ignore[arg-type]
        self.changed = threading.Condition()

    def __call__(self, report: Report) -> None:
        with self.changed:
            self.last = report
            for token in report.tokens:
                self.tokens[token.sequence] += token.sample is not None
                if token.finish_reason is not None:
                    self.ends.append((token.sequence, token.finish_reason))
            self.changed.notify_all()

    def wait(self, condition: str, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(getattr(self, condition)) >= count, timeout=60)


def make_engine() -> Engine:
    return Engine(tiny_model(), EngineConfig(num_blocks=512, block_size=4, max_batch_tokens=16, max_sequences=4))


def request(max_tokens: int, token: int = 5) -> Sequence:
    return Sequence((token,) * 6, SamplingParams(max_tokens=max_tokens), seed=token)


def test_answers_come_and_the_gauges_return_to_zero() -> None:
    listener = Listener()
    thread = EngineThread(make_engine(), listener)
    sequences = [request(20, token) for token in range(4, 10)]
    thread.submit(sequences)
    listener.wait("ends", 6)
    thread.stop()
    assert Counter(listener.ends) == Counter({(s, FinishReason.LENGTH): 1 for s in sequences})
    assert all(listener.tokens[s] == 20 for s in sequences)
    assert (listener.last.stats.running, listener.last.stats.waiting, listener.last.stats.cache_usage) == (
        0,
        0,
        0,
    )


def test_abort_while_running_and_while_waiting() -> None:
    listener = Listener()
    thread = EngineThread(make_engine(), listener)
    sequences = [request(400, token) for token in range(4, 12)]
    thread.submit(sequences)
    listener.wait("tokens", 4)
    thread.abort(sequences)
    thread.abort(sequences)
    listener.wait("ends", 8)
    after = request(3)
    thread.submit([after])
    listener.wait("ends", 9)
    thread.stop()
    assert Counter(listener.ends) == Counter(
        {**{(s, FinishReason.ABORT): 1 for s in sequences}, (after, FinishReason.LENGTH): 1}
    )


def test_stop_ends_what_is_unfinished() -> None:
    listener = Listener()
    thread = EngineThread(make_engine(), listener)
    sequences = [request(1000, token) for token in range(4, 12)]
    thread.submit(sequences)
    listener.wait("tokens", 1)
    thread.stop()
    assert Counter(listener.ends) == Counter({(s, FinishReason.ABORT): 1 for s in sequences})
    assert not thread.is_alive
    with pytest.raises(EngineDeadError):
        thread.submit([request(1)])


def test_death_fails_everybody_and_refuses_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """A forward pass that raises, in the middle of answers."""
    engine = make_engine()
    listener = Listener()
    thread = EngineThread(engine, listener)
    sequences = [request(1000, token) for token in range(4, 12)]
    thread.submit(sequences)
    listener.wait("tokens", 4)
    engine.runner.model = None  # type: ignore[assignment]  # the next forward pass fails
    listener.wait("ends", 8)
    assert Counter(listener.ends) == Counter({(s, FinishReason.ERROR): 1 for s in sequences})
    assert "the engine died" in caplog.text
    with pytest.raises(EngineDeadError):
        thread.submit([request(1)])
    thread.stop()
