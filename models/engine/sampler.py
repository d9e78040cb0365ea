"""Logits -> token ids and log-probabilities. Pure functions of tensors; no state, no random number generator.

Noise is keyed by (seed, position, token id) through an integer hash, so a row's sample depends on nothing else: not on
the batch's other rows, not on the device, not on what was sampled before. A sample is `argmax(log p + Gumbel noise)`
(the Gumbel-max trick), which follows the probabilities p, down to about 1e-9, and only flips between runs when two
candidates are as near as rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from honed.models.engine.sequence import SamplingParams, Sequence

NOISE_ROWS = 2  # whose noise is made at once on a CPU
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
    """logits: (B, vocabulary) in float32, changed in place; row i continues `sequences[i]`."""
    for row, sequence in enumerate(sequences):
        penalize(logits[row], sequence)
    params = [sequence.params for sequence in sequences]
    scale_and_filter(logits, params)
    finite = logits.amax(dim=-1).isfinite().tolist()
    drawn = [row for row, p in enumerate(params) if not p.is_greedy]
    scores = logits  # not log-probabilities: their rounding could tie two logits that differ
    if drawn:
        noise = gumbel_noise([noise_key(sequences[row]) for row in drawn], logits.shape[-1], logits.device)
        if len(drawn) == len(params):
            scores = noise.add_(logits)
        else:
            scores = logits.index_add(0, torch.tensor(drawn, device=logits.device), noise)
    logprobs = logits.log_softmax(dim=-1)
    chosen = scores.argmax(dim=-1, keepdim=True)
    ids = chosen[:, 0].tolist()
    values = logprobs.gather(-1, chosen)[:, 0].tolist()
    top = top_candidates(logprobs, params)
    return [Sample(*each) for each in zip(ids, values, top, finite, strict=True)]


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
    if most == 0:
        return [()] * len(params)
    values, ids = logprobs.topk(min(most, logprobs.shape[-1]), dim=-1)
    pairs = zip(ids.tolist(), values.tolist(), params, strict=True)
    return [tuple(zip(i, v, strict=True))[: p.top_logprobs] for i, v, p in pairs]


def noise_key(sequence: Sequence) -> tuple[int, int]:
    """Two signed 32-bit numbers from a sequence's seed and the position of its next token."""
    position = sequence.num_output
    digest = blake2b(sequence.seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)


def gumbel_noise(keys: list[tuple[int, int]], size: int, device: torch.device) -> Tensor:
    """(len(keys), size) independent samples of the standard Gumbel distribution, the same on every device.

    A 32-bit hash of the token id, mixed with the row's key twice; the multipliers are those of "lowbias32" (Chris
    Wellons, "Prospecting for hash functions", 2018), chosen there for the least bias.
    """
    key = torch.tensor(keys, dtype=torch.int32, device=device)
    spread = torch.arange(size, dtype=torch.int32, device=device) * -1640531527  # 2^32 / golden ratio
    # A CPU's cache holds the dozen steps of a few rows; of all at once each goes through fresh memory.
    rows = NOISE_ROWS if device.type == "cpu" else len(keys)
    return torch.cat([_gumbel(spread, some) for some in key.split(rows)])


def _gumbel(spread: Tensor, key: Tensor) -> Tensor:
    """spread: (size,), of each token id; key: (B, 2). Returns (B, size)."""
    bits = _mix(spread + key[:, :1])
    bits = _mix(bits ^ key[:, 1:])
    # 31 bits of a uniform number: what wins are the smallest, and float32 holds small ones exactly. The largest would
    # round to 1, whose noise is infinite.
    uniform = ((bits >> 1) & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _mix(bits: Tensor) -> Tensor:
    # `>>` keeps the sign of an int32, so the bits that it shifts in are masked away.
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * -2073254261  # 0x846CA68B as int32
    return bits ^ ((bits >> 16) & 0xFFFF)
