"""The loop of supervised training, for SFT and the reward model: batches in a drawn order, passes, steps, states.

Every rank draws the same batches and computes its share of their passes; what is drawn depends on the seed and the step
alone, so that a run which goes on from a state does what it would have done. Does not know what a loss is.
Invariant: a batch's loss and gradient are those of all its items together, however passes and ranks share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from honed.training.configs import RewardConfig, SFTConfig
from honed.training.learner import Learner, State, learning_rate_factor
from honed.training.run import Run
from honed.training.sharding import is_sharded
from honed.training.states import load_state, save_state
from honed.training.trees import plan

Item = TypeVar("Item")
Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective(Generic[Item]):
    """What is minimised. `loss` is of some items and `count` of all in their batch: the sum over the items, divided by
    the count; beside it come sums to be logged, which are divided by the count too.
    """

    tokens: Callable[[Item], int]
    weight: Callable[[Item], float]  # an item's part of the count
    loss: Callable[[Sequence[Item], float], tuple[Tensor, Metrics]]


def fit(
    run: Run[SFTConfig] | Run[RewardConfig],
    learner: Learner,
    items: Sequence[Item],
    objective: Objective[Item],
    measure: Callable[[int], Metrics],
    extra: State,
) -> int:
    """Trains, from the newest state where the run is resumed; how many steps the whole run has. `measure` is called
    after each epoch, from 1, and before the first one with 0; what it returns is logged. `extra` is written and read
    with the states.
    """
    config = run.config
    per_epoch = -(-len(items) // config.batch_size)
    steps = per_epoch * config.epochs
    state: State = {"learner": learner.state(), "extra": extra}
    start = run.start_step
    if start:
        load_state(run.folder, start, state, run.ranks)
        learner.publish(learner.masters)
    else:
        run.tracker.log(0, measure(0))
    for step in range(start, steps):
        epoch, index = divmod(step, per_epoch)
        if index == 0 or step == start:
            order = permutation(len(items), config.seed, epoch)
        batch = [items[i] for i in order[index * config.batch_size : (index + 1) * config.batch_size]]
        sums = _accumulate(run, learner, batch, objective, step)
        factor = learning_rate_factor(step, steps, warmup=config.warmup, final=config.final_learning_rate)
        norm = learner.step(factor)
        tokens = sum(map(objective.tokens, batch))
        rate = {"train/grad_norm": norm, "train/learning_rate": config.learning_rate * factor}
        run.tracker.log(step + 1, sums | rate, tokens=tokens)
        if index + 1 == per_epoch:
            run.tracker.log(step + 1, measure(epoch + 1))
        if (step + 1) % config.save_every == 0 and step + 1 < steps:
            save_state(run.folder, step + 1, state, run.ranks)
    return steps


def _accumulate(
    run: Run[Any], learner: Learner, batch: Sequence[Item], objective: Objective[Item], step: int
) -> dict[str, float]:
    """The gradient of the whole batch into the learner's buffer; the means of what was logged."""
    count = sum(map(objective.weight, batch))
    passes = plan(list(map(objective.tokens, batch)), run.tokens_per_pass, run.ranks.size)
    totals: dict[str, float] = {}
    for number, chosen in enumerate(run.ranks.share(passes)):
        torch.manual_seed(drawn(run.config.seed, "dropout", step, number, run.ranks.rank))
        if chosen:
            loss, sums = objective.loss([batch[i] for i in chosen], count)
        elif is_sharded(learner.module):  # its layers are gathered by all ranks or by none
            loss = objective.loss(batch[:1], count)[0] * 0.0
            sums = {}
        else:
            continue
        learner.backward(loss)
        for name, value in {"train/loss": float(loss.detach()) * count, **sums}.items():
            totals[name] = totals.get(name, 0.0) + value
    parts = run.ranks.gather([totals])
    return {name: sum(part.get(name, 0.0) for part in parts) / count for name in sorted({n for p in parts for n in p})}


def permutation(size: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch."""
    generator = torch.Generator().manual_seed(drawn(seed, "order", epoch))
    return [int(i) for i in torch.randperm(size, generator=generator)]


def drawn(*what: object) -> int:
    """A seed of 63 bits for whatever is named, the same everywhere."""
    digest = blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
