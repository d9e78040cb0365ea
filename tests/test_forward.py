"""Packed trees through models: the numbers of single sequences, windows included, and models that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, plainly, tiny_model
from torch import Tensor
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from honed.models.scalar_head import ScalarModel
from honed.training.attention import ATTENTION
from honed.training.failures import TrainingError
from honed.training.forward import check_packing, policy_logits, scalar_numbers
from honed.training.trees import Tree, pack

# Longer than Gemma's window of 8, alone and together.
TREES = [
    Tree(tuple(range(10, 22)), (tuple(range(30, 41)), (50, 2), tuple(range(60, 75)))),
    Tree((100,), ((101, 102, 103),)),
    Tree(tuple(range(110, 119)), ((120,), (121, 122))),
]
SEQUENCES = [(tree.prompt, answer) for tree in TREES for answer in tree.answers]


def ready(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation(ATTENTION)
    return model


def scalar_model(architecture: Architecture) -> ScalarModel:
    model = ScalarModel(ready(tiny_model(architecture)).base_model)
    model.draw_head(3)
    return model


@torch.no_grad()
def plain_logits(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    with plainly(model):
        return model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def tiny_mistral(window: int | None) -> PreTrainedModel:
    """All layers slide, and the config names no kinds of layers."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=268,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.5,
    )
    return ready(MistralForCausalLM(config).eval())


@torch.no_grad()
@pytest.mark.parametrize("make", [*ARCHITECTURES, 5, None])
def test_logits_are_those_of_single_sequences(make: Any) -> None:
    """Numbers and None: Mistral with that window."""
    model = ready(tiny_model(make)) if make in ARCHITECTURES else tiny_mistral(make)
    apart = torch.cat([plain_logits(model, *each) for each in SEQUENCES])
    torch.testing.assert_close(policy_logits(model, pack(TREES)), apart, atol=1e-4, rtol=1e-4)


def test_a_window_shows() -> None:
    """Or the test above would prove nothing."""
    model, wide = tiny_mistral(5), tiny_mistral(None)
    assert not torch.allclose(plain_logits(model, *SEQUENCES[0]), plain_logits(wide, *SEQUENCES[0]), atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rule_1_a_reward_is_read_at_an_answers_last_token_and_a_value_before_each(architecture: Architecture) -> None:
    model = scalar_model(architecture)
    packed = pack(TREES)
    rewards, values = (scalar_numbers(model, packed, keep) for keep in (packed.ends, packed.predictors))
    expected_rewards, expected_values = [], []
    for prompt, answer in SEQUENCES:
        with plainly(model.backbone):
            hidden = model.backbone(input_ids=torch.tensor([prompt + answer]), use_cache=False).last_hidden_state[0]
        numbers = model.head(hidden)[:, 0]
        expected_rewards.append(numbers[-1])
        expected_values.append(numbers[len(prompt) - 1 : -1])
    torch.testing.assert_close(rewards, torch.stack(expected_rewards), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(values, torch.cat(expected_values), atol=1e-4, rtol=1e-4)


def test_logits_are_in_the_models_number_format_and_scalars_in_float32() -> None:
    model = ready(tiny_model().bfloat16())
    assert policy_logits(model, pack(TREES)).dtype == torch.bfloat16
    scalar = ScalarModel(model.base_model)
    assert scalar_numbers(scalar, pack(TREES), pack(TREES).ends).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_architectures_pass_the_check(architecture: Architecture, dtype: torch.dtype) -> None:
    check_packing(ready(tiny_model(architecture)).to(dtype))


class Deaf(LlamaForCausalLM):
    """Does not listen to one of its inputs, as models do whose code knows no such thing."""

    ignored: str

    def forward(self, **inputs: Any) -> Any:
        inputs.pop(self.ignored, None)
        return super().forward(**inputs)


@pytest.mark.parametrize("ignored", ["position_ids", "layout"])
def test_a_model_that_does_not_do_as_packing_wants_is_refused(ignored: str) -> None:
    model = Deaf(tiny_model().config)
    model.load_state_dict(tiny_model().state_dict())
    model.ignored = ignored
    with pytest.raises(TrainingError, match=r"Deaf gives packed sequences other numbers .* take a decoder"):
        check_packing(ready(model.eval()))


def test_a_model_whose_layers_keep_their_window_to_themselves_is_refused() -> None:
    """Short texts would not show it: transformers has such models, whose window is in the mask alone."""
    model = tiny_mistral(4096)
    check_packing(model)
    for layer in model.model.layers:
        layer.self_attn.config = tiny_mistral(None).config
        layer.self_attn.config._attn_implementation = ATTENTION
    with pytest.raises(TrainingError, match="MistralForCausalLM keeps its sliding window from its attention"):
        check_packing(model)


def test_a_model_whose_attention_is_its_own_is_refused() -> None:
    """Its layers look at the whole row, whatever the others do."""
    model = ready(tiny_model())
    layer = model.model.layers[1].self_attn
    layer.forward = lambda hidden_states, **_: (hidden_states.cumsum(dim=1), None)
    with pytest.raises(TrainingError, match="LlamaForCausalLM gives packed sequences other numbers"):
        check_packing(model)


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = ready(tiny_model())
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(TrainingError):
        check_packing(model)


def test_a_backbone_that_looks_across_answers_is_refused_below_a_scalar_head_too() -> None:
    """It adds to each token the mean of all before it, whatever the mask says."""
    model = scalar_model("llama")
    check_packing(model)

    def leak(_module: object, _inputs: object, output: Tensor) -> Tensor:
        return output + output.cumsum(dim=1) / torch.arange(1, output.shape[1] + 1)[None, :, None]

    model.backbone.norm.register_forward_hook(leak)
    with pytest.raises(TrainingError, match="cannot be trained here"):
        check_packing(model)
