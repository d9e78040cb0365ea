"""The mathematics of the circle as pure functions of tensors: no model, no state, no randomness.

Shapes: B episodes, T tokens of the longest answer, right-padded; `mask` (B, T) is true on an answer's own tokens. A
value `values[:, t]` is that of the state before token t. All sums are in float32. Losses are sums divided by a count
that the caller gives, so that accumulation steps and ranks add up to the mean over the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name that torch's documentation uses)

# Logits that are looked at at once, in float32: few on a CPU, where they stay in its cache and the allocator has room
# for them at hand, and many on a GPU, where each look costs some launches.
BLOCK = {"cpu": 2**22, "cuda": 2**26}


def kl_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards (B, T): -beta * (log pi - log pi_ref) at each token, and the score on top at the last one.

    `scores`: (B,). The estimate is k1, detached: inside a reward it is unbiased (Ziegler et al. 2019, equation 2;
    Ouyang et al. 2022, equation 2).
    """
    rewards = torch.where(mask, -beta * kl_k1(logprobs, reference), 0.0).detach()
    last = mask.sum(dim=1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both (B, T) and 0 outside the mask (Schulman et al. 2016, equation 16).

    After its last token an episode has no value, ended or cut: the score judges the answer as it stands.
    """
    values = torch.where(mask, values, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = torch.where(mask, rewards + gamma * following - values, 0.0)
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


def leave_one_out(x: Tensor, groups: Tensor) -> Tensor:
    """Of each element of x (B,) the mean of the others of its group, 0 where there are none. `groups` (B,): their
    groups' numbers, from 0 on.

    What does not depend on an answer is a baseline for it that leaves the gradient unbiased (Kool et al. 2019, "Buy 4
    REINFORCE Samples, Get a Baseline for Free!"; Ahmadian et al. 2024, arXiv:2402.14740).
    """
    counts = torch.bincount(groups)
    sums = torch.zeros(len(counts)).index_add_(0, groups, x)
    others = counts[groups] - 1
    return torch.where(others > 0, sums[groups] - x, 0.0) / others.clamp(min=1)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """x (B, T) at a standard deviation of 1, and a mean of 0 unless `shift_mean` is false, over the masked elements.

    The variance is the unbiased one. It must be given the batch of all ranks and all accumulation steps.
    """
    chosen = x[mask]
    mean = chosen.mean()
    scaled = (x - mean) * torch.rsqrt(chosen.var(correction=min(1, chosen.numel() - 1)) + 1e-8)
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0.0)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float, count: Tensor | float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss (Schulman et al. 2017, equation 7), negated, and which tokens were clipped.

    All of shape (N,): an answer's tokens, without padding. `count`: tokens of the whole batch.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip, 1.0 + clip)
    return torch.maximum(free, clipped).sum() / count, (clipped > free).detach()


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float, count: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Half the squared error, a value being held within `clip` of the old one, and which tokens were clipped.

    All of shape (N,), in units of reward. (OpenAI's baselines; Huang et al. 2024, detail 13.)
    """
    held = old_values + (values - old_values).clamp(-clip, clip)
    free, clipped = (values - returns).square(), (held - returns).square()
    return 0.5 * torch.maximum(free, clipped).sum() / count, (clipped > free).detach()


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log(pi / pi_ref) of a sampled token: unbiased, of either sign. (Schulman 2020, "Approximating KL Divergence".)"""
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(1 / r) - 1 + log r with r = pi / pi_ref: unbiased, never negative. For logs; its gradient is not the KL's."""
    log_ratio = reference - logprobs
    return torch.expm1(log_ratio) - log_ratio


def adapted_coefficient(coefficient: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The next KL coefficient: proportional control in the logarithm (Ziegler et al. 2019, section 2.2).

    `kl`: nats an answer, the mean over `episodes`.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * episodes / horizon)


def ranked_pairs(ranks: Tensor, kinds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Indices (P,) of the winner and the loser of each pair of answers whose ranks (K,) differ; 1 is the best rank.

    Answers of one kind (K,), which have the same tokens, are no pair.
    """
    is_pair = ranks[:, None] < ranks[None, :]
    if kinds is not None:
        is_pair &= kinds[:, None] != kinds[None, :]
    winners, losers = torch.nonzero(is_pair, as_tuple=True)
    return winners, losers


def rank_margins(ranks: Tensor, kinds: Tensor | None = None) -> Tensor:
    """(P,), in the order of `ranked_pairs`: the places between winner and loser, as a share of all places."""
    places: Tensor = torch.unique(ranks, return_inverse=True)[1]
    winners, losers = ranked_pairs(ranks, kinds)
    return (places[losers] - places[winners]) / max(int(places.max()), 1)


def grouped_ranking_loss(scores: Tensor, ranks: Tensor, kinds: Tensor | None = None, *, margin: bool = False) -> Tensor:
    """-log sigmoid(r_w - r_l), the mean over all pairs of one prompt's answers that are not tied.

    `scores`, `ranks`, `kinds`: (K,), with one pair at least. All C(K, 2) pairs are one element of a batch (Ouyang et
    al. 2022, equation 1): as pairs of their own, an answer would be seen K - 1 times an epoch and be learned by heart.
    `margin` is taken from the difference first, as in Llama 2 (arXiv:2307.09288, equation 2).
    """
    winners, losers = ranked_pairs(ranks, kinds)
    difference = scores[winners] - scores[losers]
    if margin:
        difference = difference - rank_margins(ranks, kinds)
    losses: Tensor = F.softplus(-difference)
    return losses.mean()


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability (N,) of `ids` (N,) under logits (N, vocabulary) divided by the temperature, in float32.

    A block at a time, forth and back: all at once would take several times the logits' memory, and most of the time to
    get it. It has a first derivative only.
    """
    found: Tensor = _TokenLogprobs.apply(logits, ids, temperature)  # type: ignore[no-untyped-call]  # torch has no types
    return found


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        normalisers = torch.cat([_scaled(some, temperature).logsumexp(dim=1) for some in _blocks(logits)])
        ctx.save_for_backward(logits, ids, normalisers)
        ctx.temperature = temperature
        return _scaled(logits.gather(1, ids[:, None])[:, 0], temperature) - normalisers

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Of token i by logit j: (1 where j is its id, less its probability) / temperature."""
        logits, ids, normalisers = ctx.saved_tensors
        found = torch.empty_like(logits)
        pushes = gradient / ctx.temperature
        start = 0
        for into, some in zip(_blocks(found), _blocks(logits), strict=True):
            own = slice(start, start := start + len(some))
            probabilities = _scaled(some, ctx.temperature).sub(normalisers[own, None]).exp_()
            into.copy_(probabilities.mul_(-pushes[own, None]).scatter_add_(1, ids[own, None], pushes[own, None]))
        return found, None, None


def token_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy (N,) in nats of the distributions that logits (N, vocabulary) divided by the temperature are of."""
    return torch.cat([_entropy(some, temperature) for some in _blocks(logits)])


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    logs = torch.log_softmax(_scaled(logits, temperature), dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def _blocks(logits: Tensor) -> tuple[Tensor, ...]:
    """Views of some rows each, in order."""
    blocks: tuple[Tensor, ...] = logits.split(max(1, BLOCK[logits.device.type] // logits.shape[1]))
    return blocks


def least_squares(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and shift of the line through (x, y), both (N,), that misses y least; flat where x is one number."""
    centred = x - x.mean()
    spread = float(centred.square().sum())
    slope = float((centred * y).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean()) - slope * float(x.mean())


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 one that knows the mean only."""
    spread = returns.var(correction=0)
    return float(1.0 - (returns - values).var(correction=0) / spread) if spread > 0 else 0.0
