"""Logits -> token ids and log-probabilities. Pure functions of tensors; no state, no random number generator.

Noise is keyed by (seed, position, token id) through an integer hash, so a row's sample depends on nothing else: not on
the batch's other rows, not on the device, not on what was sampled before. A sample is the winner of a race: each token
of probability p arrives after an exponential time of rate p, and the first one is taken (the Gumbel-max trick, before
its logarithms). That follows the probabilities, down to about 1e-9, and only flips between runs when two candidates
are as near as rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from honed.models.engine.sequence import SamplingParams, Sequence

ROWS_AT_ONCE = 4  # on a CPU, whose cache holds the two dozen steps of a few rows; of all they go through fresh memory
FAST_CANDIDATES = 512  # the nucleus is looked for among so many before the whole vocabulary is sorted


@dataclass(frozen=True, slots=True)
class Sample:
    """One token. Log-probabilities are of the distribution that it was drawn from: after penalties, bias, temperature
    and filters. A greedy token's are those at temperature 1."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token id, log-probability), the most probable first
    is_finite: bool  # False: nothing was left to choose from, or the numbers overflowed; the token means nothing


@torch.inference_mode()
def sample(logits: Tensor, sequences: list[Sequence]) -> list[Sample]:
    """logits: (B, vocabulary), changed in place where they are in float32; row i continues `sequences[i]`."""
    at_once = ROWS_AT_ONCE if logits.device.type == "cpu" else len(sequences)
    starts = range(0, len(sequences), max(1, at_once))
    parts = (_sample(logits[i : i + at_once].float(), sequences[i : i + at_once]) for i in starts)
    return [each for part in parts for each in part]


def _sample(logits: Tensor, sequences: list[Sequence]) -> list[Sample]:
    for row, sequence in enumerate(sequences):
        penalize(logits[row], sequence)
    params = [sequence.params for sequence in sequences]
    scale_and_filter(logits, params)
    best = logits.amax(dim=-1, keepdim=True)
    weights = (logits - best).exp_()
    log_total = weights.sum(dim=-1, keepdim=True).log()
    if all(p.is_greedy for p in params):
        chosen = logits.argmax(dim=-1, keepdim=True)
    else:
        keys = [noise_key(sequence) for sequence in sequences]
        # The largest of p / time, whose sign is turned: of what is left out it is 0, or minus 0.
        chosen = weights.div_(minus_arrival_times(keys, logits.shape[-1], logits.device)).argmin(dim=-1, keepdim=True)
        if any(p.is_greedy for p in params):
            is_greedy = torch.tensor([[p.is_greedy] for p in params], device=logits.device)
            chosen = torch.where(is_greedy, logits.argmax(dim=-1, keepdim=True), chosen)
    values = (logits.gather(-1, chosen) - best - log_total)[:, 0].tolist()
    top: list[tuple[tuple[int, float], ...]] = [()] * len(params)
    if any(p.top_logprobs for p in params):
        top = top_candidates(logits - best - log_total, params)
    return [
        Sample(*each) for each in zip(chosen[:, 0].tolist(), values, top, best[:, 0].isfinite().tolist(), strict=True)
    ]


def penalize(logits: Tensor, sequence: Sequence) -> None:
    """Applies penalties, bias and the ban on an early end to one row (vocabulary,), in place.

    Names every number's type: torch's default is the whole process's, and changes while another model is loaded.
    """
    p = sequence.params
    if p.repetition_penalty != 1.0:
        seen = torch.tensor(sequence.token_ids, device=logits.device).unique()
        picked = logits[seen]
        logits[seen] = torch.where(picked > 0, picked / p.repetition_penalty, picked * p.repetition_penalty)
    if (p.frequency_penalty or p.presence_penalty) and sequence.num_output:
        seen, counts = torch.tensor(sequence.output_ids, device=logits.device).unique(return_counts=True)
        logits[seen] -= p.frequency_penalty * counts.to(logits.dtype) + p.presence_penalty
    if p.logit_bias:
        ids = torch.tensor(list(p.logit_bias), device=logits.device)
        logits[ids] += logits.new_tensor(list(p.logit_bias.values()))
    if sequence.num_output < p.min_tokens and p.stop_token_ids:
        logits[torch.tensor(sorted(p.stop_token_ids), device=logits.device)] = -torch.inf


def scale_and_filter(logits: Tensor, params: list[SamplingParams]) -> None:
    """Temperature, top-k, top-p (arXiv:1904.09751) and min-p (arXiv:2407.01082), in place; what is filtered out gets
    minus infinity. Greedy rows are left as they are."""
    temperatures = [1.0 if p.is_greedy else p.temperature for p in params]
    if any(t != 1.0 for t in temperatures):
        logits /= logits.new_tensor(temperatures)[:, None]
    rows = [i for i, p in enumerate(params) if not p.is_greedy and (p.top_p < 1 or p.top_k or p.min_p)]
    if not rows:
        return
    chosen = [params[row] for row in rows]
    index = torch.tensor(rows, device=logits.device)
    picked = logits[index]
    picked.masked_fill_(picked < _threshold(picked, chosen)[:, None], -torch.inf)
    logits[index] = picked


def _threshold(logits: Tensor, params: list[SamplingParams]) -> Tensor:
    """(B,): the smallest logit that each row keeps. Tokens as probable as the last one kept are kept too."""
    size = logits.shape[-1]
    top_k = logits.new_tensor([min(p.top_k or size, size) for p in params], dtype=torch.int64)
    top_p = logits.new_tensor([p.top_p for p in params])
    min_p = logits.new_tensor([p.min_p for p in params])
    everything = (top_k >= size) & (top_p >= 1)
    widest = min(size, max([FAST_CANDIDATES, *(p.top_k for p in params)]))
    while True:
        best = logits.topk(widest, dim=-1).values  # (B, widest), sorted
        rank = torch.arange(widest, device=logits.device)
        cut = best.masked_fill(rank >= top_k[:, None], -torch.inf)
        # top-p is of the distribution that top-k left over.
        mass = torch.where(top_k < size, cut.logsumexp(-1), logits.logsumexp(-1))
        before = (cut - mass[:, None]).exp().cumsum(-1).roll(1, dims=-1)  # the mass of the more probable ones
        before[:, 0] = 0
        # `before` may round to 1 while there is mass left, which top-p 1 must not cut.
        in_nucleus = (before < top_p[:, None]) | (top_p[:, None] >= 1)
        kept = ((rank < top_k[:, None]) & in_nucleus).sum(-1).clamp(min=1)
        if widest == size or not bool(((kept == widest) & (top_k > widest) & ~everything).any()):
            break
        widest = size
    threshold = best.gather(-1, (kept - 1)[:, None])[:, 0].masked_fill(everything, -torch.inf)
    return torch.maximum(threshold, best[:, 0] + min_p.log())


def top_candidates(logprobs: Tensor, params: list[SamplingParams]) -> list[tuple[tuple[int, float], ...]]:
    """The alternatives that each row asked for, the most probable first."""
    most = max(p.top_logprobs for p in params)
    values, ids = logprobs.topk(min(most, logprobs.shape[-1]), dim=-1)
    pairs = zip(ids.tolist(), values.tolist(), params, strict=True)
    return [tuple(zip(i, v, strict=True))[: p.top_logprobs] for i, v, p in pairs]


def noise_key(sequence: Sequence) -> int:
    """A signed 32-bit number from a sequence's seed and the position of its next token. Two steps with the same one,
    which happens once in four billion, have their noise in common and nothing else."""
    position = sequence.num_output
    digest = blake2b(sequence.seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)


def minus_arrival_times(keys: list[int], size: int, device: torch.device) -> Tensor:
    """(len(keys), size) independent samples of the standard exponential distribution, negated, the same on every
    device."""
    bits = _mix(_token_bits(size, device) ^ torch.tensor(keys, dtype=torch.int32, device=device)[:, None])
    # Early arrivals win, and float32 holds small numbers exactly. The largest would round to 1, and never arrive.
    uniform = bits.bitwise_and_(0x7FFFFFFF).float().add_(0.5).mul_(-(2.0**-31)).clamp_(min=2.0**-24 - 1)
    return uniform.log1p_()


@lru_cache(maxsize=8)
def _token_bits(size: int, device: torch.device) -> Tensor:
    """(size,): a hash of each token's id."""
    return _mix(torch.arange(size, dtype=torch.int32, device=device) * -1640531527)  # 2^32 / golden ratio


def _mix(bits: Tensor) -> Tensor:
    """A bijection of 32 bits. Its multipliers are those of "lowbias32" (Chris Wellons, "Prospecting for hash
    functions", 2018), chosen there for the least bias."""
    # `>>` keeps the sign of an int32, so the bits that it shifts in are masked away.
    bits = (bits ^ ((bits >> 16) & 0xFFFF)).mul_(0x7FEB352D)
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)).mul_(-2073254261)  # 0x846CA68B as int32
    return bits ^ ((bits >> 16) & 0xFFFF)
