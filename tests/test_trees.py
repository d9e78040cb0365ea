"""Trees: what is packed gives the numbers that each sequence has alone, and plans share everything out."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, plainly, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from honed.training.attention import ATTENTION
from honed.training.forward import policy_logits
from honed.training.objectives import token_logprobs
from honed.training.trees import Tree, divided, pack, plan

VOCABULARY = 268

tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12).map(tuple)
trees = st.builds(Tree, prompt=tokens, answers=st.lists(tokens, min_size=1, max_size=4).map(tuple))


@cache
def model_of(architecture: Architecture) -> PreTrainedModel:
    model = tiny_model(architecture)
    model.set_attn_implementation(ATTENTION)
    return model


@torch.no_grad()
def alone(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """Log-probabilities of an answer by transformers' own forward pass over one sequence."""
    with plainly(model):
        logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=12, deadline=None)
@given(some=st.lists(trees, min_size=1, max_size=4), repeated=st.booleans())
def test_rule_3_packed_logprobs_equal_those_of_single_sequences(
    architecture: Architecture, some: list[Tree], repeated: bool
) -> None:
    """To 1e-4, with prompts that several answers or several trees share, and sequences longer than Gemma's window."""
    model = model_of(architecture)
    some = some + some[:1] if repeated else some
    packed = pack(some)
    with torch.no_grad():
        together = token_logprobs(policy_logits(model, packed), packed.target_ids)
    apart = torch.cat([alone(model, tree.prompt, answer) for tree in some for answer in tree.answers])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-5)


def test_rule_3_a_tree_by_hand() -> None:
    """A prompt of two with answers of two and one, then a prompt of one with an answer of one."""
    packed = pack([Tree((10, 11), ((12, 13), (14,))), Tree((20,), ((21,),))])
    assert packed.ids.tolist() == [[10, 11, 12, 13, 14, 20, 21]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert packed.targets.tolist() == [2, 3, 4, 6]
    assert packed.predictors.tolist() == [1, 2, 1, 5]
    assert packed.target_ids.tolist() == [12, 13, 14, 21]
    assert packed.ends.tolist() == [3, 4, 6]


@settings(max_examples=30, deadline=None)
@given(st.lists(trees, min_size=1, max_size=5))
def test_rule_2_nothing_is_padded(some: list[Tree]) -> None:
    """A batch has the trees' tokens and no others, so that no token can be taken for padding."""
    packed = pack(some)
    flat = [token for tree in some for branch in (tree.prompt, *tree.answers) for token in branch]
    assert packed.ids.tolist() == [flat]
    assert packed.ids.shape[1] == sum(tree.num_tokens for tree in some)
    assert len(packed.targets) == sum(tree.num_answer_tokens for tree in some)


@settings(max_examples=30, deadline=None)
@given(st.lists(trees, min_size=1, max_size=5))
def test_rule_1_an_answers_end_is_its_own_last_token(some: list[Tree]) -> None:
    packed = pack(some)
    answers = [answer for tree in some for answer in tree.answers]
    assert packed.ids[0, packed.ends].tolist() == [answer[-1] for answer in answers]
    assert packed.target_ids.tolist() == [token for answer in answers for token in answer]
    lasts = [part[-1] for part in packed.targets.split([len(answer) for answer in answers])]
    assert packed.ends.tolist() == [int(last) for last in lasts]


sizes_of = st.lists(st.integers(1, 40), max_size=25)


@settings(max_examples=150, deadline=None)
@given(sizes_of, st.integers(1, 60), st.integers(1, 5))
def test_a_plan_loses_nothing_and_keeps_to_the_budget(sizes: list[int], budget: int, ranks: int) -> None:
    """Also where there are fewer items than ranks."""
    passes = plan(sizes, budget, ranks)
    assert sorted(index for each in passes for index in each) == list(range(len(sizes)))
    assert all(each == sorted(each) for each in passes)
    assert len(passes) % ranks == 0
    for each in passes:
        assert len(each) <= 1 or sum(sizes[index] for index in each) <= budget
    assert passes == plan(list(sizes), budget, ranks)


def test_a_plan_fills_passes() -> None:
    """First fit, the largest first."""
    assert plan([5, 1, 4, 2, 3], 6) == [[0, 1], [2, 3], [4]]
    assert plan([9, 1, 1], 6) == [[0], [1, 2]]


def test_fewer_items_than_ranks_leave_passes_empty() -> None:
    assert plan([3], 10, 3) == [[0], [], []]
    assert plan([1, 1, 1, 1], 10, 2) == [[0, 2], [1, 3]]
    assert plan([], 10, 2) == []


@given(tree=trees, budget=st.integers(1, 40))
def test_a_tree_is_divided_by_its_answers(tree: Tree, budget: int) -> None:
    parts = divided(tree, budget)
    assert [answer for part in parts for answer in part.answers] == list(tree.answers)
    assert all(part.prompt == tree.prompt and part.answers for part in parts)
    assert all(part.num_tokens <= budget or len(part.answers) == 1 for part in parts)
    assert len(parts) == 1 or tree.num_tokens > budget
