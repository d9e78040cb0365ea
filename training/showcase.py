"""A few held-out prompts, answered greedily before and after a run: what a person looks at first.

The answers of before are written when the run begins, since a resumed run can no longer give them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from honed.models.scalar_head import ScalarModel
from honed.training.data.datasets import Example
from honed.training.distributed import Ranks
from honed.training.encoding import Encoder
from honed.training.generation import Answer, Generator, greedy, text_of
from honed.training.groups import texts_of
from honed.training.loading import Loaded
from honed.training.scoring import normalised, score_trees
from honed.training.trees import Tree

SHOWN: Final = 8
BEFORE_FILE: Final = "before.json"


class Showcase:
    """`reward_model`, where there is one, scores what is shown."""

    def __init__(
        self,
        folder: Path,
        examples: Sequence[Example],
        loaded: Loaded,
        generator: Generator,
        *,
        max_tokens: int,
        answer_tokens: int,
        ranks: Ranks,
        reward_model: ScalarModel | None = None,
    ) -> None:
        encoder = Encoder(loaded.tokenizer, max_tokens, answer_tokens)
        encoded = {encoder.prompt(each.record.prompt): each for each in examples}
        self._prompts = [ids for ids in encoded if len(ids) + answer_tokens <= max_tokens][:SHOWN]
        self._texts = [texts_of(encoded[ids].record.prompt) for ids in self._prompts]
        self._path = folder / BEFORE_FILE
        self._loaded = loaded
        self._generator = generator
        self._answer_tokens = answer_tokens
        self._ranks = ranks
        self._reward_model = reward_model

    def before(self) -> None:
        """To be called with the weights that the run starts from."""
        answered = self._answered()
        if self._ranks.is_first:
            partial = self._path.with_name(f".{self._path.name}.partial")
            partial.write_text(json.dumps(answered), encoding="utf-8")
            partial.replace(self._path)

    def after(self) -> list[dict[str, Any]]:
        """The rows of samples.jsonl, with the weights of now."""
        then = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else []
        return [
            {"prompt": text, "before": old[0], "after": new[0], "score_before": old[1], "score_after": new[1]}
            for text, old, new in zip(self._texts, then, self._answered(), strict=False)
        ]

    def _answered(self) -> list[tuple[str, float | None]]:
        answers = greedy(self._generator, self._prompts, self._answer_tokens)
        return [
            (text_of(self._loaded, answer), score) for answer, score in zip(answers, self._scores(answers), strict=True)
        ]

    def _scores(self, answers: Sequence[Answer]) -> list[float | None]:
        if self._reward_model is None:
            return [None] * len(answers)
        trees = [Tree(prompt, (answer.ids,)) for prompt, answer in zip(self._prompts, answers, strict=True)]
        raw = score_trees(self._reward_model, trees, 1)
        return [numbers[0] for numbers in normalised(self._reward_model, raw)]
