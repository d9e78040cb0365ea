"""What a reward model says of answers: of trees during training, and of the rows of a file for `honed score`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from honed.models.policy import choose_device, choose_dtype, load_tokenizer
from honed.models.scalar_head import ScalarModel
from honed.server.store.exchange.reading import Malformed, read
from honed.server.store.exchange.records import Ranking
from honed.training.distributed import Ranks
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.forward import scalar_numbers
from honed.training.loading import load_scalar
from honed.training.run import TOKENS_PER_PASS
from honed.training.trees import Tree, pack, plan

ROWS_AT_ONCE = 64


@torch.no_grad()
def score_trees(
    model: ScalarModel, trees: Sequence[Tree], tokens_per_pass: int, ranks: Ranks | None = None
) -> list[list[float]]:
    """The raw number at the last token of each answer, by tree. `ranks`: who share the work; all get all of it."""
    ranks = ranks or Ranks(model.device)
    passes = plan([tree.num_tokens for tree in trees], tokens_per_pass, ranks.size)
    # An empty pass runs another's, for nothing: the layers of a model that is shared out need every rank.
    own = [_numbers(model, [trees[i] for i in chosen or passes[0]]) for chosen in ranks.share(passes)]
    found: list[list[float]] = [[] for _ in trees]
    for chosen, numbers in zip(passes, map(iter, ranks.gather(own)), strict=True):
        for i in chosen:
            found[i] = [next(numbers) for _ in trees[i].answers]
    return found


def _numbers(model: ScalarModel, trees: Sequence[Tree]) -> list[float]:
    packed = pack(trees, model.device)
    numbers: list[float] = scalar_numbers(model, packed, packed.ends).tolist()
    return numbers


def normalised(model: ScalarModel, raw: Sequence[Sequence[float]]) -> list[list[float]]:
    """On the scale that is saved with the model: demonstrations have a mean of 0, answers a deviation of 1."""
    mean, std = float(model.mean), float(model.std)
    return [[(number - mean) / std for number in numbers] for numbers in raw]


def score_file(
    folder: Path, data: Path, *, dtype: str = "auto", device: str = "auto", tokens_per_pass: int = 0
) -> Iterator[dict[str, Any]]:
    """The rankings of a file in its order, each answer with its `score`.

    All rows are read before any weights. Raises TrainingError for a row that is no ranking or has no room for an
    answer in the model's context.
    """
    rankings = list(_rankings(data))
    place = choose_device(device)
    model = load_scalar(folder, choose_dtype(dtype, place), place)
    encoder = Encoder(load_tokenizer(folder), model.config.get_text_config().max_position_embeddings, 10**9)
    budget = tokens_per_pass or TOKENS_PER_PASS[place.type]
    for start in range(0, len(rankings), ROWS_AT_ONCE):
        some = rankings[start : start + ROWS_AT_ONCE]
        trees = [_tree(ranking, encoder) for ranking in some]
        scores = normalised(model, score_trees(model, trees, budget))
        for ranking, numbers in zip(some, scores, strict=True):
            yield _row(ranking, numbers)


def _rankings(data: Path) -> Iterator[Ranking]:
    for entry in read(data):
        if isinstance(entry, Malformed):
            raise TrainingError(f"{entry.path}:{entry.line}: {entry.reason}")
        if not isinstance(entry.record, Ranking):
            raise TrainingError(f"{entry.path}:{entry.line}: scoring needs rows with `messages` and `answers`.")
        yield entry.record


def _tree(ranking: Ranking, encoder: Encoder) -> Tree:
    tree = encoder.tree(ranking.prompt, [answer.text for answer in ranking.answers])
    if tree is None:
        raise TrainingError(f"A prompt is longer than the model's context of {encoder.max_tokens} tokens: shorten it.")
    return tree


def _row(ranking: Ranking, scores: Sequence[float]) -> dict[str, Any]:
    answers = [
        {"text": answer.text, "rank": answer.rank, "source": answer.source, "score": score}
        for answer, score in zip(ranking.answers, scores, strict=True)
    ]
    return {"id": ranking.external_id, "messages": list(ranking.prompt), "answers": answers}
