"""Residual dropout: on what the blocks add, nowhere else, and off where it is to be off."""

from __future__ import annotations

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel

from honed.training import dropout
from honed.training.failures import TrainingError

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@torch.no_grad()
def logits(model: PreTrainedModel, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_block_is_hooked_and_off_takes_it_back(architecture: Architecture) -> None:
    model = tiny_model(architecture)
    plain = logits(model)
    hooks = dropout.add(model, 0.2)
    assert len(hooks) == 2 * model.config.num_hidden_layers
    dropped = logits(model)
    assert not torch.allclose(dropped, plain, atol=1e-2)
    assert torch.equal(dropped, logits(model))
    assert not torch.equal(dropped, logits(model, seed=1))
    with dropout.off(hooks):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), dropped)


def test_dropout_is_on_again_after_an_error() -> None:
    hooks = dropout.add(tiny_model(), 0.2)
    with pytest.raises(ZeroDivisionError), dropout.off(hooks):
        _ = 1 / 0
    assert {hook.share for hook in hooks} == {0.2}


@torch.no_grad()
def test_what_is_dropped_is_what_the_blocks_add() -> None:
    """Without all of it, the residual stream is the embeddings."""
    model = tiny_model()
    dropout.add(model, 1.0)
    expected = model.lm_head(model.model.norm(model.model.embed_tokens(IDS)))
    torch.testing.assert_close(logits(model), expected)


def test_what_is_left_is_scaled_up() -> None:
    """A fifth of the numbers is 0, the others are divided by 0.8."""
    model = tiny_model()
    block, seen = model.model.layers[0].mlp, []
    block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    dropout.add(model, 0.2)
    block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    for seed in range(30):
        logits(model, seed)
    before, after = torch.stack(seen[::2]), torch.stack(seen[1::2])
    kept = after != 0
    torch.testing.assert_close(after[kept], (before / 0.8)[kept])
    assert float(kept.float().mean()) == pytest.approx(0.8, abs=0.03)


def test_no_dropout_adds_nothing() -> None:
    model = tiny_model()
    assert dropout.add(model, 0.0) == []
    assert not any(module._forward_hooks for module in model.modules())


def test_unknown_blocks_are_refused() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=268, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(TrainingError, match="--dropout: the blocks of BloomForCausalLM are not known; set it to 0"):
        dropout.add(model, 0.2)
