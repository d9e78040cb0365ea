"""What the policy did and what came of it: episodes of one round, in the passes that the updates are made of.

A round is cut into minibatches, and each of them into passes (`trees.py`), before anything is computed. The numbers
that updates are measured by come from the very passes that the updates run, so that the first ratio is exactly 1.
Invariant: every rank holds all passes of a round; which of them it computes is decided by `Ranks.share`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from honed.training.objectives import gae, kl_k1, kl_rewards, leave_one_out, whiten
from honed.training.trees import Tree, divided, plan


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of a pass with N answer tokens and A answers, all float32 on the CPU: the score of each answer (A,), and of each
    token (N,) its log-probability under the policy and under the reference, the policy's entropy there, and the
    value of the state before it."""

    scores: Tensor
    logprobs: Tensor
    reference: Tensor
    entropy: Tensor
    values: Tensor


NOTHING: Final = Judgement(*(torch.zeros(0) for _ in range(5)))  # of a pass without trees


@dataclass(frozen=True, slots=True)
class Pass:
    """Some trees of a minibatch. `ended`: of each answer, whether it ended by itself."""

    trees: tuple[Tree, ...]
    ended: tuple[bool, ...]

    @property
    def lengths(self) -> list[int]:
        return [len(answer) for tree in self.trees for answer in tree.answers]


@dataclass(frozen=True, slots=True)
class Advantage:
    """What a pass's tokens (N,) are pushed by: `advantages` whitened over the round, `returns` for the critic."""

    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True, slots=True)
class Round:
    """All episodes of a round, in the order of its passes. (B,) an episode, (B, T) a token, right-padded."""

    mask: Tensor
    scores: Tensor
    rewards: Tensor
    kl: Tensor  # (B,): nats an answer
    values: Tensor  # the critic's own, without what advantages have added to them
    returns: Tensor
    entropy: Tensor
    ended: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(dim=1)


def minibatches(
    trees: Sequence[Tree], ended: Sequence[Sequence[bool]], count: int, budget: int, ranks: int
) -> list[list[Pass]]:
    """The trees, in their order, as `count` minibatches of passes; `ended` is of each tree's answers."""
    size = len(trees) // count
    found = []
    for start in range(0, len(trees), size):
        own = slice(start, start + size)
        ends = iter([end for each in ended[own] for end in each])
        parts = [(part, [next(ends) for _ in part.answers]) for tree in trees[own] for part in divided(tree, budget)]
        passes = plan([part.num_tokens for part, _ in parts], budget, ranks)
        found.append([_pass([parts[i] for i in chosen]) for chosen in passes])
    return found


def _pass(chosen: Sequence[tuple[Tree, list[bool]]]) -> Pass:
    return Pass(tuple(tree for tree, _ in chosen), tuple(end for _, ends in chosen for end in ends))


def advantages(
    passes: Sequence[Pass],
    judged: Sequence[Judgement],
    *,
    beta: float,
    gamma: float,
    lam: float,
    missing_eos_penalty: float,
    whiten_rewards: bool,
) -> tuple[Round, list[Advantage]]:
    """Rewards, returns and whitened advantages of a round from all of its passes.

    To the values of an answer is added what the critic missed, on average, of the other answers to the same prompt: it
    sees a prompt a few times in a run, and between prompts lies a good part of what rewards differ by.
    """
    lengths = [length for each in passes for length in each.lengths]
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    logprobs, reference, values, entropy = (
        _padded([getattr(each, name) for each in judged], lengths)
        for name in ("logprobs", "reference", "values", "entropy")
    )
    ended = torch.tensor([end for each in passes for end in each.ended])
    scores = torch.cat([each.scores for each in judged])
    judged_scores = torch.where(ended, scores, scores - missing_eos_penalty)
    rewards = kl_rewards(judged_scores, logprobs, reference, mask, beta)
    if whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    _, returns = gae(rewards, values, mask, gamma, lam)
    missed = gae(rewards, values, mask, gamma, 1.0)[0][:, 0]
    estimated, _ = gae(rewards, values + leave_one_out(missed, _prompts(passes))[:, None], mask, gamma, lam)
    flat = whiten(estimated, mask)[mask], returns[mask]
    sizes = [sum(each.lengths) for each in passes]
    parts = [Advantage(*each) for each in zip(*(tensor.split(sizes) for tensor in flat), strict=True)]
    kl = torch.where(mask, kl_k1(logprobs, reference), 0.0).sum(dim=1)
    return Round(mask, scores, rewards, kl, values, returns, entropy, ended), parts


def _prompts(passes: Sequence[Pass]) -> Tensor:
    """(B,): equal numbers, from 0 on, for answers to equal prompts, which may stand in several trees."""
    prompts = [tree.prompt for each in passes for tree in each.trees for _ in tree.answers]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return torch.tensor([numbers[prompt] for prompt in prompts])


def _padded(parts: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """(B, T) of all answers' tokens."""
    return pad_sequence(list(torch.cat(list(parts)).split(list(lengths))), batch_first=True)
