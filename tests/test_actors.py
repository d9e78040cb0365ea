"""Who takes part in PPO: how they are loaded, what they answer and what they say of answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from casts import EOS, TEXTS, cast_of, config_of, run_of, weights
from fakes import save_tiny_policy, tiny_model, tiny_tokenizer
from torch import Tensor, nn

from honed.models.scalar_head import ScalarModel
from honed.training.actors import Cast, answer, assemble, folded, judge, measure
from honed.training.adapters import has_adapters
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


def test_rule_5_with_adapters_the_reference_is_the_policy_without_them(tmp_path: Path) -> None:
    cast, _, _ = cast_of(config_of(lora=True))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in cast.policy.model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(0.0, 0.1, generator=generator)
    found = judged(cast, tmp_path, temperature=0.5)
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
    """Each of them: an end is in an answer exactly where it ended by itself, and nothing follows it."""
    cast, _, _ = cast_of(config_of())
    with torch.no_grad():
        cast.policy.model.lm_head.weight.mul_(0.1)  # of nearly equal logits an end comes sooner or later
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


@pytest.mark.parametrize("of", ["policy", "critic"])
def test_rule_9_adams_eps_is_1e_5(of: str, tmp_path: Path) -> None:
    """A gradient of 1e-5 everywhere moves weights by half the learning rate."""
    policy = save_tiny_policy(tmp_path / "policy")
    model = ScalarModel(tiny_model(seed=1).base_model)
    model.save_pretrained(tmp_path / "reward")
    run = run_of(config_of(learning_rate=1e-2, value_learning_rate=1e-2), tmp_path / "run")
    with run.tracker:
        cast = assemble(replace(run, parent=policy), tmp_path / "reward")
    learner: Learner = cast.learner if of == "policy" else cast.critic_learner
    before = weights(learner.module)
    learner.backward(1e-5 * sum(each.sum() for each in learner.module.parameters()))
    learner.step(1.0)
    for name, each in weights(learner.module).items():
        torch.testing.assert_close(before[name] - each, torch.full_like(each, 5e-3), atol=1e-5, rtol=0)


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
            cast = assemble(replace(run, parent=policy), tmp_path / "reward")
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


def test_texts_are_measured_without_held_out_prompts_too(tmp_path: Path) -> None:
    cast, _, _ = cast_of(config_of(), pretraining=TEXTS)
    run = run_of(config_of(), tmp_path)
    with run.tracker:
        alone, both = measure(run, cast, []), measure(run, cast, [(10, 11, 12)])
    assert list(alone) == ["validation/language_loss"]
    assert both["validation/language_loss"] == alone["validation/language_loss"]
    assert "validation/score" in both


@pytest.mark.parametrize("measures", [True, False])
def test_a_reference_is_loaded_at_the_end_where_it_is_asked(tmp_path: Path, *, measures: bool) -> None:
    config = config_of(lora=True)
    cast, _, _ = cast_of(config)
    run = replace(run_of(config, tmp_path / "run"), parent=save_tiny_policy(tmp_path / "parent"))
    with run.tracker:
        found = folded(run, cast, measures=measures)
    assert (found.reference is not None) == measures
    assert not has_adapters(found.policy.model)
