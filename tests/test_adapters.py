"""Low-rank adapters: nothing at first, nothing when they are off, and gone from what is saved."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from honed.models.checkpoint import Lineage, new_checkpoint_id, save_checkpoint
from honed.models.policy import load_policy
from honed.models.scalar_head import ScalarModel, load_scalar_model
from honed.training.adapters import add_adapters, fold_adapters, folded_state, has_adapters, without_adapters
from honed.training.distributed import Ranks
from honed.training.forward import scalar_numbers
from honed.training.learner import Learner, OptimizerConfig
from honed.training.trees import Tree, pack
from honed.training.weights import whole_state

IDS = torch.tensor([[5, 6, 7, 8, 9]])
CPU = torch.device("cpu")


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def with_adapters(module: nn.Module) -> nn.Module:
    add_adapters(module, rank=4, alpha=8, seed=0)
    return module


def train(module: nn.Module, dtype: torch.dtype = torch.float32) -> Learner:
    """A few large steps."""
    learner = Learner(module, Ranks(CPU), OptimizerConfig(learning_rate=0.05), dtype)
    for _ in range(3):
        out = module(input_ids=IDS, use_cache=False).logits
        learner.backward(-out.float().log_softmax(dim=-1)[0, :, 3].sum())
        learner.step(1.0)
    return learner


def tied(architecture: Architecture) -> PreTrainedModel:
    return tiny_model(architecture, tie_word_embeddings=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fresh_adapters_change_nothing_and_trained_ones_can_be_switched_off(architecture: Architecture) -> None:
    """With them off, the model is the one that it was, to the bit: the reference of PPO."""
    model = tiny_model(architecture)
    start = logits(model)
    with_adapters(model)
    assert has_adapters(model)
    assert torch.equal(logits(model), start)
    train(model)
    trained = logits(model)
    assert not torch.allclose(trained, start, atol=0.1)
    with without_adapters(model):
        assert torch.equal(logits(model), start)
    assert torch.equal(logits(model), trained)


def test_only_adapters_are_trained_and_still_are_after_they_were_off() -> None:
    model = with_adapters(tiny_model())
    wanted = {name for name, each in model.named_parameters() if each.requires_grad}
    assert wanted == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert not any("lm_head" in name for name in wanted)
    with without_adapters(model):
        pass
    assert {name for name, each in model.named_parameters() if each.requires_grad} == wanted


def test_adapters_are_on_again_after_an_error() -> None:
    model = with_adapters(tiny_model())
    train(model)
    trained = logits(model)
    with pytest.raises(ZeroDivisionError), without_adapters(model):
        _ = 1 / 0
    assert torch.equal(logits(model), trained)


def test_adapters_are_drawn_by_the_seed() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        model = tiny_model()
        add_adapters(model, rank=4, alpha=8, seed=seed)
        return {name: each for name, each in model.named_parameters() if ".lora_A" in name}

    first, same, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(each, same[name]) for name, each in first.items())
    assert not any(torch.equal(each, other[name]) for name, each in first.items())


@pytest.mark.parametrize("make", [tiny_model, tied])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folded_weights_do_in_a_plain_model_what_the_adapters_did(
    architecture: Architecture, make: Callable[..., PreTrainedModel]
) -> None:
    model = with_adapters(make(architecture))
    train(model)
    plain = make(architecture)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    plain.load_state_dict(folded_state(model))
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-4)
    assert not has_adapters(plain)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_in_bfloat16_adapters_stay_precise_and_are_folded_in_float32() -> None:
    """The model's own weights are rounded once, with what was learned in them."""
    model = with_adapters(tiny_model())
    learner = train(model, torch.bfloat16)
    assert {each.dtype for each in learner.masters.values()} == {torch.float32}
    assert all(learner.masters[name] is model.get_parameter(name) for name in learner.masters)
    layer = model.model.layers[0].mlp.up_proj
    assert layer.base_layer.weight.dtype == torch.bfloat16
    change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (8 / 4)
    expected = (layer.base_layer.weight.float() + change).bfloat16()
    assert torch.equal(folded_state(model)["model.layers.0.mlp.up_proj.weight"], expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_saved_policy_is_a_whole_model(architecture: Architecture, tmp_path: Path) -> None:
    model = with_adapters(tied(architecture))
    train(model)
    lineage = Lineage(id=new_checkpoint_id(), name="new", stage="ppo", source="here", created=datetime.now(UTC))
    save_checkpoint(tmp_path / "new", model, tiny_tokenizer(), lineage, state_dict=whole_state(model))
    loaded = load_policy(tmp_path / "new", dtype="float32", device="cpu")
    assert not has_adapters(loaded.model)
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-4, rtol=1e-4)


def test_a_scalar_model_trains_its_head_beside_the_adapters_and_is_saved_whole(tmp_path: Path) -> None:
    model = ScalarModel(tiny_model().base_model)
    model.draw_head(0)
    model.set_scale(0.5, 2.0)
    with_adapters(model)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {"head.weight", "head.bias"} == {name for name in trained if ".lora_" not in name}
    packed = pack([Tree((5, 6, 7), ((8, 9), (10,)))])
    learner = Learner(model, Ranks(CPU), OptimizerConfig(learning_rate=0.05), torch.float32)
    for _ in range(3):
        learner.backward(scalar_numbers(model, packed, packed.ends).square().sum())
        learner.step(1.0)
    model.save_pretrained(tmp_path, state_dict=whole_state(model))
    loaded = load_scalar_model(tmp_path, dtype=torch.float32, device=CPU)
    assert not has_adapters(loaded)
    assert float(loaded.std) == 2.0
    with torch.no_grad():
        expected = scalar_numbers(model, packed, packed.ends)
        torch.testing.assert_close(scalar_numbers(loaded, packed, packed.ends), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_are_folded_in_for_good(architecture: Architecture) -> None:
    model = with_adapters(tiny_model(architecture))
    train(model)
    expected = logits(model)
    assert fold_adapters(model) == pytest.approx(1.0, abs=1e-3)
    assert not has_adapters(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


def test_what_rounding_takes_away_is_told() -> None:
    """In bfloat16 a change of far less than 1 / 256 of a weight is lost."""
    model = with_adapters(tiny_model())
    train(model, torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.mul_(1e-3)
    assert fold_adapters(model) < 0.5
