"""An engine in a thread of its own: requests go in through a queue, reports come out through a callback.

Invariant: every sequence that was accepted by `submit` is reported with a finish reason exactly once, also when it was
aborted, when the engine died, and when the thread was stopped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from honed.models.engine.engine import Engine, EngineStats, Token
from honed.models.engine.sequence import FinishReason, Sequence

logger = logging.getLogger(__name__)


class EngineDeadError(Exception):
    """The engine's thread has ended; nothing more will be answered."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one turn of the loop brought."""

    tokens: list[Token]
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class _Command:
    add: list[Sequence] = field(default_factory=list)
    abort: list[Sequence] = field(default_factory=list)
    stop: bool = False


class EngineThread:
    def __init__(self, engine: Engine, report: Callable[[Report], None]) -> None:
        """`report` is called in the engine's thread, once a turn, and must only hand over."""
        self._engine = engine
        self._report = report
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._lock = threading.Lock()  # between "is it alive?" and putting something into the inbox
        self._alive = True
        self._unfinished: set[Sequence] = set()  # touched by the engine's thread alone
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._alive

    def submit(self, sequences: list[Sequence]) -> None:
        """Raises EngineDeadError when nobody will answer."""
        self._put(_Command(add=sequences))

    def abort(self, sequences: list[Sequence]) -> None:
        if self._alive:
            self._inbox.put(_Command(abort=sequences))

    def stop(self) -> None:
        """Ends the thread after its current step; what is unfinished is reported as aborted."""
        if self._alive:
            self._inbox.put(_Command(stop=True))
        self._thread.join()

    def _put(self, command: _Command) -> None:
        with self._lock:
            if not self._alive:
                raise EngineDeadError("the engine has stopped; restart the server")
            self._inbox.put(command)

    def _main(self) -> None:
        reason = FinishReason.ABORT
        try:
            while self._turn():
                pass
        except Exception:  # whatever it was, nobody may be left waiting
            logger.exception("the engine died; every request in it fails")
            reason = FinishReason.ERROR
        self._bury(reason)

    def _turn(self) -> bool:
        """Takes what has come in, waiting for it when there is nothing else to do, and runs a step."""
        commands = self._commands()
        for command in commands:
            self._unfinished.update(command.add)
        for command in commands:
            self._obey(command)
        if any(command.stop for command in commands):
            return False
        self._tell(self._engine.step())
        return True

    def _obey(self, command: _Command) -> None:
        for sequence in command.add:
            self._engine.add(sequence)
        ended = [sequence for sequence in dict.fromkeys(command.abort) if not sequence.is_finished]
        for sequence in ended:
            self._engine.abort(sequence)
        if ended:
            self._tell([Token(sequence, None, FinishReason.ABORT) for sequence in ended])

    def _tell(self, tokens: list[Token]) -> None:
        self._unfinished.difference_update(t.sequence for t in tokens if t.finish_reason is not None)
        self._report(Report(tokens, self._engine.stats()))

    def _commands(self) -> list[_Command]:
        commands = [self._inbox.get()] if self._engine.is_idle else []
        while True:
            try:
                commands.append(self._inbox.get_nowait())
            except Empty:
                return commands

    def _bury(self, reason: FinishReason) -> None:
        """Ends whatever is still in the engine or the inbox."""
        with self._lock:
            self._alive = False
        while not self._inbox.empty():
            self._unfinished.update(self._inbox.get().add)
        for sequence in self._unfinished:
            sequence.finish_reason = reason
        self._report(Report([Token(sequence, None, reason) for sequence in self._unfinished], EngineStats()))
