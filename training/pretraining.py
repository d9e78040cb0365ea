"""The pretraining mix: texts that keep a policy's language while PPO changes its manners (Ouyang et al. 2022,
equation 2).

A file of rows with a `text`, gzipped or not. Every tenth text is held out to be measured on. Pieces are drawn by seed
and step alone, so that a resumed run draws what it would have drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerBase

from honed.training.fitting import drawn
from honed.training.texts import LEAST, read_texts, require_enough
from honed.training.trees import Tree

MEASURED: Final = 32  # held-out pieces


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Token ids of the texts to learn from and of those to measure on; each has at least two tokens."""

    texts: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]

    def pieces(self, count: int, length: int, *where: object) -> list[Tree]:
        """`count` random pieces of at most `length` tokens; the same for the same `where`."""
        draw = random.Random(drawn("pretraining", *where))  # noqa: S311  no secret
        return [_piece(draw.choice(self.texts), length, draw) for _ in range(count)]

    def measured(self, length: int) -> list[Tree]:
        """The beginnings of held-out texts."""
        return [text_tree(text[:length]) for text in self.held_out[:MEASURED]]


def load_pretraining(path: Path, tokenizer: PreTrainedTokenizerBase) -> Pretraining:
    """Raises TrainingError for a file that cannot be read or has a row without a text."""
    texts = [tuple(tokenizer.encode(text)) for text in read_texts(path)]
    texts = [text for text in texts if len(text) > 1]
    require_enough(path, len(texts))
    held_out = tuple(texts[LEAST - 1 :: LEAST])
    rest = tuple(text for number, text in enumerate(texts, start=1) if number % LEAST)
    return Pretraining(rest, held_out)


def _piece(text: tuple[int, ...], length: int, draw: random.Random) -> Tree:
    start = draw.randrange(max(len(text) - length, 0) + 1)
    return text_tree(text[start : start + length])


def text_tree(text: tuple[int, ...]) -> Tree:
    """All but the first token are predicted."""
    return Tree(text[:1], (text[1:],))
