"""The reward model against labelers whose taste is known: a reward for each token of a short answer, and rankings drawn
by Plackett and Luce from it, so that of two answers the first is preferred with the probability
`s = sigmoid(difference of the rewards)` (Bradley and Terry). Nothing can agree with such labels more often than
`E[max(s, 1 - s)]`; a good model comes near, is as sure as it is right, and does not learn single answers by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from torch import Tensor

from honed.models.scalar_head import ScalarModel
from honed.training.accuracy import Scored, evaluate, pairs_of
from honed.training.attention import ATTENTION
from honed.training.configs import RewardConfig
from honed.training.distributed import Ranks
from honed.training.fitting import Metrics, fit
from honed.training.groups import Group
from honed.training.learner import Learner, OptimizerConfig
from honed.training.reports.tracking import Tracker
from honed.training.reward import objective, scored
from honed.training.run import Run
from honed.training.trees import Tree

EOS = 2
VOCABULARY = 16
LENGTH = 3  # tokens of an answer, without its end


@dataclass(frozen=True)
class Labeled:
    """Groups as a labeler ranked them, and the labeler's rewards (K,) of each."""

    groups: list[Group]
    rewards: list[Tensor]


def labeled(count: int, answers: int, *, taste: float, seed: int, of: int) -> Labeled:
    """`count` groups of `answers`. `seed` draws the taste, of standard deviation `taste` a token; `of` the answers."""
    table = taste * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(of)
    found = Labeled([], [])
    for _ in range(count):
        tokens = torch.randint(EOS + 1, VOCABULARY, (answers, LENGTH), generator=draw)
        rewards = table[tokens].sum(dim=1)
        noise = -torch.log(-torch.log(torch.rand(answers, generator=draw).clamp(1e-9, 1 - 1e-7)))
        order = (rewards + noise).argsort(descending=True)
        ranks = (order.argsort() + 1).tolist()
        tree = Tree((1, 4), tuple((*each, EOS) for each in tokens.tolist()))
        found.groups.append(Group(tree, tuple(ranks), (None,) * answers, None))
        found.rewards.append(rewards)
    return found


def trained(
    train: Sequence[Group], held_out: Sequence[Group], folder: Path, *, seed: int, **changes: Any
) -> tuple[list[Scored], list[float]]:
    """A tiny reward model's numbers for what was held out, and the loss there after each epoch."""
    settings: dict[str, Any] = {"epochs": 1} | changes
    config = RewardConfig(seed=seed, dtype="float32", tokens_per_pass=2048, save_every=10**9, **settings)
    ranks = Ranks(torch.device("cpu"))
    model = ScalarModel(tiny_model(vocab_size=VOCABULARY, seed=seed).model)
    model.draw_head(seed)
    model.backbone.set_attn_implementation(ATTENTION)
    learner = Learner(model, ranks, OptimizerConfig(learning_rate=config.learning_rate), torch.float32)
    nothing: Any = None  # the data are at hand
    run = Run(config=config, dataset=nothing, parent=folder, folder=folder, ranks=ranks, tracker=Tracker.silent())
    losses: list[float] = []

    def measure(epoch: int) -> Metrics:
        if epoch:
            losses.append(evaluate(scored(run, model, held_out))["loss"])
        return {}

    fit(run, learner, train, objective(model, margin=False), measure, {})
    return scored(run, model, held_out), losses


@pytest.mark.parametrize("seed", [0, 1])
def test_a_reward_model_agrees_with_noisy_labels_as_often_as_can_be(seed: int, tmp_path: Path) -> None:
    """Within 0.03 of the bound, of which up to 0.012 is the spread of so many labels, and the rest what the model has
    not learned yet: its loss is 0.04 or less over the labels' entropy."""
    train = labeled(3000, 4, taste=1.0, seed=seed, of=1)
    held_out = labeled(1000, 4, taste=1.0, seed=seed, of=2)
    numbers, _ = trained(train.groups, held_out.groups, tmp_path, seed=seed, learning_rate=3e-3, batch_size=16)
    first, second = torch.triu_indices(4, 4, offset=1)
    s = torch.cat([torch.sigmoid(each[first] - each[second]) for each in held_out.rewards])
    measured = evaluate(numbers)
    bound = float(torch.maximum(s, 1 - s).mean())
    assert 0.75 < bound < 0.85, "labels that are neither noise nor certain"
    assert measured["accuracy"] == pytest.approx(bound, abs=0.03)
    entropy = float(-(s * s.log() + (1 - s) * (1 - s).log()).mean())
    assert measured["loss"] == pytest.approx(entropy, abs=0.04)
    assert slope(numbers) == pytest.approx(1.0, abs=0.1)


def slope(numbers: Sequence[Scored]) -> float:
    """Of the logistic regression of who won on the difference of the model's numbers, without an intercept: below 1
    the model is surer than it is right. By Newton's method."""
    wins = torch.tensor([pair.difference for each in numbers for pair in pairs_of(each)], dtype=torch.float64)
    found = torch.ones((), dtype=torch.float64)
    for _ in range(30):
        missed = torch.sigmoid(-found * wins)
        found = found + (wins * missed).sum() / (wins.square() * missed * (1 - missed)).sum()
    return float(found)


def test_grouped_pairs_beat_shuffled_pairs(tmp_path: Path) -> None:
    """Few prompts with six answers each. As elements of their own, the pairs make fifteen times the steps, an answer is
    seen five times an epoch instead of once, and is learned by heart with the noise of its rank."""
    settings = {"learning_rate": 3e-3, "batch_size": 4, "epochs": 2}
    rises = []
    for seed in range(3):
        train = labeled(60, 6, taste=0.5, seed=seed + 5, of=seed + 1).groups
        held_out = labeled(100, 4, taste=0.5, seed=seed + 5, of=99).groups
        _, grouped = trained(train, held_out, tmp_path / f"grouped{seed}", seed=seed, **settings)
        _, shuffled = trained(pairs(train), held_out, tmp_path / f"shuffled{seed}", seed=seed, **settings)
        assert grouped[-1] < shuffled[-1] - 0.03
        rises.append(shuffled[-1] - shuffled[0])
    # A single run's second epoch hangs on rounding: so many steps carry it far.
    assert sum(rises) / len(rises) > 0, "what it learns is no use elsewhere"


def pairs(some: Sequence[Group]) -> list[Group]:
    """Each pair as a group of two."""
    found = []
    for group in some:
        for i, j in combinations(range(len(group.ranks)), 2):
            ranks = (1, 2) if group.ranks[i] < group.ranks[j] else (2, 1)
            tree = Tree(group.tree.prompt, (group.tree.answers[i], group.tree.answers[j]))
            found.append(Group(tree, ranks, (None, None), None))
    return found
