"""Scalar models: the head, its scale, and both in a folder."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, save_tiny_policy, tiny_model, tiny_tokenizer
from torch import Tensor

from honed.models.policy import PolicyError, load_policy
from honed.models.scalar_head import ScalarModel, is_scalar_model, load_scalar_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8, 9]])
KEEP = torch.tensor([4, 1])


def made(architecture: Architecture = "llama") -> ScalarModel:
    model = ScalarModel(tiny_model(architecture).base_model)
    model.draw_head(1)
    return model.eval()


@torch.no_grad()
def numbers(model: ScalarModel) -> Tensor:
    return model(KEEP, input_ids=IDS)


def loaded(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> ScalarModel:
    return load_scalar_model(folder, dtype=dtype, device=CPU, seed=seed)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rule_8_mean_and_deviation_are_saved_with_the_model_and_loaded(
    architecture: Architecture, tmp_path: Path
) -> None:
    model = made(architecture)
    model.set_scale(1.5, 0.25)
    with torch.no_grad():
        model.head.bias.fill_(0.125)
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert (float(again.mean), float(again.std)) == (1.5, 0.25)
    torch.testing.assert_close(numbers(again), numbers(model), atol=1e-6, rtol=0)
    torch.testing.assert_close(again.normalised(numbers(again)), (numbers(model) - 1.5) / 0.25, atol=1e-5, rtol=0)


def test_rule_8_forward_gives_raw_numbers() -> None:
    model = made()
    before = numbers(model)
    model.set_scale(3.0, 2.0)
    assert torch.equal(numbers(model), before)
    assert torch.equal(model.normalised(torch.tensor([3.0, 5.0, 0.0])), torch.tensor([0.0, 1.0, -1.5]))


def test_weights_that_are_not_the_modules_own_can_be_saved(tmp_path: Path) -> None:
    model, other = made(), made()
    other.draw_head(2)
    other.set_scale(-1.0, 4.0)
    with torch.no_grad():
        other.backbone.norm.weight.fill_(0.5)
    model.save_pretrained(tmp_path, state_dict=other.state_dict())
    again = loaded(tmp_path)
    assert float(again.std) == 4.0
    assert torch.equal(numbers(again), numbers(other))


def test_a_policys_folder_gives_its_backbone_and_a_new_head(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "policy")
    model = loaded(folder, seed=5)
    assert not is_scalar_model(folder)
    assert torch.equal(model.backbone.embed_tokens.weight, tiny_model().model.embed_tokens.weight)
    assert (float(model.mean), float(model.std)) == (0.0, 1.0)
    assert torch.equal(model.head.weight, loaded(folder, seed=5).head.weight)
    assert not torch.equal(model.head.weight, loaded(folder, seed=6).head.weight)


def test_a_drawn_head_has_the_variance_of_the_n_plus_paper() -> None:
    """1 / (width + 1), and a bias of 0."""
    model = ScalarModel(tiny_model(hidden_size=1024, num_hidden_layers=1).base_model)
    model.draw_head(0)
    weight = model.head.weight.detach()
    assert float(weight.std()) == pytest.approx(1 / math.sqrt(1025), rel=0.1)
    assert float(weight.mean()) == pytest.approx(0.0, abs=4e-3)
    assert not model.head.bias.any()


def test_in_bfloat16_the_head_and_the_scale_stay_in_float32(tmp_path: Path) -> None:
    model = made()
    model.set_scale(1 / 3, 2 / 3)
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path, torch.bfloat16)
    assert again.backbone.embed_tokens.weight.dtype == torch.bfloat16
    assert again.head.weight.dtype == again.mean.dtype == torch.float32
    assert torch.equal(again.head.weight, model.head.weight)
    assert torch.equal(again.mean, model.mean)


def test_a_loaded_model_is_not_in_training(tmp_path: Path) -> None:
    """Rule 4: GPT-2 would drop a tenth of everything."""
    made("gpt2").save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert not any(module.training for module in again.modules())
    assert torch.equal(numbers(again), numbers(again))


def test_a_reward_model_is_no_policy(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PolicyError):
        load_policy(tmp_path)
