"""Win rates with their intervals, from who won each pair of answers.

Owns the arithmetic; runs no model. All answers to a prompt stand or fall together, so prompts are what is drawn anew
for an interval (the percentile bootstrap, Efron 1979), and each counts the same. Invariants: every number is finite,
whatever the outcomes are; the same outcomes and seed give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES: Final = 2000
_TAILS: Final = (0.025, 0.975)
# Of the two numbers of the length-controlled fit. Both keep it finite where the outcomes could be told apart without
# error; and what length alone could explain too is left to length, as its ridge is a thousandth of the other's.
_RIDGE: Final = np.array([1e-3, 1e-6])
_MOST_STEPS: Final = 200
_LONGEST_STEP: Final = 2.0
_DONE: Final = 1e-9
_NORMAL: Final = 1.96
_HALVINGS: Final = 40
_AT_ONCE: Final = 2_000_000  # weights of pairs: 16 MB, and some copies


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Duel:
    """The pairs of one prompt's answers. `outcomes`: what the candidate's answer won, 1, 0.5 or 0. `lengths`: by how
    many characters it was longer."""

    outcomes: tuple[float, ...]
    lengths: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of the pairs that the candidate won, ties a half."""
        return math.fsum(self.outcomes) / len(self.outcomes)


def duel(
    ours: Sequence[str], theirs: Sequence[str], our_scores: Sequence[float], their_scores: Sequence[float]
) -> Duel:
    """Each answer of the candidate against each of the incumbent. Equal scores tie, and so do equal texts."""
    pairs = [
        (0.5 if x == y or a == b else float(a > b), float(len(x) - len(y)))
        for x, a in zip(ours, our_scores, strict=True)
        for y, b in zip(theirs, their_scores, strict=True)
    ]
    return Duel(tuple(outcome for outcome, _ in pairs), tuple(length for _, length in pairs))


def resampled(count: int, seed: int) -> Floats:
    """(RESAMPLES, count): how often each of `count` prompts is in each draw of as many, with replacement."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def mean_interval(values: Sequence[float], seed: int) -> Interval:
    """Of the mean of one number a prompt."""
    numbers = np.asarray(values, dtype=np.float64)
    means = resampled(len(numbers), seed) @ numbers / len(numbers)
    return _interval(float(numbers.mean()), means)


def rate_of(shares: Sequence[float], seed: int) -> dict[str, Any]:
    """The win rate, of what was won of each prompt: its mean and interval, and the prompts won, tied and lost.

    Where each prompt was won, tied or lost as a whole the interval is the bootstrap's or that of a sign test of those
    that were not tied, where it is wider: of a few that were all won, hardly any draw has none.
    """
    wins, losses = sum(share > 0.5 for share in shares), sum(share < 0.5 for share in shares)
    counts = {"wins": wins, "ties": len(shares) - wins - losses, "losses": losses, "prompts": len(shares)}
    found = mean_interval(shares, seed)
    if wins + losses and set(shares) <= {0.0, 0.5, 1.0}:
        low, high = (0.5 + (rate - 0.5) * (wins + losses) / len(shares) for rate in binomial_interval(wins, losses))
        found = Interval(found.mean, min(found.low, low), max(found.high, high))
    return asdict(found) | counts


def binomial_interval(wins: int, losses: int) -> tuple[float, float]:
    """Of the probability of a win, 95 % (Clopper and Pearson 1934)."""
    total = wins + losses

    def least(successes: int) -> float:
        """The probability of which so many or more would be as rare as what an interval leaves out at one end."""
        counts = np.arange(successes, total + 1)
        ways = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in counts]
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            tail = np.exp(ways + counts * math.log(middle) + (total - counts) * math.log1p(-middle)).sum()
            low, high = (middle, high) if tail < _TAILS[0] else (low, middle)
        return low

    return least(wins) if wins else 0.0, 1.0 - least(losses) if losses else 1.0


def length_controlled(duels: Sequence[Duel], seed: int) -> Interval:
    """What the win rate would be if the answers were of equal lengths (Dubois et al. 2024, arXiv:2404.04475, section 3,
    less its term for a prompt's difficulty, which takes more than two policies to know).

    A logistic model of who wins: theta + phi * tanh(difference of the lengths / its root mean square), whose win rate
    at no difference is the logistic function of theta. (The paper divides by the standard deviation, which is 0 where
    one policy is always longer by the same.)

    The interval is the bootstrap's, or the one that the curvature of the likelihood gives where that is wider: where
    one policy is always the longer one and always wins, no draw of prompts shows that it could as well be its length.
    """
    lengths = np.array([length for each in duels for length in each.lengths])
    outcomes = np.array([outcome for each in duels for outcome in each.outcomes])
    pairs = np.array([len(each.outcomes) for each in duels])
    owner = np.repeat(np.arange(len(duels)), pairs)
    scale = math.sqrt(float((lengths**2).mean()))
    bounded = np.tanh(lengths / scale) if scale else np.zeros_like(lengths)
    drawn = np.vstack([np.ones(len(duels)), resampled(len(duels), seed)]) / len(duels)
    fits = [
        _fit(bounded, outcomes, some[:, owner] / pairs[owner])
        for some in np.array_split(drawn, math.ceil(len(drawn) * len(owner) / _AT_ONCE))
    ]
    theta, variance = fits[0][0][0], fits[0][1][0]
    rates = _interval(float(_logistic(theta)), _logistic(np.concatenate([each for each, _ in fits])[1:]))
    # k answers of each policy to a prompt make k squared pairs, which say no more than k that have no answer in common.
    reach = _NORMAL * math.sqrt(variance / float(np.sqrt(pairs).sum()))
    low, high = float(_logistic(theta - reach)), float(_logistic(theta + reach))
    return Interval(rates.mean, min(rates.low, low), max(rates.high, high))


def _fit(bounded: Floats, outcomes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Of each row of `weights` (rows, pairs), which sum to 1: the theta of a penalised logistic regression, by Newton's
    steps, and its variance if each row were of one pair."""
    found = np.zeros((len(weights), 2))
    variance = np.zeros(len(weights))
    going = np.arange(len(weights))
    for _ in range(_MOST_STEPS):
        weight, (theta, phi) = weights[going], found[going].T
        expected = _logistic(theta[:, None] + phi[:, None] * bounded)
        error = weight * (outcomes - expected)
        curve = weight * expected * (1 - expected)
        down, along = np.stack([error.sum(axis=1), error @ bounded]) - _RIDGE[:, None] * found[going].T
        one, mixed, two = curve.sum(axis=1) + _RIDGE[0], curve @ bounded, curve @ bounded**2 + _RIDGE[1]
        determinant = one * two - mixed**2
        variance[going] = two / determinant
        step = np.stack([two * down - mixed * along, one * along - mixed * down], axis=1) / determinant[:, None]
        size = np.abs(step).max(axis=1)
        found[going] += step * np.minimum(1, _LONGEST_STEP / np.maximum(size, _DONE))[:, None]
        going = going[size > _DONE]
        if not len(going):
            break
    return found[:, 0], variance


def _logistic(x: Floats | float) -> Floats:
    rates: Floats = np.asarray(0.5 * (1 + np.tanh(0.5 * x)))  # without overflow
    return rates


def _interval(mean: float, drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, _TAILS)
    return Interval(mean, float(low), float(high))
