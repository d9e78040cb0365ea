"""Learners: one buffer and one step, masters that lose nothing to rounding, averages, best weights, the schedule."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import torch
from fakes import tiny_model
from torch import Tensor, nn

from honed.models.scalar_head import ScalarModel
from honed.training.distributed import Ranks
from honed.training.learner import Average, Best, DivergedError, Learner, OptimizerConfig, learning_rate_factor

RANKS = Ranks(torch.device("cpu"))


class Numbers(nn.Module):
    """A matrix and a bias, all ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.bias = nn.Parameter(torch.ones(3))


def learner_of(module: nn.Module, dtype: torch.dtype = torch.float32, **settings: Any) -> Learner:
    return Learner(module, RANKS, OptimizerConfig(**({"learning_rate": 0.1, "max_grad_norm": 1e9} | settings)), dtype)


def pull(learner: Learner, scale: float = 1.0) -> None:
    """A gradient of `scale` everywhere."""
    learner.backward(scale * sum(each.float().sum() for each in learner.module.parameters()))


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in learner.module.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rule_10_losses_add_up_in_one_buffer_until_the_one_step(dtype: torch.dtype) -> None:
    learner = learner_of(Numbers(), dtype)
    before = weights(learner)
    pull(learner, 1.0)
    pull(learner, 0.5)
    for name, parameter in learner.module.named_parameters():
        assert torch.equal(parameter, before[name])
    for master in learner.masters.values():
        assert master.dtype == torch.float32
        torch.testing.assert_close(master.grad, torch.full_like(master, 1.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_gone_after_a_step(dtype: torch.dtype) -> None:
    learner = learner_of(Numbers(), dtype)
    pull(learner)
    learner.step(1.0)
    for each in (*learner.masters.values(), *learner.module.parameters()):
        assert each.grad is None or not each.grad.any()


def test_the_first_step_of_adam_by_hand() -> None:
    """Its moments are g and g squared once their bias is taken away: lr * factor * g / (|g| + eps)."""
    learner = learner_of(Numbers(), eps=0.5)
    pull(learner, 1.5)
    learner.step(0.5)
    torch.testing.assert_close(learner.module.bias, torch.full((3,), 1 - 0.1 * 0.5 * 1.5 / 2.0))


def test_only_matrices_decay() -> None:
    """AdamW's decay is beside the gradient: 1 - lr * decay. Without a gradient nothing else happens."""
    learner = learner_of(Numbers(), weight_decay=0.2)
    learner.step(1.0)
    torch.testing.assert_close(learner.module.weight, torch.full((2, 3), 0.98))
    assert torch.equal(learner.module.bias, torch.ones(3))


def test_a_step_gives_the_norm_before_clipping_and_takes_the_clipped() -> None:
    """Nine gradients of 2 are of norm 6. An eps far above them makes Adam's step their multiple."""
    long, short = (learner_of(Numbers(), eps=1e3, max_grad_norm=norm, learning_rate=1e3) for norm in (1e9, 1.5))
    for each in (long, short):
        pull(each, 2.0)
        assert each.step(1.0) == pytest.approx(6.0)
    moved = [float((1 - each.module.bias).detach().mean()) for each in (long, short)]
    assert moved[0] / moved[1] == pytest.approx(4.0, rel=1e-2)


def test_updates_too_small_for_bfloat16_are_not_lost() -> None:
    """A step of 1e-4 at 1, where bfloat16 has nothing between 1 and 0.996: the masters move, and in time the model."""
    learner = learner_of(Numbers(), torch.bfloat16, learning_rate=1e-4)
    for _ in range(100):
        pull(learner)
        learner.step(1.0)
        for name, parameter in learner.module.named_parameters():
            assert parameter.dtype == torch.bfloat16
            assert torch.equal(parameter, learner.masters[name].bfloat16())
    torch.testing.assert_close(learner.masters["weight"], torch.full((2, 3), 0.99), atol=1e-4, rtol=0)
    bias = float(learner.module.bias.detach()[0])
    assert bias == pytest.approx(0.99, abs=4e-3)
    assert bias < 1.0


def test_masters_start_from_the_weights_before_they_were_rounded() -> None:
    module = Numbers()
    with torch.no_grad():
        module.bias.fill_(0.3)
    learner = learner_of(module, torch.bfloat16)
    assert torch.equal(learner.masters["bias"], torch.full((3,), 0.3))
    assert torch.equal(module.bias, torch.full((3,), 0.3).bfloat16())


def test_in_float32_the_parameters_are_the_masters() -> None:
    learner = learner_of(Numbers())
    assert all(learner.masters[name] is each for name, each in learner.module.named_parameters())


def test_a_scalar_head_and_buffers_stay_precise() -> None:
    model = ScalarModel(tiny_model().base_model)
    angles = model.backbone.rotary_emb.inv_freq.clone()
    learner = learner_of(model, torch.bfloat16)
    assert model.head.weight.dtype == model.mean.dtype == torch.float32
    assert learner.masters["head.weight"] is model.head.weight
    assert model.backbone.embed_tokens.weight.dtype == torch.bfloat16
    assert torch.equal(model.backbone.rotary_emb.inv_freq, angles)


def test_what_needs_no_gradient_is_not_trained() -> None:
    module = Numbers()
    module.bias.requires_grad_(False)
    learner = learner_of(module, weight_decay=0.5)
    learner.backward(module.weight.sum())
    learner.step(1.0)
    assert learner.masters.keys() == {"weight"}
    assert torch.equal(module.bias, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_learner_goes_on_from_a_state_as_if_nothing_had_been(dtype: torch.dtype) -> None:
    """Read into the tensors of another one, moments and steps included."""
    first, second = learner_of(Numbers(), dtype), learner_of(Numbers(), dtype)
    for scale in (1.0, -3.0, 0.3):
        pull(first, scale)
        first.step(1.0)
    _read_into(second.state(), copy.deepcopy(first.state()))
    second.publish(second.masters)
    for learner in (first, second):
        pull(learner, 0.7)
        learner.step(0.5)
    for name, each in weights(first).items():
        assert torch.equal(each, weights(second)[name])
        assert torch.equal(first.masters[name], second.masters[name])


@torch.no_grad()
def _read_into(state: Any, saved: Any) -> None:
    for name, each in state.items():
        if isinstance(each, Tensor):
            each.copy_(saved[name])
        else:
            _read_into(each, saved[name])


def test_published_weights_are_what_the_model_computes_with() -> None:
    learner = learner_of(Numbers(), torch.bfloat16)
    learner.publish({name: torch.full_like(each, 0.3) for name, each in learner.masters.items()})
    assert torch.equal(learner.module.bias, torch.full((3,), 0.3).bfloat16())
    assert torch.equal(learner.masters["bias"], torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_shown_are_gone_afterwards(dtype: torch.dtype) -> None:
    """Whether the masters are the parameters themselves, as in float32, or others; after an error too."""
    learner = learner_of(Numbers(), dtype)
    pull(learner)
    learner.step(0.7)
    before = weights(learner)
    masters = {name: each.detach().clone() for name, each in learner.masters.items()}
    others = {name: torch.full_like(each, 0.3) for name, each in masters.items()}
    with suppress(KeyError), learner.showing(others):
        assert torch.equal(learner.module.bias, torch.full((3,), 0.3).to(dtype))
        raise KeyError
    for name, each in weights(learner).items():
        assert torch.equal(each, before[name])
        assert torch.equal(learner.masters[name], masters[name])
        assert torch.equal(others[name], torch.full_like(others[name], 0.3))


def test_an_average_by_hand() -> None:
    """From 0 to 11: the decay is 2/11 at the first update, 3/12 at the second; then that which was asked for, 0.3."""
    master = {"a": torch.zeros(2)}
    average = Average(master, 0.3)
    master["a"].fill_(11.0)
    expected = 0.0
    for decay in (2 / 11, 3 / 12, 0.3, 0.3):
        average.update(master)
        expected = decay * expected + (1 - decay) * 11.0
        torch.testing.assert_close(average.weights["a"], torch.full((2,), expected))
    assert int(average.updates) == 4


def test_an_average_without_decay_is_the_last() -> None:
    master = {"a": torch.zeros(2)}
    average = Average(master, 0.0)
    for value in (3.0, 5.0):
        master["a"].fill_(value)
        average.update(master)
        assert torch.equal(average.weights["a"], master["a"])


def test_an_average_goes_on_from_its_state() -> None:
    master = {"a": torch.zeros(1)}
    first, second = Average(master, 0.9), Average(master, 0.9)
    master["a"].fill_(1.0)
    for _ in range(3):
        first.update(master)
    _read_into(second.state(), copy.deepcopy(first.state()))
    for each in (first, second):
        each.update(master)
    assert torch.equal(first.weights["a"], second.weights["a"])


def test_the_best_weights_are_kept() -> None:
    """Of equals the later ones; a copy, which does not move on with the masters."""
    masters = {"a": torch.zeros(1)}
    best = Best(masters)
    for weight, value in ((1.0, -0.7), (2.0, -0.5), (3.0, -0.6), (4.0, -0.5), (5.0, -9.0)):
        masters["a"].fill_(weight)
        best.offer(masters, value)
    assert float(best.weights["a"]) == 4.0
    assert float(best.value) == -0.5


def test_the_best_is_known_from_its_state() -> None:
    masters = {"a": torch.ones(1)}
    first, second = Best(masters), Best(masters)
    first.offer(masters, 3.0)
    _read_into(second.state(), copy.deepcopy(first.state()))
    masters["a"].fill_(7.0)
    second.offer(masters, 2.0)
    assert float(second.weights["a"]) == 1.0


def test_the_learning_rate_rises_and_then_falls_as_a_cosine() -> None:
    """Ten steps of a hundred are warm-up; from the tenth on half a cosine to a tenth, half-way down at its middle."""
    factors = [learning_rate_factor(step, 100, warmup=0.1, final=0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.55)
    assert factors[25] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 6)) / 2)
    assert factors[99] == pytest.approx(0.1, abs=1e-3)
    assert all(0 < later <= earlier for earlier, later in pairwise(factors[10:]))
    assert learning_rate_factor(100, 100, warmup=0.1, final=0.1) == pytest.approx(0.1)


def test_a_constant_learning_rate_and_runs_of_one_step() -> None:
    assert [learning_rate_factor(step, 3, warmup=0, final=1.0) for step in range(3)] == [1.0] * 3
    assert learning_rate_factor(0, 1, warmup=0.0, final=0.0) == 1.0
    assert learning_rate_factor(0, 1, warmup=0.5, final=0.0) == pytest.approx(1 / 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(dtype: torch.dtype, wrong: float) -> None:
    learner = learner_of(Numbers(), dtype)
    before = {name: each.detach().clone() for name, each in learner.masters.items()}
    pull(learner, wrong)
    with pytest.raises(DivergedError, match="Lower --learning-rate"):
        learner.step(1.0)
    assert all(torch.equal(learner.masters[name], each) for name, each in before.items())
    pull(learner)
    assert math.isfinite(learner.step(1.0))  # nothing of it is left in the buffer


def test_the_best_refuses_what_is_not_finite() -> None:
    learner = learner_of(Numbers())
    best = Best(learner.masters)
    with pytest.raises(DivergedError, match="not finite"):
        best.offer(learner.masters, math.nan)
