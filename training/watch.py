"""The watch over a PPO run: what a round's numbers look like when it goes wrong, and since when.

Most runs that fail do so in one of a few ways, each of which shows long before the end (Huang et al. 2024: two of four
1B seeds gamed the reward at a KL of 50 to 85). Invariant: a reason says what was seen, against which bound, and what
to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Final

EARLY: Final = 3  # rounds that say what is usual
VALUE_GROWTH: Final = 20.0
RATIO_TOLERANCE: Final = 1e-4


class Watch:
    """Sees the rounds of one run in their order. `kl_budget`: nats an answer; `min_entropy`: nats a token."""

    def __init__(self, *, kl_budget: float, min_entropy: float, max_length_growth: float) -> None:
        self._kl_budget = kl_budget
        self._min_entropy = min_entropy
        self._max_length_growth = max_length_growth
        self._rounds: list[dict[str, float]] = []

    def see(self, numbers: Mapping[str, float]) -> str | None:
        """Why the run has to stop after the round that measured `numbers` (named as in metrics.jsonl), or None."""
        self._rounds.append(dict(numbers))
        checks = (self._ratio, self._kl, self._entropy, self._length, self._value)
        return next((reason for check in checks if (reason := check(numbers)) is not None), None)

    def _ratio(self, numbers: Mapping[str, float]) -> str | None:
        off = numbers["ppo/first_ratio_error"]
        if off <= RATIO_TOLERANCE:
            return None
        return (
            f"The policy's probabilities were off by {off:.2g} before anything was learned in this round: the model "
            "computes the same tokens differently each time. Switch off its dropout, or report its architecture."
        )

    def _kl(self, numbers: Mapping[str, float]) -> str | None:
        kl = numbers["ppo/kl"]
        if kl <= self._kl_budget:
            return None
        return (
            f"KL {kl:.1f} nats an answer is over the budget of {self._kl_budget:g}: the policy is far from where it "
            "started, where the reward model means nothing. Raise --kl-coefficient or lower --learning-rate."
        )

    def _entropy(self, numbers: Mapping[str, float]) -> str | None:
        entropy = numbers["ppo/entropy"]
        if entropy >= self._min_entropy:
            return None
        return (
            f"Entropy {entropy:.3f} nats a token is under {self._min_entropy:g}: the policy gives one answer only. "
            "Raise --kl-coefficient or lower --learning-rate."
        )

    def _length(self, numbers: Mapping[str, float]) -> str | None:
        first = self._rounds[0]
        length, score = numbers["ppo/length"], numbers["ppo/score"]
        if length <= self._max_length_growth * first["ppo/length"] or score <= first["ppo/score"]:
            return None
        return (
            f"Answers grew from {first['ppo/length']:.0f} to {length:.0f} tokens while their reward rose: the reward "
            "model likes length. Train it on more comparisons of long answers with short ones, or raise "
            "--kl-coefficient."
        )

    def _value(self, numbers: Mapping[str, float]) -> str | None:
        loss = numbers["ppo/value_loss"]
        usual = median(each["ppo/value_loss"] for each in self._rounds[:EARLY])
        if len(self._rounds) <= EARLY or loss <= max(VALUE_GROWTH * usual, 1.0):
            return None
        return f"The value loss went from {usual:.2g} to {loss:.2g}: the critic diverges. Lower --value-learning-rate."
