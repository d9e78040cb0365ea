"""Attention of sequences that begin with the same blocks of the cache: those are read once for all of them.

Samples of one prompt share it, and conversations their system prompt. The queries of the sequences that share look at
the shared keys in one product, each at its own keys in another, and the softmax is over both. (The idea of Hydragen,
Juravsky et al. 2024, arXiv:2402.05099, section 3; the scores are joined before the softmax, so nothing has to be put
right after it.) Where it saves little it is not done.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name that torch's documentation uses)

MOST_READ: Final = 0.6  # of what each by itself would read; more does not pay
MOST_PADDING: Final = 2  # rows of the products, for each sequence

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """B sequences in R runs, whose members begin with the same blocks.

    A run with fewer members than the longest, which has n, is filled up with its first. `places` says where a sequence
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


def find(tables: np.ndarray, counts: Sequence[int], block_size: int, device: torch.device) -> SharedPrefixes | None:
    """What sequences of one new token share. `tables` (B, L / block_size): their blocks, of which `counts` are used,
    those with equal first blocks side by side. None where some share nothing, or too little to pay."""
    edges = [0, *(np.flatnonzero(tables[1:, 0] != tables[:-1, 0]) + 1).tolist(), len(tables)]
    starts, sizes = edges[:-1], [end - start for start, end in itertools.pairwise(edges)]
    shared = [_in_common(tables[i : i + n], min(counts[i : i + n])) for i, n in zip(starts, sizes, strict=True)]
    each = np.repeat(shared, sizes)
    own_width, width = int((np.asarray(counts) - each).max()), max(sizes)
    read = len(starts) * max(shared) + len(tables) * own_width
    if min(shared) == 0 or read > MOST_READ * tables.size or len(starts) * width > MOST_PADDING * len(tables):
        return None
    prefixes = np.zeros((len(starts), max(shared)), dtype=np.int64)
    own = np.zeros((len(tables), own_width), dtype=np.int64)
    members = np.repeat(np.asarray(starts)[:, None], width, axis=1)
    places: list[int] = []
    for run, (start, size, blocks) in enumerate(zip(starts, sizes, shared, strict=True)):
        prefixes[run, :blocks] = tables[start, :blocks]
        members[run, :size] = np.arange(start, start + size)
        places += range(run * width, run * width + size)
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


def _in_common(tables: np.ndarray, least: int) -> int:
    """Leading blocks that all have. The block of the newest token is nobody else's."""
    same = (tables == tables[0]).all(axis=0)[: least - 1]
    return len(same) if same.all() else int(same.argmin())


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64, copy=False)).to(device)
