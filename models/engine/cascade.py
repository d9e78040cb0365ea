"""Attention of sequences that begin with the same blocks of the cache: those are read once for all of them.

Samples of one prompt share it, and conversations their system prompt. The queries of a run of sequences that share look
at the shared keys in one product, each at its own keys in another, and the softmax is over both. (The idea of Hydragen,
Juravsky et al. 2024, arXiv:2402.05099, section 3; the scores are joined before the softmax, so nothing has to be put
right after it.) Owns who shares with whom, how much, and that product. Invariant: a sequence's newest token is in a
block of its own, which is never shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name that torch's documentation uses)

MOST_READ: Final = 0.6  # of what its members would read each by itself; a run that reads more does not pay

KeysValues = tuple[Tensor, Tensor]
Blocks = list[int]


@dataclass(frozen=True, slots=True)
class Run:
    """Sequences, by their numbers, with their first `shared` blocks in common."""

    members: tuple[int, ...]
    shared: int

    @property
    def saved(self) -> int:
        """Blocks that are not read again."""
        return (len(self.members) - 1) * self.shared


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """B sequences in R runs, one run after the other.

    A run with fewer members than the largest, which has n, is filled up with its first. `places` says where a sequence
    is in the R * n; both are None where no run is filled up.
    """

    tables: Tensor  # (R, P / block_size): the blocks that a run shares, padded with block 0
    own_tables: Tensor  # (B, S / block_size): those that it does not share
    lengths: Tensor  # (B,): tokens that a sequence shares
    members: Tensor | None  # (R * n,): numbers of sequences
    places: Tensor | None  # (B,)
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by sliding window, filled when first asked for

    def hidden(self, positions: Tensor, sizes: tuple[int, int], window: int | None) -> Tensor:
        """(B, 1, P + S), true where a sequence's newest token, at `positions` (B, 1), may not look."""
        if window not in self.masks:
            shared, own = (torch.arange(size, device=positions.device) for size in sizes)
            lengths = self.lengths[:, None]
            # What pads a prefix is behind every token.
            keys = torch.cat([torch.where(shared < lengths, shared, positions + 1), lengths + own], dim=1)
            hidden = keys > positions
            if window is not None:
                hidden |= keys <= positions - window
            self.masks[window] = hidden[:, None]
        return self.masks[window]


def find_runs(tables: Sequence[Blocks]) -> list[Run]:
    """Who shares with whom, of sequences with these blocks, their newest token's left out: at the depth that saves
    most, since samples of several prompts may have a system prompt in common. Who is in no run shares too little."""
    order = sorted(range(len(tables)), key=lambda number: tables[number])
    common = [_in_common(tables[one], tables[other]) for one, other in itertools.pairwise(order)]
    divisions = [list(_divided(order, common, depth)) for depth in set(common) - {0}]
    best = max(divisions, key=lambda runs: sum(run.saved for run in runs), default=[])
    return [run for run in best if _pays(run, tables)]


def lay_out(
    tables: np.ndarray, counts: Blocks, runs: Sequence[Run], block_size: int, device: torch.device
) -> SharedPrefixes:
    """The members of the runs, in their order: `tables` (B, L / block_size) has their blocks, the first `counts`."""
    sizes, shared = [len(run.members) for run in runs], [run.shared for run in runs]
    starts = [0, *itertools.accumulate(sizes)][:-1]
    each, width = np.repeat(shared, sizes), max(sizes)
    prefixes = np.zeros((len(runs), max(shared)), dtype=np.int64)
    own = np.zeros((len(tables), int((np.asarray(counts) - each).max())), dtype=np.int64)
    members = np.repeat(np.asarray(starts)[:, None], width, axis=1)
    places: list[int] = []
    for number, (start, size, blocks) in enumerate(zip(starts, sizes, shared, strict=True)):
        prefixes[number, :blocks] = tables[start, :blocks]
        members[number, :size] = np.arange(start, start + size)
        places += range(number * width, number * width + size)
        for row in range(start, start + size):
            own[row, : counts[row] - blocks] = tables[row, blocks : counts[row]]
    is_even = members.size == len(tables)
    return SharedPrefixes(
        tables=_tensor(prefixes, device),
        own_tables=_tensor(own, device),
        lengths=_tensor(each * block_size, device),
        members=None if is_even else _tensor(members.flatten(), device),
        places=None if is_even else _tensor(np.asarray(places), device),
    )


def attend(
    q: Tensor, prefix: KeysValues, own: KeysValues, shared: SharedPrefixes, hidden: Tensor, scale: float
) -> Tensor:
    """q: (kv_heads, B, heads / kv_heads, D); keys and values of the prefixes (kv_heads, R, P, D) and of what is a
    sequence's own (kv_heads, B, S, D); hidden: (B, 1, P + S). Returns (kv_heads, B, heads / kv_heads, D)."""
    sizes = [prefix[0].shape[2], own[0].shape[2]]
    scores = torch.cat([_by_run(q, prefix[0].transpose(2, 3), shared), q @ own[0].transpose(2, 3)], dim=-1)
    weights = F.softmax(scores.float().mul_(scale).masked_fill_(hidden, float("-inf")), dim=-1).to(q.dtype)
    of_prefix, of_own = weights.split(sizes, dim=-1)
    return _by_run(of_prefix, prefix[1], shared).add_(of_own @ own[1])


def _by_run(x: Tensor, matrices: Tensor, shared: SharedPrefixes) -> Tensor:
    """x: (kv_heads, B, g, k), each times its run's of the matrices (kv_heads, R, k, m). Returns (kv_heads, B, g, m)."""
    heads, _, group, width = x.shape
    together = x if shared.members is None else x.index_select(1, shared.members)
    product = together.reshape(heads, matrices.shape[1], -1, width) @ matrices
    apart = product.view(heads, -1, group, product.shape[3])
    return apart if shared.places is None else apart.index_select(1, shared.places)


def _divided(order: Sequence[int], common: Sequence[int], depth: int) -> Iterator[Run]:
    """Runs of two or more that share at least `depth` blocks. `common`: blocks that neighbours in `order` share."""
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or common[end - 1] < depth:
            if end - start > 1:
                yield Run(tuple(order[start:end]), min(common[start : end - 1]))
            start = end


def _pays(run: Run, tables: Sequence[Blocks]) -> bool:
    each_by_itself = sum(len(tables[number]) + 1 for number in run.members)
    return each_by_itself - run.saved <= MOST_READ * each_by_itself


def _in_common(one: Blocks, other: Blocks) -> int:
    """Leading blocks."""
    return next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64, copy=False)).to(device)
