"""Experience: rounds cut into minibatches and passes, and what their tokens are pushed by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from honed.training.experience import Advantage, Judgement, Pass, Round, advantages, minibatches
from honed.training.objectives import gae, whiten
from honed.training.trees import Tree

BETA = 0.1
SETTINGS: dict[str, Any] = {
    "beta": BETA,
    "gamma": 0.9,
    "lam": 0.8,
    "missing_eos_penalty": 0.0,
    "whiten_rewards": False,
}


fresh = count()


def judgement(lengths: list[int], seed: int) -> Judgement:
    """A judgement of answers of these lengths, drawn."""
    g = torch.Generator().manual_seed(seed)
    size = sum(lengths)
    logprobs, reference, entropy, values = (torch.randn(size, generator=g) for _ in range(4))
    return Judgement(torch.randn(len(lengths), generator=g), logprobs, reference, entropy.abs(), values)


def pass_of(lengths: list[int], ended: bool = True, prompts: Iterator[int] | None = None) -> Pass:
    """Trees of one answer each, to prompts that differ; or to `prompts`."""
    prompts = fresh if prompts is None else prompts
    return Pass(tuple(Tree((next(prompts),), ((7,) * length,)) for length in lengths), (ended,) * len(lengths))


def simple(**changes: Any) -> tuple[Round, list[Advantage]]:
    """Two passes: answers of 3 tokens and 1, and one of 2. All log-probabilities are 0.5 over the reference's."""
    passes = [pass_of([3, 1]), pass_of([2], ended=False)]
    judged = [
        Judgement(tensor([1.0, 2.0]), torch.full((4,), -1.0), torch.full((4,), -1.5), torch.ones(4), torch.zeros(4)),
        Judgement(tensor([3.0]), torch.full((2,), -1.0), torch.full((2,), -1.5), torch.ones(2), torch.zeros(2)),
    ]
    return advantages(passes, judged, **(SETTINGS | changes))


def test_rule_1_a_score_is_added_at_the_last_token_of_its_own_answer() -> None:
    """Each token costs 0.1 * 0.5; the scores 1, 2 and 3 stand on tokens 3, 1 and 2."""
    round_, _ = simple()
    expected = [[-0.05, -0.05, 0.95], [1.95, 0.0, 0.0], [-0.05, 2.95, 0.0]]
    torch.testing.assert_close(round_.rewards, tensor(expected))
    assert round_.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert round_.lengths.tolist() == [3, 1, 2]


def test_rule_2_an_answer_without_an_end_is_penalised() -> None:
    """In its reward; the score that is logged is the reward model's own."""
    round_, _ = simple(missing_eos_penalty=4.0)
    torch.testing.assert_close(round_.rewards[:, :2], tensor([[-0.05, -0.05], [1.95, 0.0], [-0.05, -1.05]]))
    assert round_.scores.tolist() == [1.0, 2.0, 3.0]
    assert round_.ended.tolist() == [True, True, False]


def test_rule_6_the_divergence_that_is_logged_is_that_of_the_rewards() -> None:
    """Of drawn numbers, of either sign: an answer's reward is its score less beta times its KL."""
    lengths = [[4, 2, 7], [1, 5]]
    judged = [judgement(each, seed) for seed, each in enumerate(lengths)]
    round_, _ = advantages([pass_of(each) for each in lengths], judged, **SETTINGS)
    scores = torch.cat([each.scores for each in judged])
    torch.testing.assert_close(round_.kl, (scores - round_.rewards.sum(dim=1)) / BETA, atol=1e-5, rtol=1e-5)
    assert float(round_.kl.min()) < 0 < float(round_.kl.max())


def test_rule_7_advantages_are_whitened_over_the_whole_round() -> None:
    """Over all passes, of all minibatches and ranks: each of them alone has another mean."""
    lengths = [[4, 2, 7], [1, 5], [3]]
    judged = [judgement(each, seed) for seed, each in enumerate(lengths)]
    judged[2] = Judgement(judged[2].scores + 5.0, *(getattr(judged[2], name) for name in Judgement.__slots__[1:]))
    _, pushes = advantages([pass_of(each) for each in lengths], judged, **SETTINGS)
    every = torch.cat([each.advantages for each in pushes])
    assert [len(each.advantages) for each in pushes] == [13, 6, 3]
    assert float(every.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(every.std()) == pytest.approx(1.0, abs=1e-5)
    assert float(pushes[2].advantages.mean()) > 0.5


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_a_pass_gets_the_advantages_and_returns_of_its_own_tokens(whiten_rewards: bool) -> None:
    """Against each answer alone, but for the whitening, which is undone by what is known of the round."""
    lengths = [[4, 2, 7], [1, 5], [3]]
    judged = [judgement(each, seed) for seed, each in enumerate(lengths)]
    round_, pushes = advantages(
        [pass_of(each) for each in lengths], judged, **(SETTINGS | {"whiten_rewards": whiten_rewards})
    )
    if whiten_rewards:
        assert float(round_.rewards[round_.mask].std()) == pytest.approx(1.0, abs=1e-5)
    estimated, returns = [], []
    starts = [0, *torch.tensor([length for each in lengths for length in each]).cumsum(0).tolist()]
    values = torch.cat([each.values for each in judged])
    for row, (start, end) in enumerate(pairwise(starts)):
        mask = torch.ones(1, end - start, dtype=torch.bool)
        alone = gae(round_.rewards[row : row + 1, : end - start], values[None, start:end], mask, 0.9, 0.8)
        estimated.append(alone[0][0])
        returns.append(alone[1][0])
    flat = torch.cat(estimated)[None]
    expected = whiten(flat, torch.ones_like(flat, dtype=torch.bool))[0]
    torch.testing.assert_close(torch.cat([each.advantages for each in pushes]), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([each.returns for each in pushes]), torch.cat(returns))
    torch.testing.assert_close(round_.values[round_.mask], values)
    torch.testing.assert_close(round_.returns[round_.mask], torch.cat(returns))


@pytest.mark.parametrize(
    ("gamma", "lam", "plain", "returns"),
    [
        (1.0, 1.0, [0.5 - 2.5, 0.5 - 2.5, 1.5 - 2.0, 3.5 - 1.0, 8.5], [1.0, 1.0, 2.0, 4.0, 9.0]),
        # The first answer, of two tokens, missed 0.9 * 1 - 0.5, whatever lambda is.
        (0.9, 0.5, [-0.3 + 0.45 * -2.0, 1.0 - 3.0, 1.5 - 1.95, 3.5 - 0.95, 8.5], [0.675, 1.0, 2.0, 4.0, 9.0]),
    ],
)
def test_what_the_critic_missed_of_a_prompts_other_answers_is_added_to_an_answers_values(
    gamma: float, lam: float, plain: list[float], returns: list[float]
) -> None:
    """Three answers to one prompt, of which one stands in another pass, and one to another prompt.

    In the first case, with no price on divergence, no discount and values of 0.5, they miss 0.5, 1.5, 3.5 and 8.5. So
    the first is held against 0.5 + (1.5 + 3.5) / 2, and so on; the last, alone with its prompt, against 0.5.
    """
    passes = [pass_of([2, 1], prompts=iter([1, 1])), pass_of([1, 1], prompts=iter([1, 2]))]
    judged = [
        Judgement(scores, *(torch.zeros(sum(each.lengths)) for _ in range(3)), torch.full((sum(each.lengths),), 0.5))
        for each, scores in zip(passes, (tensor([1.0, 2.0]), tensor([4.0, 9.0])), strict=True)
    ]
    round_, pushes = advantages(passes, judged, **(SETTINGS | {"beta": 0.0, "gamma": gamma, "lam": lam}))
    expected = whiten(tensor([plain]), torch.ones(1, len(plain), dtype=torch.bool))[0]
    torch.testing.assert_close(torch.cat([each.advantages for each in pushes]), expected)
    torch.testing.assert_close(torch.cat([each.returns for each in pushes]), tensor(returns))  # the critic's own
    assert round_.values[round_.mask].tolist() == [0.5] * 5


def test_how_a_round_is_cut_into_passes_changes_nothing() -> None:
    def prompts() -> Iterator[int]:
        return iter([1, 2, 1])

    whole, pushes = advantages([pass_of([4, 2, 7], prompts=prompts())], [judgement([4, 2, 7], 3)], **SETTINGS)
    parts = _split(judgement([4, 2, 7], 3), [4, 2, 7], [1, 2])
    drawn = prompts()
    passes = [pass_of([4], prompts=drawn), pass_of([2, 7], prompts=drawn)]
    cut, cut_pushes = advantages(passes, parts, **SETTINGS)
    assert torch.equal(whole.rewards, cut.rewards)
    assert torch.equal(pushes[0].advantages, torch.cat([each.advantages for each in cut_pushes]))


def _split(judged: Judgement, lengths: list[int], counts: list[int]) -> list[Judgement]:
    sizes = [sum(lengths[: counts[0]]), sum(lengths[counts[0] :])]
    rest: list[tuple[Tensor, ...]] = [getattr(judged, name).split(sizes) for name in Judgement.__slots__[1:]]
    return [Judgement(*each) for each in zip(judged.scores.split(counts), *rest, strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 3),
)
def test_each_minibatch_has_its_own_trees_whatever_the_passes(
    answers: list[list[int]], count: int, budget: int, ranks: int
) -> None:
    """As many trees as any other, in their order, each with whether its answers ended."""
    lengths = answers * count
    trees = [Tree((number,), tuple((7,) * n for n in each)) for number, each in enumerate(lengths)]
    ended = [[(number + place) % 2 == 0 for place in range(len(each))] for number, each in enumerate(lengths)]
    batches = minibatches(trees, ended, count, budget, ranks)
    assert len(batches) == count
    for start, batch in zip(range(0, len(trees), len(answers)), batches, strict=True):
        assert len(batch) % ranks == 0
        found: dict[int, list[tuple[int, bool]]] = {}
        for each in batch:
            ends = iter(each.ended)
            for tree in each.trees:  # of a tree that is larger than a pass, a part
                found.setdefault(tree.prompt[0], []).extend((len(answer), next(ends)) for answer in tree.answers)
            assert next(ends, None) is None
            assert each.lengths == [len(answer) for tree in each.trees for answer in tree.answers]
            assert (
                sum(len(tree.answers) for tree in each.trees) <= 1
                or sum(tree.num_tokens for tree in each.trees) <= budget
            )
        expected = {n: sorted(zip(lengths[n], ended[n], strict=True)) for n in range(start, start + len(answers))}
        assert {number: sorted(pairs) for number, pairs in found.items()} == expected
