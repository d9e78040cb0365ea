"""What a reward model says of answers: of trees during training, and of the rows of a file for `honed score`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from honed.models.checkpoint import read_lineage
from honed.models.policy import choose_device, choose_dtype, load_tokenizer
from honed.models.scalar_head import ScalarModel
from honed.server.store.exchange.reading import Malformed, read
from honed.server.store.exchange.records import Ranking
from honed.server.store.messages import batches
from honed.training.configs import RewardConfig
from honed.training.distributed import Ranks
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.forward import scalar_numbers
from honed.training.loading import load_scalar
from honed.training.planning.estimates import read_shape
from honed.training.run import TOKENS_PER_PASS
from honed.training.trees import Tree, divided, pack, plan

ROWS_AT_ONCE = 64


@torch.no_grad()
def score_trees(
    model: ScalarModel, trees: Sequence[Tree], tokens_per_pass: int, ranks: Ranks | None = None
) -> list[list[float]]:
    """The raw number at the last token of each answer, by tree. `ranks`: who share the work; all get all of it."""
    ranks = ranks or Ranks(model.device)
    parts = [(number, part) for number, tree in enumerate(trees) for part in divided(tree, tokens_per_pass)]
    passes = plan([part.num_tokens for _, part in parts], tokens_per_pass, ranks.size)
    # An empty pass runs another's, for nothing: the layers of a model that is shared out need every rank.
    own = [_numbers(model, [parts[i][1] for i in chosen or passes[0]]) for chosen in ranks.share(passes)]
    said: dict[int, list[float]] = {}
    for chosen, numbers in zip(passes, map(iter, ranks.gather(own)), strict=True):
        said |= {i: [next(numbers) for _ in parts[i][1].answers] for i in chosen}
    found: list[list[float]] = [[] for _ in trees]
    for i, (number, _) in enumerate(parts):
        found[number] += said[i]
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

    Answers are cut where the model's training cut them. All rows are read before any weights. Raises TrainingError for
    a row that is no ranking or whose prompt leaves no room for an answer.
    """
    found = list(_rankings(data))
    encoder = judge_encoder(folder)
    rows = [(ranking, _tree(ranking, encoder, place)) for place, ranking in found]
    where = choose_device(device)
    model = load_scalar(folder, choose_dtype(dtype, where), where)
    budget = tokens_per_pass or TOKENS_PER_PASS[where.type]
    for some in batches(rows, ROWS_AT_ONCE):
        scores = normalised(model, score_trees(model, [tree for _, tree in some], budget))
        for (ranking, _), numbers in zip(some, scores, strict=True):
            yield _row(ranking, numbers)


def judge_encoder(folder: Path) -> Encoder:
    """With the lengths that the reward model was trained on."""
    lineage = read_lineage(folder)
    used = RewardConfig.model_validate(lineage.settings if lineage is not None and lineage.stage == "reward" else {})
    return Encoder(load_tokenizer(folder), min(used.max_tokens, read_shape(folder).context_length), used.answer_tokens)


def _rankings(data: Path) -> Iterator[tuple[str, Ranking]]:
    """Each with where it stands."""
    for entry in read(data):
        place = f"{entry.path}:{entry.line}"
        if isinstance(entry, Malformed):
            raise TrainingError(f"{place}: {entry.reason}")
        if not isinstance(entry.record, Ranking):
            raise TrainingError(f"{place}: scoring needs rows with `messages` and `answers`.")
        yield place, entry.record


def _tree(ranking: Ranking, encoder: Encoder, place: str) -> Tree:
    tree = encoder.tree(ranking.prompt, [answer.text for answer in ranking.answers])
    if tree is None:
        raise TrainingError(f"{place}: the prompt leaves no room in the {encoder.max_tokens} tokens of the model.")
    return tree


def _row(ranking: Ranking, scores: Sequence[float]) -> dict[str, Any]:
    answers = [
        {"text": answer.text, "rank": answer.rank, "source": answer.source, "score": score}
        for answer, score in zip(ranking.answers, scores, strict=True)
    ]
    return {"id": ranking.external_id, "messages": list(ranking.prompt), "answers": answers}
