"""The mathematics of training against numbers worked out by hand and against TRL 1.12, the last TRL with PPO.

TRL's numbers were made by its own lines, cut out of `PPOTrainer.train` of trl 1.12.0 (torch 2.13.0, CPU) and run on
the inputs that `drawn` draws; neither is needed here. TRL differs in two places, which were kept out of the way by
running its lines on each episode alone, without padding, and its losses on the tokens of all episodes in one row:
- the score of an answer that is shorter than the longest lands on the padding after it (TRL's issue 3750), so that
  `TRL_PADDED_REWARDS` has it a token too late;
- values and their loss count that padding token too (`padding_mask_p1`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, tensor

from honed.training import objectives
from honed.training.objectives import (
    adapted_coefficient,
    explained_variance,
    gae,
    grouped_ranking_loss,
    kl_k1,
    kl_k3,
    kl_rewards,
    least_squares,
    leave_one_out,
    policy_loss,
    rank_margins,
    ranked_pairs,
    token_entropy,
    token_logprobs,
    value_loss,
    whiten,
)

LENGTHS = (6, 4, 1, 5)
BETA, GAMMA, LAMBDA, CLIP, TEMPERATURE = 0.1, 0.97, 0.9, 0.2, 0.7

REWARDS = [
    [-0.054694, 0.040033, -0.009006, 0.023188, 0.006408, -0.436325],
    [-0.009456, 0.047421, -0.034871, -0.277419, 0.0, 0.0],
    [0.423946, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-0.019705, 0.023185, -0.020788, 0.023113, -1.540464, 0.0],
]
TRL_PADDED_REWARDS = [
    [-0.054694, 0.040033, -0.009006, 0.023188, 0.006408, -0.436325],
    [-0.009456, 0.047421, -0.034871, -0.027426, -0.249993, 0.0],
    [-0.029947, 0.453894, 0.0, 0.0, 0.0, 0.0],
    [-0.019705, 0.023185, -0.020788, 0.023113, 0.008516, -1.54898],
]
ADVANTAGES = [
    [-1.098713, 0.44644, -0.623346, -0.785352, -1.278839, 0.60681],
    [0.616903, -0.952323, -1.503667, 0.364975, 0.0, 0.0],
    [0.966633, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-0.356222, -0.545049, -1.840564, -0.772018, -1.722638, 0.0],
]
RETURNS = [
    [-0.22406, -0.12996, -0.237585, -0.314183, -0.475688, -0.436325],
    [-0.048915, -0.135911, -0.33937, -0.277419, 0.0, 0.0],
    [0.423946, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-0.91043, -0.972778, -1.210822, -1.304041, -1.540464, 0.0],
]
WHITENED = [
    [-0.638304, 1.095344, -0.104945, -0.286715, -0.840402, 1.275278],
    [1.286602, -0.474054, -1.092658, 1.003941, 0.0, 0.0],
    [1.678997, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.194764, -0.017098, -1.470653, -0.271754, -1.338342, 0.0],
]
SCALED_REWARDS = [
    [0.027029, 0.253477, 0.136247, 0.213208, 0.173095, -0.885276],
    [0.135173, 0.27114, 0.074418, -0.505405, 0.0, 0.0],
    [1.171239, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.110671, 0.213202, 0.108082, 0.21303, -3.524767, 0.0],
]
K1 = [0.546942, -0.400327, 0.090064, -0.231876, -0.064076, 0.101545]
K3 = [0.125659, 0.091986, 0.003937, 0.029087, 0.002097, 0.004986]
POLICY_LOSS, POLICY_CLIPPED = 0.082382, 0.125
POLICY_GRADIENT = [0.042774, -0.065028, 0.0, 0.018501, 0.063324, -0.070342, 0.0, 0.029472]
POLICY_GRADIENT += [0.086705, -0.067154, -0.092271, -0.011748, 0.000993, 0.129065, 0.014518, 0.094822]
VALUE_LOSS, VALUE_CLIPPED = 0.551708, 0.3125
VALUE_GRADIENT = [0.088781, -0.02062, 0.03729, 0.0, 0.082751, -0.030696, -0.078793, 0.0]
VALUE_GRADIENT += [0.108804, 0.0, 0.0, 0.019782, 0.040677, 0.115044, 0.056036, 0.0]
TOKEN_LOGPROBS = [-8.120028, -3.614778, -14.668692, -9.520154, -5.658083]
TOKEN_ENTROPY = [0.047137, 1.087684, 1.171587, 1.087933, 0.856453]


@dataclass(frozen=True)
class Drawn:
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    scores: Tensor
    new_logprobs: Tensor
    new_values: Tensor
    logits: Tensor
    ids: Tensor
    mask: Tensor


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """What TRL's lines were run on."""
    g = torch.Generator().manual_seed(112)
    logprobs = -3.0 * torch.rand(4, 6, generator=g)
    reference = logprobs + 0.3 * torch.randn(4, 6, generator=g)
    values = torch.randn(4, 6, generator=g)
    scores = torch.randn(4, generator=g)
    new_logprobs = logprobs + 0.3 * torch.randn(4, 6, generator=g)
    new_values = values + 0.3 * torch.randn(4, 6, generator=g)
    logits = 2.0 * torch.randn(5, 7, generator=g)
    ids = torch.randint(7, (5,), generator=g)
    mask = torch.arange(6) < tensor(LENGTHS)[:, None]
    return Drawn(logprobs, reference, values, scores, new_logprobs, new_values, logits, ids, mask)


def equals(got: Tensor, expected: object, atol: float = 2e-6) -> None:
    torch.testing.assert_close(got, tensor(expected), atol=atol, rtol=1e-5)


def test_rewards_are_trls_without_padding(drawn: Drawn) -> None:
    equals(kl_rewards(drawn.scores, drawn.logprobs, drawn.reference, drawn.mask, BETA), REWARDS)


def test_rule_1_the_score_is_on_the_last_token_where_trl_puts_it_on_the_padding(drawn: Drawn) -> None:
    """Of the episode that is as long as the longest they agree; of the others the sums do."""
    ours = kl_rewards(drawn.scores, drawn.logprobs, drawn.reference, drawn.mask, BETA)
    theirs = tensor(TRL_PADDED_REWARDS)
    equals(ours[0], TRL_PADDED_REWARDS[0])
    torch.testing.assert_close(ours.sum(dim=1), theirs.sum(dim=1), atol=5e-6, rtol=0)
    for row, length in enumerate(LENGTHS[1:], start=1):
        assert theirs[row, length] != 0
        assert torch.equal(ours[row, length:], torch.zeros(6 - length))
        assert float(ours[row, length - 1] - theirs[row, length - 1]) == pytest.approx(
            float(drawn.scores[row]), abs=5e-6
        )


def test_rule_1_rewards_by_hand() -> None:
    """Whatever stands on the padding counts for nothing."""
    logprobs = tensor([[-1.0, -2.0, -3.0], [-0.5, -1.0, math.inf]])
    reference = tensor([[-1.5, -1.0, -3.0], [-1.5, -1.0, 7.0]])
    mask = tensor([[True, True, True], [True, True, False]])
    equals(kl_rewards(tensor([2.0, -1.0]), logprobs, reference, mask, 0.1), [[-0.05, 0.1, 2.0], [-0.1, -1.0, 0.0]])


def test_rule_6_the_divergence_in_a_reward_is_k1_and_detached(drawn: Drawn) -> None:
    logprobs = drawn.logprobs.clone().requires_grad_()
    rewards = kl_rewards(torch.zeros(4), logprobs, drawn.reference, drawn.mask, BETA)
    assert not rewards.requires_grad
    expected = torch.where(drawn.mask, -BETA * kl_k1(drawn.logprobs, drawn.reference), 0.0)
    torch.testing.assert_close(rewards, expected)


def test_advantages_and_returns_are_trls(drawn: Drawn) -> None:
    advantages, returns = gae(tensor(REWARDS), drawn.values, drawn.mask, GAMMA, LAMBDA)
    equals(advantages, ADVANTAGES)
    equals(returns, RETURNS)


def test_advantages_by_hand() -> None:
    """Deltas 1, -1, 2 and -1.5, 2; each advantage is its delta and a quarter of the next advantage. The value on the
    padding, 9, is nobody's."""
    rewards = tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 5.0]])
    values = tensor([[0.5, 1.0, 0.0], [2.0, 1.0, 9.0]])
    mask = tensor([[True, True, True], [True, True, False]])
    advantages, returns = gae(rewards, values, mask, 0.5, 0.5)
    equals(advantages, [[0.875, -0.5, 2.0], [-1.0, 2.0, 0.0]])
    equals(returns, [[1.375, 0.5, 2.0], [1.0, 3.0, 0.0]])


def test_without_discount_and_at_lambda_1_a_return_is_what_is_still_to_come() -> None:
    rewards, mask = tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3, dtype=torch.bool)
    equals(gae(rewards, torch.randn(1, 3), mask, 1.0, 1.0)[1], [[7.0, 6.0, 4.0]])


def test_whitening_is_trls(drawn: Drawn) -> None:
    equals(whiten(tensor(ADVANTAGES), drawn.mask), WHITENED, atol=5e-6)
    equals(whiten(tensor(REWARDS), drawn.mask, shift_mean=False), SCALED_REWARDS, atol=5e-6)


def test_whitening_by_hand() -> None:
    """Mean 2 and unbiased variance 1 of 1, 2 and 3; the 50 is masked."""
    x, mask = tensor([[1.0, 2.0], [3.0, 50.0]]), tensor([[True, True], [True, False]])
    equals(whiten(x, mask), [[-1.0, 0.0], [1.0, 0.0]])
    equals(whiten(x, mask, shift_mean=False), [[1.0, 2.0], [3.0, 0.0]])


def test_one_number_is_whitened_to_nothing() -> None:
    assert float(whiten(tensor([[5.0]]), tensor([[True]]))) == 0.0


def test_divergences_are_trls(drawn: Drawn) -> None:
    equals(kl_k1(drawn.logprobs[0], drawn.reference[0]), K1)
    equals(kl_k3(drawn.logprobs[0], drawn.reference[0]), K3)


def test_divergences_are_unbiased_and_k3_is_never_negative() -> None:
    """Over a whole distribution both give the KL: 0.8 log(0.8 / 0.5) + 0.2 log(0.2 / 0.5)."""
    p, q = tensor([0.8, 0.2]), tensor([0.5, 0.5])
    for estimate in (kl_k1, kl_k3):
        each = estimate(p.log(), q.log())
        assert float((p * each).sum()) == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4))
    assert float(kl_k1(p.log(), q.log()).min()) < 0 <= float(kl_k3(p.log(), q.log()).min())


def test_the_policy_loss_is_trls(drawn: Drawn) -> None:
    """So are its gradients, 0 where a token is clipped."""
    logprobs = drawn.new_logprobs[drawn.mask].requires_grad_()
    loss, clipped = policy_loss(logprobs, drawn.logprobs[drawn.mask], tensor(WHITENED)[drawn.mask], CLIP, sum(LENGTHS))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(POLICY_LOSS, abs=2e-6)
    assert float(clipped.float().mean()) == POLICY_CLIPPED
    equals(logprobs.grad, POLICY_GRADIENT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "is_clipped"),
    [
        (1.5, 2.0, -2.4, 0.0, True),  # better and already more probable: held
        (0.5, -1.0, 0.8, 0.0, True),  # worse and already less probable: held
        (1.5, -1.0, 1.5, 1.5, False),  # worse and more probable: pushed back
        (0.5, 1.0, -0.5, -0.5, False),  # better and less probable: pushed back
        (1.19, 2.0, -2.38, -2.38, False),  # just within
        (1.21, 2.0, -2.4, 0.0, True),  # just without
        (0.81, -1.0, 0.81, 0.81, False),
        (0.79, -1.0, 0.8, 0.0, True),
        (1.0, 3.0, -3.0, -3.0, False),
    ],
)
def test_the_policy_loss_by_hand(
    ratio: float, advantage: float, loss: float, gradient: float, is_clipped: bool
) -> None:
    """A token's gradient is -advantage * ratio, and 0 beyond the clip on the side that the advantage pushes to."""
    logprobs = tensor([math.log(ratio) - 1.0], requires_grad=True)
    got, clipped = policy_loss(logprobs, tensor([-1.0]), tensor([advantage]), 0.2, 1)
    got.backward()
    assert float(got.detach()) == pytest.approx(loss, abs=1e-6)
    equals(logprobs.grad, [gradient], atol=1e-6)
    assert clipped.tolist() == [is_clipped]


def test_the_value_loss_is_trls(drawn: Drawn) -> None:
    values = drawn.new_values[drawn.mask].requires_grad_()
    loss, clipped = value_loss(values, drawn.values[drawn.mask], tensor(RETURNS)[drawn.mask], CLIP, sum(LENGTHS))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(VALUE_LOSS, abs=2e-6)
    assert float(clipped.float().mean()) == VALUE_CLIPPED
    equals(values.grad, VALUE_GRADIENT)


def test_the_value_loss_by_hand() -> None:
    """Old values 0 and returns 1: squares .81, max(.25, .64) since .5 is held at .2, and 2.25. Two tokens a batch."""
    values = tensor([0.1, 0.5, -0.5], requires_grad=True)
    loss, clipped = value_loss(values, torch.zeros(3), torch.ones(3), 0.2, 2)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 * 3.7 / 2)
    equals(values.grad, [-0.45, 0.0, -0.75])
    assert clipped.tolist() == [False, True, False]


def test_rule_7_losses_of_parts_add_up_to_that_of_the_whole(drawn: Drawn) -> None:
    new, old = drawn.new_logprobs.flatten(), drawn.logprobs.flatten()
    pushes = torch.randn(24, generator=torch.Generator().manual_seed(0))
    for loss in (policy_loss, value_loss):
        whole = loss(new, old, pushes, CLIP, 24)[0]
        parts = [loss(new[part], old[part], pushes[part], CLIP, 24)[0] for part in (slice(5), slice(5, 24))]
        torch.testing.assert_close(whole, torch.stack(parts).sum())


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),  # as wanted: nothing changes
        (12.0, 0.153),  # twice as much: the error is cut at 0.2
        (6.6, 0.1515),
        (5.4, 0.1485),
        (0.0, 0.147),
        (-3.0, 0.147),
    ],
)
def test_the_coefficient_is_adapted_as_zieglers(kl: float, expected: float) -> None:
    """Target 6 nats, K = 0.1 a batch: 512 episodes over a horizon of 5120."""
    assert adapted_coefficient(0.15, kl, 6.0, 512, 5120) == pytest.approx(expected)


def test_pairs_are_those_of_different_ranks_the_better_first() -> None:
    winners, losers = ranked_pairs(tensor([2, 1, 2, 5]))
    assert list(zip(winners.tolist(), losers.tolist(), strict=True)) == [(0, 3), (1, 0), (1, 2), (1, 3), (2, 3)]
    assert [each.tolist() for each in ranked_pairs(tensor([1, 1]))] == [[], []]


def test_margins_count_places_and_not_ranks() -> None:
    """1, 2 and 4 are three places: half the way for a neighbour, the whole way from first to last."""
    equals(rank_margins(tensor([1, 2, 4])), [0.5, 1.0, 0.5])
    equals(rank_margins(tensor([1, 1, 3])), [1.0, 1.0])


def test_the_ranking_loss_by_hand() -> None:
    """The tie of the last two is no pair; of the others the mean: log(1 + 1/3) and log(1 + 3)."""
    scores, ranks = tensor([math.log(3), 0.0, math.log(9)], requires_grad=True), tensor([1, 2, 2])
    loss = grouped_ranking_loss(scores, ranks)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    equals(scores.grad, [-0.5, 0.125, 0.375])  # half of sigmoid(-d) each: 1/4 and 3/4


def test_answers_that_read_the_same_are_no_pair() -> None:
    """However they were ranked: of four answers the first and the last have the same tokens."""
    ranks, kinds = tensor([1, 2, 2, 4]), tensor([0, 1, 2, 0])
    winners, losers = ranked_pairs(ranks, kinds)
    assert list(zip(winners.tolist(), losers.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    equals(rank_margins(ranks, kinds), [0.5, 0.5, 0.5, 0.5])
    scores = tensor([3.0, 1.0, 1.0, 3.0])
    expected = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(2.0))) / 2
    assert float(grouped_ranking_loss(scores, ranks, kinds)) == pytest.approx(expected)


def test_the_ranking_loss_counts_a_prompt_once_however_many_answers_it_has() -> None:
    """With equal scores every pair costs log 2, and so does their mean."""
    for k in (2, 4, 9):
        assert float(grouped_ranking_loss(torch.zeros(k), torch.arange(k) + 1)) == pytest.approx(math.log(2))


def test_the_ranking_loss_takes_a_margin_from_the_difference() -> None:
    scores, ranks = tensor([2.0, 0.5, -1.0]), tensor([1, 2, 4])
    by_hand = [1.5 - 0.5, 3.0 - 1.0, 1.5 - 0.5]
    expected = sum(math.log1p(math.exp(-d)) for d in by_hand) / 3
    assert float(grouped_ranking_loss(scores, ranks, margin=True)) == pytest.approx(expected)
    assert float(grouped_ranking_loss(scores, ranks)) < expected


def test_the_line_that_misses_least() -> None:
    """Through (0, 1), (1, 3), (2, 2): half a step up for a step, and its mean is theirs."""
    assert least_squares(tensor([0.0, 1.0, 2.0]), tensor([1.0, 3.0, 2.0])) == pytest.approx((0.5, 1.5))
    assert least_squares(tensor([2.0, 2.0]), tensor([1.0, 4.0])) == pytest.approx((0.0, 2.5))


def test_of_each_the_mean_of_the_others_of_its_group() -> None:
    groups, x = tensor([0, 1, 0, 2, 0]), tensor([1.0, 7.0, 2.0, 5.0, 6.0])
    equals(leave_one_out(x, groups), [4.0, 0.0, 3.5, 0.0, 1.5])


def test_rule_5_logits_are_divided_by_the_temperature() -> None:
    """Odds of 1 to 3 become 1 to 9 at a temperature of a half, 1 to sqrt 3 at 2."""
    logits = tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    for temperature, power in ((1.0, 1.0), (0.5, 2.0), (2.0, 0.5)):
        odds = 3**power
        equals(token_logprobs(logits, tensor([0, 1]), temperature).exp(), [1 / (1 + odds), odds / (1 + odds)])
        p = 1 / (1 + odds)
        by_hand = -p * math.log(p) - (1 - p) * math.log(1 - p)
        equals(token_entropy(logits, temperature), [by_hand, by_hand])


def test_rule_5_logprobs_and_entropy_are_trls(drawn: Drawn) -> None:
    """TRL adds 1e-7 to the temperature, which shows in the seventh digit."""
    equals(token_logprobs(drawn.logits, drawn.ids, TEMPERATURE), TOKEN_LOGPROBS, atol=5e-6)
    equals(token_entropy(drawn.logits, TEMPERATURE), TOKEN_ENTROPY, atol=5e-6)


def test_logprobs_and_entropy_are_computed_in_float32() -> None:
    logits, ids = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).bfloat16(), tensor([1, 2, 3])
    assert torch.equal(token_logprobs(logits, ids, 0.7), token_logprobs(logits.float(), ids, 0.7))
    assert torch.equal(token_entropy(logits, 0.7), token_entropy(logits.float(), 0.7))
    assert token_logprobs(logits, ids).dtype == token_entropy(logits).dtype == torch.float32


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_in_blocks_are_those_of_all_at_once_with_their_gradient(
    monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Seven rows in blocks of two, and of one where a row is larger than a block."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(7, 50, generator=generator).requires_grad_()
    ids, weights = torch.randint(50, (7,), generator=generator), torch.randn(7, generator=generator)
    plain = (logits / temperature).log_softmax(dim=1).gather(1, ids[:, None])[:, 0]
    (by_torch,) = torch.autograd.grad((plain * weights).sum(), logits)
    for block in (100, 20):
        monkeypatch.setitem(objectives.BLOCK, "cpu", block)
        found = token_logprobs(logits, ids, temperature)
        (gradient,) = torch.autograd.grad((found * weights).sum(), logits)
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(gradient, by_torch)


def test_the_entropy_of_a_uniform_distribution_is_the_logarithm_of_its_size() -> None:
    equals(token_entropy(torch.zeros(1, 8)), [math.log(8)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0, 4.0], 1.0), ([3.0, 4.0, 6.0], 1.0), ([7.0, 7.0, 7.0], 0.0), ([-1.0, -2.0, -4.0], -3.0)],
)
def test_explained_variance_by_hand(values: list[float], expected: float) -> None:
    """A constant offset costs nothing; the opposite of the truth has four times its variance left."""
    assert explained_variance(tensor(values), tensor([1.0, 2.0, 4.0])) == pytest.approx(expected, abs=1e-6)


def test_explained_variance_of_equal_returns_is_0() -> None:
    assert explained_variance(tensor([1.0, 2.0]), tensor([3.0, 3.0])) == 0.0
