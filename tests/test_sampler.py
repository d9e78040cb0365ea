"""The sampler against distributions worked out by hand."""

import math
from collections import Counter

import pytest
import torch

from honed.models.engine.sampler import minus_arrival_times, noise_key, sample, scale_and_filter
from honed.models.engine.sequence import SamplingParams, Sequence

CPU = torch.device("cpu")
PINNED = [-0.255509, -0.72029, -0.904848]


def row(
    params: SamplingParams, *, seed: int = 0, prompt: tuple[int, ...] = (0,), output: tuple[int, ...] = ()
) -> Sequence:
    sequence = Sequence(prompt, params, seed)
    sequence.token_ids += output
    return sequence


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def distribution(logits: torch.Tensor, **settings: float) -> list[float]:
    """The log-probabilities, as probabilities, that a single row is sampled with."""
    size = logits.shape[-1]
    params = SamplingParams(max_tokens=9, top_logprobs=size, **settings)  # type: ignore[arg-type]
    top = sample(logits.clone(), [row(params)])[0].top
    return [math.exp(dict(top)[token]) for token in range(size)]


def test_greedy_takes_the_first_of_the_largest_and_reports_temperature_one() -> None:
    result = sample(logits_of(0.2, 0.5, 0.3), [row(SamplingParams(max_tokens=9, temperature=0))])[0]
    assert result.token_id == 1
    assert result.logprob == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0]),
        ({"min_p": 0.25}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        # top-p is of what top-k left: 0.5 / 0.8 = 0.625 of the two.
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        ({"top_k": 2, "top_p": 0.63}, [0.625, 0.375, 0, 0]),
        ({"logit_bias": {0: -100.0}}, [0, 0.6, 0.3, 0.1]),
    ],
)
def test_filters(settings: dict[str, float], expected: list[float]) -> None:
    assert distribution(logits_of(0.5, 0.3, 0.15, 0.05), **settings) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("top_k", [0, 600, 900])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_wide_nucleus_is_found_beyond_the_fast_candidates(top_k: int, top_p: float) -> None:
    """A flat distribution over 1,000 tokens, against the definition by sorting."""
    torch.manual_seed(0)
    logits = torch.randn(1, 1000) * 0.1
    p, order = logits[0].softmax(-1).sort(descending=True)
    if top_k:
        p = p[:top_k] / p[:top_k].sum()
    keep = order[: int(((p.cumsum(0) - p) < top_p).sum())]
    filtered = logits.clone()
    scale_and_filter(filtered, [SamplingParams(max_tokens=1, top_p=top_p, top_k=top_k)])
    assert set(filtered[0].isfinite().nonzero()[:, 0].tolist()) == set(keep.tolist())


def test_penalties_by_hand() -> None:
    """Token 0 stands in the prompt, token 1 twice in the answer."""
    params = SamplingParams(
        max_tokens=9, temperature=0, repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25
    )
    logits = torch.tensor([[3.0, -1.0, 1.0]])
    sample(logits, [row(params, prompt=(0,), output=(1, 1))])
    assert logits.tolist() == [[1.5, -2.0 - 2 * 0.5 - 0.25, 1.0]]


def test_each_row_has_its_own_settings() -> None:
    logits = logits_of(0.5, 0.3, 0.2).repeat(3, 1)
    rows = [
        row(SamplingParams(max_tokens=9, temperature=0, top_logprobs=1)),
        row(SamplingParams(max_tokens=9, top_k=1, top_logprobs=2)),
        row(SamplingParams(max_tokens=9, logit_bias={2: 100.0})),
    ]
    results = sample(logits, rows)
    assert [r.token_id for r in results] == [0, 0, 2]
    assert [len(r.top) for r in results] == [1, 2, 0]
    assert results[1].logprob == pytest.approx(0)
    assert results[1].top[1][1] == -math.inf


def test_samples_follow_the_probabilities() -> None:
    """Chi-squared over 20,000 draws of 5 tokens: 4 degrees of freedom, 99.9 % quantile 18.5."""
    p = [0.5, 0.25, 0.15, 0.07, 0.03]
    draws = 20_000
    rows = [row(SamplingParams(max_tokens=9), seed=seed) for seed in range(draws)]
    counts = Counter(r.token_id for r in sample(logits_of(*p).repeat(draws, 1), rows))
    chi_squared = sum((counts[i] - draws * q) ** 2 / (draws * q) for i, q in enumerate(p))
    assert chi_squared < 18.5


def test_times_are_exponential_and_uncorrelated_between_neighbours() -> None:
    """Mean and variance 1; neighbouring keys and neighbouring tokens have nothing in common."""
    keys = [*range(8), -1, -2, 2**31 - 1, *(1 << k for k in range(3, 7))]
    times = -minus_arrival_times(keys, 50_000, CPU).double()
    assert times.mean(dim=1).tolist() == pytest.approx([1.0] * 15, abs=0.02)
    assert times.var(dim=1).tolist() == pytest.approx([1.0] * 15, abs=0.05)
    assert times.quantile(torch.tensor([0.01, 0.5, 0.99]).double(), dim=1).mean(dim=1).tolist() == pytest.approx(
        [0.01005, 0.6931, 4.605], rel=0.02
    )
    assert torch.corrcoef(times).fill_diagonal_(0).abs().max() < 0.02
    for shift in (1, 2, 64):
        assert torch.corrcoef(torch.stack([times[0, shift:], times[0, :-shift]]))[0, 1].abs() < 0.02


def test_early_arrivals_are_as_rare_as_they_should_be() -> None:
    """They are who wins against odds: of 20 million, twenty in the first millionth, and none at once or never."""
    times = torch.cat([-minus_arrival_times([k], 1_000_000, CPU) for k in range(20)])
    assert 5 <= int((times < 1e-6).sum()) <= 40
    assert 0 < times.min() < 1e-6
    assert 12 < times.max() < 17


def test_noise_is_pinned() -> None:
    """Recorded rollouts and seeds must mean the same in the next version, on every device."""
    assert minus_arrival_times([12], 3, CPU)[0].tolist() == pytest.approx(PINNED, abs=1e-6)


def test_a_row_is_the_same_alone_and_in_company() -> None:
    """Also where a CPU takes rows a few at a time, beside greedy ones and in bfloat16."""
    torch.manual_seed(1)
    logits = (torch.randn(11, 3000) * 3).bfloat16()
    params = [SamplingParams(max_tokens=9, temperature=0 if i % 3 == 0 else 1, top_logprobs=i % 2) for i in range(11)]
    rows = [row(p, seed=i) for i, p in enumerate(params)]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [rows[i]])[0] for i in range(11)]
    greedy = [r.token_id for r, p in zip(together, params, strict=True) if p.is_greedy]
    assert greedy == logits[::3].argmax(dim=-1).tolist()


def test_keys_depend_on_seed_and_position() -> None:
    params = SamplingParams(max_tokens=9)
    keys = {noise_key(row(params, seed=s, output=(7,) * n)) for s in range(3) for n in range(3)}
    assert len(keys) == 9
    assert noise_key(row(params, prompt=(1, 2, 3))) == noise_key(row(params, prompt=(4,)))


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45, 1e-50])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    params = SamplingParams(max_tokens=9, temperature=temperature)
    result = sample(torch.tensor([[1.0, -2.0, 5.0, 3.0, 0.0]]), [row(params)])[0]
    assert result.token_id == 2
    assert result.is_finite
    assert math.isfinite(result.logprob)


def test_top_p_one_cuts_nothing_that_top_k_left() -> None:
    """The first candidate's probability rounds to 1 in float32; the second is still there."""
    params = SamplingParams(max_tokens=9, top_k=2, top_logprobs=3)
    result = sample(torch.tensor([[17.5, 0.0, -5.0]]), [row(params)])[0]
    assert dict(result.top)[1] == pytest.approx(-17.5, abs=1e-4)
    assert dict(result.top)[2] == -math.inf


def test_nothing_left_to_choose_from_is_reported() -> None:
    params = SamplingParams(max_tokens=9, min_tokens=5, stop_token_ids=frozenset(range(3)))
    assert not sample(torch.zeros(1, 3), [row(params)])[0].is_finite


def test_what_is_not_finite_is_reported_a_row() -> None:
    logits = torch.tensor([[0.0, float("nan")], [0.0, 1.0], [0.0, float("inf")]])
    rows = [row(SamplingParams(max_tokens=9)) for _ in range(3)]
    assert [r.is_finite for r in sample(logits, rows)] == [False, True, False]
