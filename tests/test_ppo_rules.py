"""The rules of RLHF on real rounds of PPO: tiny models, the engine's rollouts, both learners.

Rules 5, 8 and 9 are in `test_actors.py`; 1, 3, 6 and 7 have tests of their parts too (`test_objectives.py`,
`test_trees.py`, `test_experience.py`), 2 in `test_encoding.py` and `test_generation.py`, 11 in `test_watch.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from casts import TEXTS, Watched, cast_of, config_of, train, weights
from fakes import Architecture, tiny_model
from torch import Tensor
from torch.nn import functional


@pytest.mark.parametrize(
    ("architecture", "dtype", "lora"),
    [
        ("llama", "float32", False),
        ("llama", "bfloat16", False),
        ("llama", "bfloat16", True),
        ("gpt2", "float32", False),  # whose config drops a tenth of everything in training
        ("gemma3", "bfloat16", False),
    ],
)
def test_rule_4_the_first_ratio_is_exactly_1(
    architecture: Architecture, dtype: str, lora: bool, tmp_path: Path
) -> None:
    """In each round, before its first step; and in the first round the divergence is exactly 0."""
    config = config_of(dtype=dtype, lora=lora, iterations=2, minibatches=4, tokens_per_pass=24)
    cast, learner, critic_learner = cast_of(config, architecture=architecture)
    _, rounds = train(config, cast, tmp_path)
    assert [each["ppo/first_ratio_error"] for each in rounds] == [0.0, 0.0]
    assert rounds[0]["ppo/kl"] == 0.0
    assert rounds[1]["ppo/kl"] != 0.0
    assert rounds[0]["ppo/approx_kl"] > 0.0  # the later minibatches of a round come after a step
    assert len(learner.buffers) == len(critic_learner.buffers) == 8


def test_rule_4_of_a_round_with_one_minibatch_the_divergence_is_exactly_0(tmp_path: Path) -> None:
    config = config_of(minibatches=1)
    _, (numbers,) = train(config, cast_of(config)[0], tmp_path)
    assert numbers["ppo/approx_kl"] == numbers["ppo/clip_fraction"] == 0.0


def test_rule_4_a_ratio_that_is_not_1_is_seen(tmp_path: Path) -> None:
    """Noise in the passes that are learned from, as dropout would be."""
    config = config_of(iterations=3)
    cast, _, _ = cast_of(config)
    drop = functools.partial(functional.dropout, p=0.1)
    cast.policy.model.model.norm.register_forward_hook(lambda _, __, out: drop(out) if out.requires_grad else out)
    trained, rounds = train(config, cast, tmp_path)
    assert rounds[0]["ppo/first_ratio_error"] > 1e-3
    assert len(rounds) == 1
    assert trained.stopped is not None
    assert "dropout" in trained.stopped


def test_rule_5_an_update_divides_by_the_temperature_too(tmp_path: Path) -> None:
    config = config_of(temperature=0.6)
    _, (numbers,) = train(config, cast_of(config)[0], tmp_path)
    assert numbers["ppo/first_ratio_error"] == 0.0


def test_rule_6_what_is_logged_is_what_the_policy_was_rewarded_by(tmp_path: Path) -> None:
    """Reward is score less beta times KL, less the penalty of answers that did not end."""
    config = config_of(iterations=2, missing_eos_penalty=0.75)
    _, rounds = train(config, cast_of(config)[0], tmp_path)
    assert abs(rounds[1]["ppo/kl"]) > 1e-4
    for each in rounds:
        penalty = 0.75 * (1 - each["ppo/ended"])
        assert each["ppo/reward"] == pytest.approx(each["ppo/score"] - 0.1 * each["ppo/kl"] - penalty, abs=1e-5)


def test_rule_7_how_tokens_are_shared_out_to_passes_changes_nothing(tmp_path: Path) -> None:
    """Each prompt alone, or all at once: the same buffers, the same update and the same numbers, with whitening over
    the round and pretraining texts in it. The rates are low, since Adam makes much of what is left of small gradients.
    """
    found = []
    for tokens in (1, 10_000):
        config = config_of(tokens_per_pass=tokens, learning_rate=1e-5, value_learning_rate=1e-5)
        cast, *learners = cast_of(config, pretraining=TEXTS)
        _, (numbers,) = train(config, cast, tmp_path / str(tokens))
        del numbers["seconds"]
        found.append((numbers, learners, [weights(each.module) for each in learners]))
    (small, own, updated), (large, others, updated_too) = found
    assert small == pytest.approx(large, rel=1e-4, abs=1e-5)
    for learner, other in zip(own, others, strict=True):
        assert len(learner.buffers) == len(other.buffers) == 2
        for buffer, other_buffer in zip(learner.buffers, other.buffers, strict=True):
            assert_near(buffer, other_buffer)
    for mine, theirs in zip(updated, updated_too, strict=True):
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], atol=1e-6, rtol=0)


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], share: float = 1e-5) -> None:
    """Two gradients, by their distance as a share of their length."""
    first, second = (torch.cat([each[name].flatten() for name in sorted(each)]) for each in (one, other))
    assert one.keys() == other.keys()
    assert float(first.norm()) > 0
    assert float((first - second).norm() / first.norm()) < share


def test_rule_10_the_buffer_is_that_of_ppo_and_the_coefficients_share_of_the_texts(tmp_path: Path) -> None:
    """Before one step, which takes both: buffer == g_ppo + c * g_ptx."""
    coefficient = 2.5
    buffers = []
    for texts in (None, TEXTS):
        config = config_of(minibatches=1, ptx_coefficient=coefficient)
        cast, learner, _ = cast_of(config, pretraining=texts)
        train(config, cast, tmp_path / str(texts is None))
        (buffer,) = learner.buffers  # exactly one step
        buffers.append(buffer)
    alone, both = buffers
    expected = {
        name: each + coefficient * gradient for (name, each), gradient in zip(alone.items(), _of_texts(), strict=True)
    }
    assert_near(both, expected, 1e-4)
    assert not _is_near(both, alone)


def _of_texts() -> list[Tensor]:
    """The gradient of the mean cross-entropy over the texts' tokens, by transformers' own forward pass."""
    model = tiny_model()
    config = config_of(minibatches=1)
    trees = TEXTS.pieces(config.batch_size * config.ptx_examples, config.ptx_tokens, config.seed, 0)
    losses = []
    for tree in trees:
        ids = torch.tensor([tree.prompt + tree.answers[0]])
        logs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(dim=-1)
        losses.append(-logs[torch.arange(ids.shape[1] - 1), ids[0, 1:]])
    torch.cat(losses).mean().backward()
    return [each.grad for each in model.parameters() if each.grad is not None]


def _is_near(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(each, other[name], atol=1e-4) for name, each in one.items())


def test_rule_10_a_step_moves_what_adam_moves_by_the_whole_buffer(tmp_path: Path) -> None:
    """The first step of Adam by hand, of the buffer scaled down to a norm of 1."""
    config = config_of(minibatches=1, ptx_coefficient=2.5, max_grad_norm=1.0)
    cast, learner, _ = cast_of(config, pretraining=TEXTS)
    start = weights(learner.module)
    train(config, cast, tmp_path)
    (buffer,) = learner.buffers
    norm = torch.cat([each.flatten() for each in buffer.values()]).norm()
    assert norm > 1
    for name, each in weights(learner.module).items():
        gradient = buffer[name] / norm
        torch.testing.assert_close(each, start[name] - 1e-3 * gradient / (gradient.abs() + 1e-5), atol=2e-6, rtol=0)


def test_rule_11_a_sick_run_stops_and_keeps_its_last_good_weights(tmp_path: Path) -> None:
    """Healthy at its first two rounds, over the budget at the third: what is kept is what the second round measured,
    the weights after one update, as of a run that ends there."""
    settings = {"learning_rate": 3e-3, "final_learning_rate": 1.0, "seed": 1}
    config = config_of(iterations=3, **settings)
    _, free = train(config, cast_of(config)[0], tmp_path / "free")
    assert 0 == free[0]["ppo/kl"] < free[1]["ppo/kl"] < free[2]["ppo/kl"]

    budget = (free[1]["ppo/kl"] + free[2]["ppo/kl"]) / 2
    config = config_of(iterations=9, kl_budget=budget, **settings)
    cast, _, _ = cast_of(config)
    stopped, rounds = train(config, cast, tmp_path / "stopped")
    assert len(rounds) == 3
    assert stopped.stopped is not None
    assert stopped.stopped.startswith(f"KL {free[2]['ppo/kl']:.1f} nats an answer is over the budget")

    config = config_of(iterations=1, **settings)
    one, _, _ = cast_of(config)
    short, _ = train(config, one, tmp_path / "short")
    assert short.stopped is None
    for name, each in weights(one.policy.model).items():
        assert torch.equal(each, weights(cast.policy.model)[name])


def test_rule_12_what_is_kept_is_not_chosen_by_the_score_and_length_is_measured(tmp_path: Path) -> None:
    """The averaged weights of all rounds, whichever of them scored best; measured on held-out prompts."""
    config = config_of(iterations=3, ema=0.5, learning_rate=1e-2)
    cast, learner, _ = cast_of(config)
    expected = weights(cast.policy.model)
    seen: list[dict[str, Tensor]] = []
    step = Watched.step

    def step_and_look(self: Watched, factor: float) -> float:
        norm = step(self, factor)
        if self is learner and len(self.buffers) % config.minibatches == 0:
            seen.append(weights(self.module))
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watched, "step", step_and_look)
        trained, _ = train(config, cast, tmp_path, validation=("six",))
    assert len(seen) == 3
    for n, each in enumerate(seen, start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = {name: decay * expected[name] + (1 - decay) * each[name] for name in expected}
    for name, each in weights(cast.policy.model).items():
        torch.testing.assert_close(each, expected[name], atol=1e-6, rtol=1e-5)
    assert {"validation/length", "validation/score", "validation/kl"} <= trained.metrics.keys()


def test_only_policy_and_critic_change(tmp_path: Path) -> None:
    config = config_of(learning_rate=1e-2)
    cast, _, _ = cast_of(config)
    assert cast.reference is not None
    before = {
        name: weights(module)
        for name, module in (
            ("reference", cast.reference.model),
            ("reward", cast.reward_model),
            ("critic", cast.critic),
        )
    }
    train(config, cast, tmp_path)
    after = {"reference": cast.reference.model, "reward": cast.reward_model, "critic": cast.critic}
    for who in ("reference", "reward"):
        assert all(torch.equal(each, before[who][name]) for name, each in weights(after[who]).items())
    assert not all(torch.equal(each, before["critic"][name]) for name, each in weights(after["critic"]).items())


def test_the_coefficient_is_adapted_after_each_round(tmp_path: Path) -> None:
    """A first divergence of 0 is a fifth too little at most: times 1 - 0.2 * 8 / 40."""
    config = config_of(iterations=2, kl_target=1.0, kl_horizon=40)
    _, rounds = train(config, cast_of(config)[0], tmp_path)
    assert [each["ppo/kl_coefficient"] for each in rounds] == pytest.approx([0.1, 0.1 * 0.96])


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, {"lora": True}], ids=str)
def test_the_critic_starts_from_what_the_first_round_brought(changes: dict[str, Any], tmp_path: Path) -> None:
    """No line of what the reward model says of beginnings foresees more of it; and what the critic is held to when its
    values are clipped is what it would now say."""
    config = config_of(batch_size=32, samples_per_prompt=8, value_learning_rate=1e-12, value_clip=1e-4, **changes)
    _, (numbers,) = train(config, cast_of(config)[0], tmp_path)
    assert 0.0 <= numbers["ppo/explained_variance"] < 1.0
    assert numbers["ppo/value_clip_fraction"] == 0.0


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, {"lora": True}], ids=str)
def test_to_measure_changes_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    """What is measured is the average, which training does not go on from."""
    found = []
    for every in (1, 1000):
        config = config_of(iterations=3, ema=0.9, validate_every=every, **changes)
        trained, rounds = train(config, cast_of(config)[0], tmp_path / str(every), validation=("six",))
        found.append(([{**each, "seconds": 0} for each in rounds], dict(trained.model.state_dict())))
    (often, weights_of_often), (never, weights_of_never) = found
    assert often == never
    for name, each in weights_of_often.items():
        assert torch.equal(each, weights_of_never[name])


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"gamma": 0.5}, "both"),
        ({"gae_lambda": 0.5}, "both"),
        ({"kl_coefficient": 0.5}, "both"),
        ({"whiten_rewards": True}, "both"),
        ({"missing_eos_penalty": 3.0}, "both"),
        ({"clip": 0.001}, "policy"),
        ({"value_clip": 0.001}, "critic"),
        ({"learning_rate": 2e-3}, "policy"),
        ({"value_learning_rate": 2e-3}, "critic"),
    ],
)
def test_each_setting_reaches_whom_it_is_for(changes: dict[str, Any], who: str, tmp_path: Path) -> None:
    """It changes the last gradient of two epochs over a round, the policy's, the critic's or both, and no other's."""
    last = []
    for each in ({}, changes):
        config = config_of(inner_epochs=2, warmup=0.5, **each)
        cast, *learners = cast_of(config)
        with torch.no_grad():
            cast.policy.model.lm_head.weight.mul_(0.5)  # somewhere else than the reference, at a cost from the start
        train(config, cast, tmp_path / str(len(last)))
        last.append([learner.buffers[-1] for learner in learners])
    same = [all(torch.equal(each, other[name]) for name, each in one.items()) for one, other in zip(*last, strict=True)]
    assert same == [who == "critic", who == "policy"]
