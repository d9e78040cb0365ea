"""PPO against what it must find: with a tiny vocabulary and answers of one or two tokens, the policy that is best under
`E[r] - beta KL` is known by enumeration, `pi*(y) ~ pi_ref(y) exp(r(y) / beta)`. An error of sign, of beta, in where the
score sits or in whitening misses it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model, word_tokenizer
from torch import Tensor

from honed.models.scalar_head import ScalarModel
from honed.server.store.exchange.records import Prompt, text_prompt
from honed.training.actors import Cast
from honed.training.attention import ATTENTION
from honed.training.configs import PPOConfig
from honed.training.data.datasets import Dataset, Example
from honed.training.distributed import Ranks
from honed.training.generation import Generator
from honed.training.learner import Learner, OptimizerConfig
from honed.training.loading import Loaded
from honed.training.ppo import optimise
from honed.training.reports.tracking import Tracker
from honed.training.run import Run

EOS = 2
VOCABULARY = 8
PROMPT = (4, 5)
BETA = 0.4
PENALTY = 0.5


class KnownReward(ScalarModel):
    """Scores an answer by a table of its tokens, whatever the weights."""

    table: Tensor

    def forward(self, keep: Tensor, **inputs: Any) -> Tensor:
        ids, positions = inputs["input_ids"][0], inputs["position_ids"][0]
        return torch.stack([self._score(ids, positions, int(end)) for end in keep])

    def _score(self, ids: Tensor, positions: Tensor, end: int) -> Tensor:
        length = int(positions[end]) + 1 - len(PROMPT)
        return score(tuple(ids[end + 1 - length : end + 1].tolist()), self.table)


def score(answer: tuple[int, ...], table: Tensor) -> Tensor:
    """A number for the first token, and another for the second after it."""
    return table[answer[0], 0] + (table[answer[1], 1] if len(answer) == 2 else 0.0)


def answers() -> Iterator[tuple[int, ...]]:
    for first in range(VOCABULARY):
        if first == EOS:
            yield (first,)
        else:
            yield from ((first, second) for second in range(VOCABULARY))


@torch.no_grad()
def logprobs(model: Any, listed: list[tuple[int, ...]]) -> Tensor:
    found = []
    for answer in listed:
        ids = torch.tensor([PROMPT + answer])
        logs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(dim=-1)
        found.append(sum(logs[len(PROMPT) - 1 + i, token] for i, token in enumerate(answer)))
    return torch.stack(found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_finds_the_known_optimum(seed: int, tmp_path: Path) -> None:
    config = PPOConfig(
        seed=seed,
        dtype="float32",
        iterations=50,
        batch_size=256,
        minibatches=4,
        samples_per_prompt=8,
        max_new_tokens=2,
        max_tokens=16,
        learning_rate=2e-3,  # twice as much may lose an answer early that is then never tried again
        value_learning_rate=2e-2,
        final_learning_rate=0.05,
        kl_coefficient=BETA,
        missing_eos_penalty=PENALTY,
        ema=0.0,
        validate_every=1000,
        save_every=1000,
        value_clip=10.0,
    )
    table = torch.randn(VOCABULARY, 2, generator=torch.Generator().manual_seed(seed))
    cast, reference = cast_of(config, table, seed)
    run = run_of(config, tmp_path)
    with run.tracker:
        optimise(run, cast)

    listed = list(answers())
    start, end = logprobs(reference, listed), logprobs(cast.policy.model, listed)
    assert math.isclose(float(start.exp().sum()), 1.0, abs_tol=1e-6)
    rewards = torch.stack([score(a, table).double() - (0.0 if a[-1] == EOS else PENALTY) for a in listed])
    best = (start + rewards / BETA).log_softmax(dim=0)
    most, least, got = (value(policy, start, rewards) for policy in (best, start, end))
    assert math.isclose(most, float(BETA * (start + rewards / BETA).logsumexp(dim=0)), abs_tol=1e-6)
    assert (most - got) / (most - least) < 0.01
    assert kl(end, start) == pytest.approx(kl(best, start), rel=0.05)


def value(policy: Tensor, start: Tensor, rewards: Tensor) -> float:
    return float((policy.exp() * rewards).sum()) - BETA * kl(policy, start)


def kl(policy: Tensor, start: Tensor) -> float:
    return float((policy.exp() * (policy - start)).sum())


def cast_of(config: PPOConfig, table: Tensor, seed: int) -> tuple[Cast, Any]:
    ranks = Ranks(torch.device("cpu"))
    tokenizer = word_tokenizer(VOCABULARY)
    policy, reference = (
        Loaded(tiny_model(vocab_size=VOCABULARY, seed=seed), tokenizer, frozenset({EOS})) for _ in range(2)
    )
    for each in (policy, reference):
        each.model.set_attn_implementation(ATTENTION)
        with torch.no_grad():
            each.model.lm_head.weight.mul_(0.3)  # nothing is so improbable that it is never tried
    gold = KnownReward(tiny_model(vocab_size=VOCABULARY).model)
    gold.table = table
    critic = ScalarModel(tiny_model(vocab_size=VOCABULARY, seed=seed + 10).model)
    critic.draw_head(seed)
    for each in (gold, critic):
        each.backbone.set_attn_implementation(ATTENTION)
    cast = Cast(
        policy=policy,
        reference=reference,
        reward_model=gold,
        critic=critic,
        learner=Learner(
            policy.model, ranks, OptimizerConfig(learning_rate=config.learning_rate, eps=1e-5), torch.float32
        ),
        critic_learner=Learner(
            critic, ranks, OptimizerConfig(learning_rate=config.value_learning_rate, eps=1e-5), torch.float32
        ),
        generator=Generator(policy),
        pretraining=None,
    )
    return cast, reference.model


def run_of(config: PPOConfig, folder: Path) -> Run[PPOConfig]:
    example = Example(Prompt(text_prompt("w4 w5")), "train", None, None, None, None, "other")
    dataset: Any = Dataset("data-0", "ppo", (example,), None)  # nobody reads the card
    return Run(
        config=config,
        dataset=dataset,
        parent=folder,
        folder=folder,
        ranks=Ranks(torch.device("cpu")),
        tracker=Tracker(folder, title="", total_steps=60, show=False),
    )
