"""Records -> trees of token ids, by the renderer that serves.

Owns how an answer is ended and cut, and what is too long. Does not read data (`datasets.py`) nor lay tokens out
(`trees.py`). Invariants: a prompt has exactly the ids that the server would compute, and an answer those that the
server would have sampled, the token that ends it included; an answer that was cut has no end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from honed.models.chat import render_chat, replace_lone_surrogates
from honed.models.policy import end_of_answer_id
from honed.server.store.exchange.records import Message, is_text
from honed.training.trees import Tree


@dataclass(frozen=True, slots=True)
class Encoder:
    """`max_tokens`: longest prompt and answer together; `answer_tokens`: longest answer. Longer answers are cut."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    answer_tokens: int

    def prompt(self, prompt: Sequence[Message]) -> tuple[int, ...]:
        """A conversation with the beginning of its answer, or a text as it is."""
        if is_text(prompt):
            return tuple(self.tokenizer.encode(replace_lone_surrogates(prompt[0]["content"])))
        return tuple(render_chat(self.tokenizer, prompt))

    def answer(self, text: str, room: int) -> tuple[int, ...]:
        """The answer and its end, or the first `room` tokens of it."""
        ids = self.tokenizer.encode(replace_lone_surrogates(text), add_special_tokens=False)
        end = end_of_answer_id(self.tokenizer)
        return tuple([*ids, end][: min(room, self.answer_tokens)])

    def tree(self, prompt: Sequence[Message], answers: Sequence[str]) -> Tree | None:
        """None where the prompt leaves no room for an answer."""
        prompt_ids = self.prompt(prompt)
        room = self.max_tokens - len(prompt_ids)
        if room < 1 or not prompt_ids:
            return None
        return Tree(prompt_ids, tuple(self.answer(text, room) for text in answers))
