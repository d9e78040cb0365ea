"""The rules of RLHF on real rounds of PPO: tiny models, the engine's rollouts, both learners.

Rules 1, 3, 6, 7 and 8 have tests of their parts too (`test_objectives.py`, `test_trees.py`, `test_experience.py`,
`test_scalar_head.py`), rule 2 in `test_encoding.py` and `test_generation.py`, rule 11 in `test_watch.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from casts import EOS, RANKS, TEXTS, Watched, cast_of, config_of, run_of, train, weights
from fakes import Architecture, save_tiny_policy, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.nn import functional

from honed.models.scalar_head import ScalarModel
from honed.training.actors import Cast, answer, assemble, judge
from honed.training.experience import Judgement, Pass
from honed.training.learner import Learner
from honed.training.trees import Tree

TREES = (Tree((10, 11, 12), ((13, 14, EOS), (15, 16))), Tree((20, 21), ((22, EOS),)))
PASS = Pass(TREES, (True, False, True))
SEQUENCES = [(tree.prompt, answer) for tree in TREES for answer in tree.answers]


def judged(cast: Cast, folder: Path, **changes: Any) -> Judgement:
    run = run_of(config_of(**changes), folder)
    with run.tracker:
        (found,) = judge(run, cast, [PASS])
    return found


@torch.no_grad()
def plain_logprobs(model: Any, temperature: float) -> Tensor:
    """Of the sequences alone, by transformers."""
    found = []
    for prompt, tokens in SEQUENCES:
        logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        logs = (logits / temperature).log_softmax(dim=-1)
        found.append(logs[torch.arange(len(tokens)), torch.tensor(tokens)])
    return torch.cat(found)


def tilt(cast: Cast) -> None:
    """Makes the policy another than its reference."""
    with torch.no_grad():
        for parameter in cast.policy.model.parameters():
            parameter.mul_(1.1)


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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_rule_5_the_temperature_divides_logits_of_policy_and_reference_alike(
    temperature: float, tmp_path: Path
) -> None:
    cast, _, _ = cast_of(config_of())
    assert cast.reference is not None
    tilt(cast)
    found = judged(cast, tmp_path, temperature=temperature)
    for model, got in ((cast.policy.model, found.logprobs), (cast.reference.model, found.reference)):
        torch.testing.assert_close(got, plain_logprobs(model, temperature), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.logprobs, found.reference, atol=1e-2)


def test_rule_5_an_update_divides_by_the_temperature_too(tmp_path: Path) -> None:
    config = config_of(temperature=0.6)
    _, (numbers,) = train(config, cast_of(config)[0], tmp_path)
    assert numbers["ppo/first_ratio_error"] == 0.0


def test_rule_5_with_adapters_the_reference_is_the_policy_without_them(tmp_path: Path) -> None:
    config = config_of(lora=True, learning_rate=0.05)
    cast, _, _ = cast_of(config)
    train(config, cast, tmp_path)
    found = judged(cast, tmp_path / "judged", temperature=0.5)
    torch.testing.assert_close(found.reference, plain_logprobs(tiny_model(), 0.5), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logprobs, plain_logprobs(cast.policy.model, 0.5), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.logprobs, found.reference, atol=1e-2)


def test_rule_5_answers_are_sampled_at_the_temperature(tmp_path: Path) -> None:
    """Near 0 all are the most probable; at 1 they differ."""
    cast, _, _ = cast_of(config_of())
    found = {}
    for temperature in (1e-3, 1.0):
        run = run_of(config_of(temperature=temperature), tmp_path / str(temperature))
        with run.tracker:
            trees, _ = answer(run, cast, [(10, 11, 12)], 4, ("here",))
        found[temperature] = trees[0].answers
    assert len(set(found[1e-3])) == 1
    assert len(set(found[1.0])) == 4


def test_rules_1_and_8_scores_and_values_are_on_the_scale_that_is_saved(tmp_path: Path) -> None:
    """Of the cast: a mean of 0.5 and a deviation of 2. The critic starts as a copy of the reward model, so that its
    value of a state is what that would say if the answer ended there."""
    cast, _, _ = cast_of(config_of())
    found = judged(cast, tmp_path)
    scores, values = [], []
    with torch.no_grad():
        for prompt, tokens in SEQUENCES:
            backbone = cast.reward_model.backbone
            hidden = backbone(input_ids=torch.tensor([prompt + tokens]), use_cache=False).last_hidden_state[0]
            numbers = (cast.reward_model.head(hidden)[:, 0] - 0.5) / 2.0
            scores.append(numbers[-1])
            values.append(numbers[len(prompt) - 1 : -1])
    torch.testing.assert_close(found.scores, torch.stack(scores), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.values, torch.cat(values), atol=1e-4, rtol=1e-4)


def test_rule_2_answers_of_rollouts_end_with_eos_or_were_cut(tmp_path: Path) -> None:
    """Each of them: an end is in an answer exactly where it ended by itself, and nowhere else; no padding anywhere."""
    cast, _, _ = cast_of(config_of())
    with torch.no_grad():
        cast.policy.model.lm_head.weight.mul_(0.2)  # of nearly equal logits an end comes soon enough
        cast.policy.model.lm_head.weight[3] = -cast.policy.model.lm_head.weight[4]  # padding is a token like others
        cast.policy.model.lm_head.weight[EOS] = 2.0 * cast.policy.model.lm_head.weight[5]
    run = run_of(config_of(max_new_tokens=20), tmp_path)
    with run.tracker:
        trees, ended = answer(run, cast, [(10, 11, 12), (20,)], 40, ("here",))
    flat = [
        (tokens, end)
        for tree, ends in zip(trees, ended, strict=True)
        for tokens, end in zip(tree.answers, ends, strict=True)
    ]
    assert {end for _, end in flat} == {True, False}
    for tokens, end in flat:
        assert (EOS in tokens) == end
        assert tokens.index(EOS) == len(tokens) - 1 if end else len(tokens) == 20


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
    the round and pretraining texts in it."""
    found = []
    for tokens in (1, 10_000):
        config = config_of(tokens_per_pass=tokens)
        cast, *learners = cast_of(config, pretraining=TEXTS)
        _, (numbers,) = train(config, cast, tmp_path / str(tokens))
        del numbers["seconds"]
        found.append((numbers, learners, [weights(each.module) for each in learners]))
    (small, own, updated), (large, others, updated_too) = found
    assert small == pytest.approx(large, abs=1e-5)
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


@pytest.mark.parametrize("of", ["policy", "critic"])
def test_rule_9_adams_eps_is_1e_5(of: str, tmp_path: Path) -> None:
    """A gradient of 1e-5 everywhere moves weights by half the learning rate."""
    policy = save_tiny_policy(tmp_path / "policy")
    model = ScalarModel(tiny_model(seed=1).base_model)
    model.save_pretrained(tmp_path / "reward")
    run = run_of(config_of(learning_rate=1e-2, value_learning_rate=1e-2), tmp_path / "run")
    with run.tracker:
        cast = assemble(_from(run, policy), tmp_path / "reward")
    learner: Learner = cast.learner if of == "policy" else cast.critic_learner
    before = weights(learner.module)
    learner.backward(1e-5 * sum(each.sum() for each in learner.module.parameters()))
    learner.step(1.0)
    for name, each in weights(learner.module).items():
        torch.testing.assert_close(before[name] - each, torch.full_like(each, 5e-3), atol=1e-5, rtol=0)


def _from(run: Any, parent: Path) -> Any:
    return type(run)(
        config=run.config,
        dataset=run.dataset,
        parent=parent,
        folder=run.folder,
        ranks=RANKS,
        tracker=run.tracker,
    )


def test_the_cast_that_is_assembled(tmp_path: Path) -> None:
    """The critic is a copy of the reward model, its scale included; the reference is the policy, or, with adapters,
    nobody; nothing is in training, GPT-2's dropout included (rule 4)."""
    policy = save_tiny_policy(tmp_path / "policy", "gpt2")
    model = ScalarModel(tiny_model("gpt2", seed=1).base_model)
    model.draw_head(7)
    model.set_scale(-0.5, 3.0)
    model.save_pretrained(tmp_path / "reward")
    tiny_tokenizer().save_pretrained(tmp_path / "reward")
    for lora in (False, True):
        run = run_of(config_of(lora=lora), tmp_path / "run")
        with run.tracker:
            cast = assemble(_from(run, policy), tmp_path / "reward")
        for each in (cast.reward_model, cast.critic):
            assert (float(each.mean), float(each.std)) == (-0.5, 3.0)
            assert torch.equal(each.head.weight, model.head.weight)
        assert cast.critic is not cast.reward_model
        assert (cast.reference is None) == lora
        modules = [
            cast.policy.model,
            cast.critic,
            cast.reward_model,
            *([cast.reference.model] if cast.reference else []),
        ]
        dropouts = [module for each in modules for module in each.modules() if isinstance(module, nn.Dropout)]
        assert len(dropouts) > 4 * len(modules)
        assert not any(module.training for module in dropouts)


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
    assert_near(both, expected)
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
    settings = {"learning_rate": 3e-3, "final_learning_rate": 1.0}
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
