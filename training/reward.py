"""The reward model: rankings -> one number for a prompt and an answer (Ouyang et al. 2022, section 3.5).

A prompt's answers are one element of a batch, and the prompt is computed once for all of them. Afterwards the scale is
set on training data: demonstrations get a mean of 0, and the ranked answers a standard deviation of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any, Final

import torch
from torch import Tensor

from honed.models.policy import load_tokenizer
from honed.models.scalar_head import ScalarModel
from honed.training.accuracy import Scored, evaluate
from honed.training.configs import RewardConfig
from honed.training.encoding import Encoder
from honed.training.fitting import Metrics, Objective, fit
from honed.training.forward import scalar_numbers
from honed.training.groups import Group, demonstrations, groups
from honed.training.loading import learner_of, load_scalar
from honed.training.objectives import grouped_ranking_loss, ranked_pairs
from honed.training.run import Run, Trained
from honed.training.scoring import score_trees
from honed.training.trees import pack
from honed.training.weights import fold, whole_state

SCALED_ON: Final = 128  # prompts that set the scale


def train_reward(run: Run[RewardConfig]) -> Trained:
    """Raises TrainingError, PolicyError, and OSError as the disk gives it."""
    config = run.config
    tokenizer = load_tokenizer(run.parent)
    encoder = Encoder(tokenizer, config.max_tokens, config.answer_tokens)
    train = groups(run.dataset.of("train"), encoder)
    held_out = groups(run.dataset.of("validation"), encoder)
    model = load_scalar(run.parent, torch.float32, run.loads_on, config.seed)
    learner = learner_of(model, config, run.ranks, run.dtype, learning_rate=config.learning_rate)

    def measure(_epoch: int) -> Metrics:
        report = evaluate(scored(run, model, held_out)) if held_out else {}
        return {f"validation/{name}": report[name] for name in ("accuracy", "loss") if name in report}

    fit(run, learner, train, objective(model, margin=config.margin), measure, {})
    fold(run, model)
    scale = set_scale(run, model, encoder, train)
    evaluation = (evaluate(scored(run, model, held_out)) if held_out else {}) | {"scale": scale}
    metrics = {name: value for name, value in evaluation.items() if isinstance(value, float)}
    return Trained(model, whole_state(model), tokenizer, metrics, evaluation=evaluation)


def objective(model: ScalarModel, *, margin: bool) -> Objective[Group]:
    """The ranking loss: the mean over prompts of the mean over a prompt's pairs."""

    def loss(some: Sequence[Group], count: float) -> tuple[Tensor, Metrics]:
        packed = pack([group.tree for group in some], model.device)
        # On the CPU: for a handful of numbers a GPU takes longer, and each pair is looked for there.
        scores = scalar_numbers(model, packed, packed.ends).cpu().split([len(group.ranks) for group in some])
        judged = [(torch.tensor(group.ranks), torch.tensor(group.kinds)) for group in some]
        losses = [grouped_ranking_loss(each, *own, margin=margin) for each, own in zip(scores, judged, strict=True)]
        right = [_share_right(each, *own) for each, own in zip(scores, judged, strict=True)]
        return torch.stack(losses).sum() / count, {"train/accuracy": sum(right)}

    return Objective(tokens=lambda group: group.tree.num_tokens, weight=lambda _: 1.0, loss=loss)


def scored(run: Run[RewardConfig], model: ScalarModel, some: Sequence[Group]) -> list[Scored]:
    """The raw numbers of the groups' answers, by all ranks together."""
    numbers = score_trees(model, [group.tree for group in some], run.tokens_per_pass, run.ranks)
    return [Scored(group, tuple(each)) for group, each in zip(some, numbers, strict=True)]


def set_scale(run: Run[RewardConfig], model: ScalarModel, encoder: Encoder, train: Sequence[Group]) -> dict[str, Any]:
    """From the first SCALED_ON prompts of the training data; where nobody demonstrated, the best answers stand in.

    What 0 is, and the raw mean and standard deviation.
    """
    judged = scored(run, model, train[:SCALED_ON])
    every = [number for each in judged for number in each.numbers]
    trees = demonstrations(run.dataset.of("train"), encoder)[:SCALED_ON]
    shown = [numbers[0] for numbers in score_trees(model, trees, run.tokens_per_pass, run.ranks)]
    best = [each.numbers[each.group.ranks.index(1)] for each in judged]
    mean, std = fmean(shown or best), pstdev(every) or 1.0
    model.set_scale(mean, std)
    return {"zero": "demonstrations" if shown else "best answers", "mean": mean, "std": std}


def _share_right(scores: Tensor, ranks: Tensor, kinds: Tensor) -> float:
    winners, losers = ranked_pairs(ranks, kinds)
    return float((scores[winners] > scores[losers]).float().mean())
