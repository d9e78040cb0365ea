"""What must go wrong when a part of PPO is taken away, and does not with it: without a price on divergence the policy
leaves where it started, and the watch ends the run; without pretraining texts it loses its language."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_model
from test_exact_optimum import EOS, VOCABULARY, answers, cast_of, kl, logprobs, run_of
from torch import Tensor
from torch.nn.functional import cross_entropy

from honed.models.scalar_head import ScalarModel
from honed.server.store.exchange.records import Prompt, text_prompt
from honed.training import ppo
from honed.training.actors import Cast
from honed.training.attention import ATTENTION
from honed.training.configs import PPOConfig
from honed.training.data.datasets import Dataset, Example
from honed.training.learner import DivergedError
from honed.training.pretraining import Pretraining
from honed.training.reports.tracking import read_metrics
from honed.training.run import Run, Trained

Weights = dict[str, Tensor]


def settings(**changes: Any) -> PPOConfig:
    """What both ablations have in common: steps that are large, so that there are few of them."""
    common = {
        "dtype": "float32",
        "batch_size": 128,
        "minibatches": 2,
        "samples_per_prompt": 8,
        "max_tokens": 32,
        "learning_rate": 4e-3,
        "value_learning_rate": 1e-2,
        "ema": 0.0,
        "value_clip": 10.0,
        "min_entropy": 0.0,
        "validate_every": 1000,
        "save_every": 1000,
    }
    return PPOConfig.model_validate(common | changes)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The policy's weights at the beginning of each round."""
    seen: list[Weights] = []
    round_ = ppo._round

    def noting(run: Run[PPOConfig], cast: Cast, *rest: Any) -> Any:
        seen.append({name: each.detach().clone() for name, each in cast.learner.masters.items()})
        return round_(run, cast, *rest)

    monkeypatch.setattr(ppo, "_round", noting)
    return seen


def diverging(beta: float, folder: Path) -> tuple[Trained, Tensor, Tensor]:
    """A run with a budget of 1.5 nats; the log-probabilities of all answers at its end and at its start."""
    config = settings(kl_coefficient=beta, kl_budget=1.5, iterations=24, max_new_tokens=2, missing_eos_penalty=0.0)
    table = torch.randn(VOCABULARY, 2, generator=torch.Generator().manual_seed(0))
    cast, reference = cast_of(config, table, seed=0)
    run = run_of(config, folder)
    with run.tracker:
        trained = ppo.optimise(run, cast)
    listed = list(answers())
    return trained, logprobs(cast.policy.model, listed), logprobs(reference, listed)


def test_without_beta_the_divergence_grows_and_the_watch_ends_the_run(tmp_path: Path, starts: list[Weights]) -> None:
    trained, end, start = diverging(0.0, tmp_path)
    rounds = [line["ppo/kl"] for line in read_metrics(tmp_path) if "ppo/kl" in line]
    assert trained.stopped is not None
    assert trained.stopped.startswith(f"KL {rounds[-1]:.1f} nats an answer is over the budget of 1.5")
    assert len(rounds) < 24
    assert rounds[0] < 0.1
    assert max(rounds[:-1]) <= 1.5 < rounds[-1]

    # The last round measured weights that were sick, and made others; what is given back is what the round before it
    # measured, which was well.
    given = dict(trained.model.named_parameters())
    assert all(torch.equal(each, given[name]) for name, each in starts[-2].items())
    assert not all(torch.equal(each, given[name]) for name, each in starts[-1].items())
    assert trained.state is not None
    assert all(torch.equal(each, trained.state[name]) for name, each in starts[-2].items())
    assert kl(end, start) < 1.5


def test_with_beta_the_same_run_ends_well(tmp_path: Path) -> None:
    trained, end, start = diverging(1.0, tmp_path)
    assert trained.stopped is None
    assert 0.05 < kl(end, start) < 1.5


# A language of five words that follow each other in a circle, four times out of five.
CIRCLE = (3, 4, 5, 6, 7)
MARK = 1  # of a prompt; no text has it
LIKED = 3


class LikesOneWord(ScalarModel):
    """Scores an answer by how often it says LIKED, whatever the weights."""

    def forward(self, keep: Tensor, **inputs: Any) -> Tensor:
        ids, positions = inputs["input_ids"][0], inputs["position_ids"][0]
        return torch.stack([self._score(ids, int(end), int(positions[end]) - 1) for end in keep])

    def _score(self, ids: Tensor, end: int, length: int) -> Tensor:
        return (ids[end + 1 - length : end + 1] == LIKED).float().sum()


def texts(count: int, seed: int) -> Iterator[tuple[int, ...]]:
    draw = random.Random(seed)
    for _ in range(count):
        text = [draw.choice(CIRCLE)]
        while len(text) < 12:
            following = CIRCLE[(CIRCLE.index(text[-1]) + 1) % len(CIRCLE)]
            text.append(following if draw.random() < 0.8 else draw.choice(CIRCLE))
        yield tuple(text)


@pytest.fixture(scope="module")
def speaker() -> Weights:
    """A tiny model that has learned the language."""
    model = tiny_model(vocab_size=VOCABULARY)
    ids = torch.tensor(list(texts(400, seed=0)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        some = ids[step * 32 % 384 :][:32]
        logits = model(input_ids=some, use_cache=False).logits[:, :-1]
        cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def pleased(speaker: Weights, coefficient: float, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """What PPO towards LIKED measures at its start and at its end, with nothing else to keep it."""
    config = settings(
        kl_coefficient=0.0, kl_budget=1e6, iterations=12, max_new_tokens=4, missing_eos_penalty=0.0,
        ptx_coefficient=coefficient, ptx_examples=1, ptx_tokens=12,
    )  # fmt: skip
    cast, _ = cast_of(config, torch.zeros(VOCABULARY, 2), seed=0)
    assert cast.reference is not None
    for each in (cast.policy, cast.reference):
        each.model.load_state_dict(speaker)
    judge = LikesOneWord(tiny_model(vocab_size=VOCABULARY).model)
    judge.backbone.set_attn_implementation(ATTENTION)
    mix = Pretraining(tuple(texts(200, seed=1)), tuple(texts(32, seed=2)))
    run = replace(run_of(config, folder), dataset=asking())
    with run.tracker:
        trained = ppo.optimise(run, replace(cast, reward_model=judge, pretraining=mix))
    assert trained.stopped is None
    return read_metrics(folder)[0], trained.metrics


def asking() -> Dataset:
    """One prompt to learn from and another to measure on."""
    both = (("w1 w4", "train"), ("w1 w5", "validation"))
    examples: Any = [Example(Prompt(text_prompt(text)), split, None, None, None, None, "other") for text, split in both]
    nothing: Any = None  # nobody reads the card
    return Dataset("data-0", "ppo", tuple(examples), nothing)


def test_without_pretraining_texts_the_language_is_lost_and_with_them_kept(speaker: Weights, tmp_path: Path) -> None:
    """In nats a token of held-out texts; the reward is learned both times."""
    start, lost = pleased(speaker, 0.0, tmp_path / "without")
    same_start, kept = pleased(speaker, 5.0, tmp_path / "with")
    assert same_start["validation/language_loss"] == start["validation/language_loss"] < 1.0
    assert lost["validation/language_loss"] > start["validation/language_loss"] + 0.5
    assert kept["validation/language_loss"] < start["validation/language_loss"] + 0.1
    for end in (lost, kept):
        assert end["validation/score"] > start["validation/score"] + 1.0
    assert EOS not in CIRCLE


def test_a_run_whose_measurement_diverges_gives_back_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the second round, which went well, and the last: the average was good before it."""
    config = settings(iterations=2, kl_coefficient=0.4, max_new_tokens=2, ema=0.5)
    cast, _ = cast_of(config, torch.randn(VOCABULARY, 2, generator=torch.Generator().manual_seed(0)), 0)
    shown: list[Weights] = []
    measure = ppo.measure

    def measuring(run: Run[PPOConfig], cast: Cast, held_out: Any) -> Any:
        shown.append({name: each.detach().clone() for name, each in cast.policy.model.named_parameters()})
        if len(shown) == 2:
            raise DivergedError("The numbers are not finite.")
        return measure(run, cast, held_out)

    monkeypatch.setattr(ppo, "measure", measuring)
    run = replace(run_of(config, tmp_path), dataset=asking())
    with run.tracker:
        trained = ppo.optimise(run, cast)
    assert trained.stopped == "The numbers are not finite."
    start, average, last = shown
    kept = dict(trained.model.named_parameters())
    assert all(torch.equal(kept[name], each) for name, each in last.items())
    assert any(not torch.equal(start[name], each) for name, each in last.items())
    assert any(not torch.equal(average[name], each) for name, each in last.items())
    assert "validation/score" in trained.metrics


def test_a_run_that_diverges_gives_back_the_last_good_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the third round the critic's gradient is not finite any more."""
    config = settings(iterations=6, kl_coefficient=0.4, max_new_tokens=2)
    cast, _ = cast_of(config, torch.randn(VOCABULARY, 2, generator=torch.Generator().manual_seed(0)), 0)
    rounds: list[Weights] = []
    round_ = ppo._round

    def breaking(run: Run[PPOConfig], cast: Cast, *rest: Any) -> Any:
        rounds.append({name: each.detach().clone() for name, each in cast.learner.masters.items()})
        if len(rounds) == 3:
            with torch.no_grad():
                cast.critic.head.weight.fill_(torch.nan)
        return round_(run, cast, *rest)

    monkeypatch.setattr(ppo, "_round", breaking)
    run = run_of(config, tmp_path)
    with run.tracker:
        trained = ppo.optimise(run, cast)
    assert trained.stopped is not None
    assert "diverged" in trained.stopped
    assert len(rounds) == 3
    assert all(torch.equal(trained.model.get_parameter(name), each) for name, each in rounds[1].items())
