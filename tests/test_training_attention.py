"""Attention of packed trees: who sees whom, gradients, padding, capped scores."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import Gemma2Config, Gemma2ForCausalLM

from honed.training.attention import ALIGNMENT, ATTENTION, LONG, Layout, lay_out, tree_attention
from honed.training.failures import TrainingError
from honed.training.forward import check_packing

HEADS, KV_HEADS, SIZE = 4, 2, 8
TREES = [(2, 2, 1), (1, 1), (9, 20, 2), (3, 5), (40, 30)]  # prompts and answers

lengths = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4), min_size=1, max_size=6)


def visible(trees: list[tuple[int, ...]], window: int | None = None) -> Tensor:
    """(T, T), token by token, as `trees.py` says it."""
    known = []
    for tree, (prompt, *answers) in enumerate(trees):
        known += [(tree, 0, place) for place in range(prompt)]
        known += [(tree, branch, prompt + i) for branch, count in enumerate(answers, 1) for i in range(count)]
    return torch.tensor(
        [
            [
                one[0] == other[0]
                and other[1] in (0, one[1])
                and other[2] <= one[2]
                and (window is None or one[2] - other[2] < window)
                for other in known
            ]
            for one in known
        ]
    )


def tensors(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, count, SIZE, dtype=torch.float64, generator=generator).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def expected(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, softcap: float | None = None) -> Tensor:
    k, v = (each.repeat_interleave(HEADS // KV_HEADS, dim=1) for each in (k, v))
    scores = q @ k.transpose(2, 3) * SIZE**-0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, **named: Any) -> Tensor:
    return tree_attention(nn.Identity(), q, k, v, None, layout=layout, **named)[0]


@settings(max_examples=40, deadline=None)
@given(trees=lengths, window=st.sampled_from([None, 1, 5]))
def test_every_token_attends_to_its_prompt_and_its_own_answer(trees: list[list[int]], window: int | None) -> None:
    q, k, v = tensors(sum(map(sum, trees)))
    found = attend(q, k, v, lay_out(trees, "cpu"), sliding_window=window)
    torch.testing.assert_close(found, expected(q, k, v, visible([tuple(tree) for tree in trees], window)))


def test_without_a_layout_a_row_is_one_text() -> None:
    q, k, v = tensors(30)
    found = tree_attention(nn.Identity(), q, k, v, None)[0]
    torch.testing.assert_close(found, expected(q, k, v, visible([(30,)])))
    for query in (q.expand(2, -1, -1, -1), q[:, :, :1]):  # several texts; one that goes on
        with pytest.raises(TrainingError, match="is for packed texts"):
            tree_attention(nn.Identity(), query, k, v, None)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("trees", [TREES, [*TREES, (LONG // 2, 3, LONG // 2)]])
def test_gradients_are_those_of_the_whole_mask(trees: list[tuple[int, ...]], window: int | None) -> None:
    """Those of padding would show: every stack here has some. A long tree has a kernel of its own."""
    ours, theirs = tensors(sum(map(sum, trees))), tensors(sum(map(sum, trees)))
    weights = torch.randn_like(ours[0].transpose(1, 2))
    (attend(*ours, lay_out(trees, "cpu"), sliding_window=window) * weights).sum().backward()
    (expected(*theirs, visible(trees, window)) * weights).sum().backward()
    torch.testing.assert_close([each.grad for each in ours], [each.grad for each in theirs])


def test_the_fused_kernel_loses_no_more_than_rounding_to_bfloat16_does() -> None:
    """About 0.5 % of the gradients' norm, where rounding the numbers alone loses 0.4."""
    trees = [(LONG, LONG, LONG)]
    exact = tensors(3 * LONG)
    rounded = [each.detach().bfloat16().requires_grad_() for each in exact]
    weights = torch.randn_like(exact[0].transpose(1, 2))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        (attend(*rounded, lay_out(trees, "cpu")) * weights.bfloat16()).sum().backward()
    assert any("flash" in each.key for each in seen.key_averages())
    (expected(*exact, visible(trees)) * weights).sum().backward()
    for one, other in zip(rounded, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad.double() - other.grad).norm() / other.grad.norm()) < 0.01


@pytest.mark.parametrize(("length", "is_fused"), [(LONG - ALIGNMENT, False), (LONG, True)])
def test_a_long_tree_is_attended_by_the_fused_kernel_with_a_gradient_and_without(length: int, is_fused: bool) -> None:
    """And a short one never: a policy's first ratio would not be 1 if the two passes had different kernels."""
    q, k, v = tensors(length)
    layout = lay_out([(length - 2, 2)], "cpu")
    found = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), profile(activities=[ProfilerActivity.CPU]) as seen:
            found.append(attend(q, k, v, layout).detach())
        assert any("flash" in each.key for each in seen.key_averages()) is is_fused
    assert torch.equal(*found)


def test_trees_of_about_one_length_share_a_stack_and_are_padded_little() -> None:
    layout = lay_out(TREES, "cpu")
    assert [tuple(stack.branches.shape) for stack in layout.stacks] == [(1, 8), (2, 8), (1, 32), (1, 72)]
    assert all(stack.branches.shape[1] % ALIGNMENT == 0 for stack in layout.stacks)
    starts = accumulate((stack.branches.numel() for stack in layout.stacks), initial=0)
    assert [stack.first for stack in layout.stacks] == list(starts)[:-1]
    tokens = torch.arange(sum(map(sum, TREES)))
    assert torch.equal(layout.places[layout.slots], tokens)
    assert int(layout.is_padding.sum()) == len(layout.places) - len(tokens)


def test_capped_scores_are_capped() -> None:
    q, k, v = tensors(sum(map(sum, TREES)))
    capped = attend(q, k, v, lay_out(TREES, "cpu"), softcap=0.5).float()
    by_hand = expected(q, k, v, visible(TREES), softcap=0.5).float()
    torch.testing.assert_close(capped, by_hand, atol=1e-5, rtol=1e-4)


def test_sinks_take_probability_away() -> None:
    """As one more key that each head has a score for, and no value."""
    q, k, v = (each.float() for each in tensors(sum(map(sum, TREES))))
    found = attend(q, k, v, lay_out(TREES, "cpu"), s_aux=torch.tensor([0.0, 1.0, -torch.inf, 9.0]))
    plain = expected(q, k, v, visible(TREES))
    torch.testing.assert_close(found[:, :, 2], plain[:, :, 2])
    scores = (q[0, 1] @ k[0, 0].T * SIZE**-0.5).masked_fill(~visible(TREES), -torch.inf)
    with_sink = torch.cat([scores, torch.ones(len(scores), 1)], dim=1).softmax(dim=1)[:, :-1]
    torch.testing.assert_close(found[0, :, 1], with_sink @ v[0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_architecture_with_capped_scores_can_be_trained(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma2Config(
        vocab_size=268, num_hidden_layers=2, head_dim=8, attn_logit_softcapping=0.5, initializer_range=0.5, **sizes
    )
    model = Gemma2ForCausalLM(config).to(dtype).eval()
    model.set_attn_implementation(ATTENTION)
    check_packing(model)
