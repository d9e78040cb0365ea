"""The state of a terminal chat: what was said, to which model, how it is sampled.

Owns the transitions and nothing of input, output or HTTP. Invariant: after the optional system message, turns
of user and assistant alternate, beginning with the user, so that every model's chat template takes them; only
the last question may stand unanswered.
"""

import json
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Turn:
    """A question and its answer. `answer` is None until one came: the request failed or is still running."""

    question: str
    answer: str | None = None


@dataclass(frozen=True)
class Conversation:
    """A chat and its settings. None leaves a setting to the server."""

    model: str
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    turns: tuple[Turn, ...] = ()

    def ask(self, question: str) -> "Conversation":
        """Adds a question. It replaces one that got no answer."""
        return replace(self, turns=(*self._answered(), Turn(question)))

    def answered(self, answer: str) -> "Conversation":
        """Gives the last question its answer."""
        return replace(self, turns=(*self.turns[:-1], replace(self.turns[-1], answer=answer)))

    def undo(self) -> "Conversation":
        """Takes the last question back, and its answer."""
        return replace(self, turns=self.turns[:-1])

    def retry(self) -> "Conversation":
        """Takes the last answer back, so that its question can be sent again."""
        return self.undo().ask(self.turns[-1].question) if self.turns else self

    def forget(self) -> "Conversation":
        """Takes every question and answer back; the settings stay."""
        return replace(self, turns=())

    def messages(self) -> list[dict[str, str]]:
        """OpenAI's messages, as a request sends them."""
        return _messages(self.system, self.turns)

    def request(self) -> dict[str, Any]:
        """The body that asks for the answer to the last question; what is left to the server is absent."""
        sampling = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        given = {name: value for name, value in sampling.items() if value is not None}
        return {"model": self.model, "messages": self.messages(), "stream": True, **given}

    def as_json_line(self) -> str:
        """One line of OpenAI's fine-tuning format, of what was answered; empty where nothing was."""
        turns = self._answered()
        return json.dumps({"messages": _messages(self.system, turns)}, ensure_ascii=False) if turns else ""

    def _answered(self) -> tuple[Turn, ...]:
        unanswered = bool(self.turns) and self.turns[-1].answer is None
        return self.turns[:-1] if unanswered else self.turns


def _messages(system: str | None, turns: tuple[Turn, ...]) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages
