"""Attention over the paged cache, registered with transformers' `AttentionInterface` as "honed".

transformers' own modules compute queries, keys and values of a flat batch of shape (1, heads, T, head_dim): the tokens
of many sequences side by side, no padding. `paged_attention` writes the new keys and values to their slots and lets
each sequence attend to its own blocks. It is handed a `PagedBatch` as the keyword argument `paged`, which the modules
pass through. Owns the cache's tensors; which block belongs to whom is decided in `kv_cache.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that torch's documentation uses)
from transformers import AttentionInterface

from honed.models.engine import cascade
from honed.models.engine.cascade import SharedPrefixes

ATTENTION = "honed"


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences with equally many new tokens, attending together.

    The flat batch's tokens `[first, first + B * q)` belong to B sequences with q tokens each, and L is the length of
    the longest of their block tables in tokens.
    """

    first: int
    block_tables: Tensor  # (B, L / block_size), padded with block 0
    positions: Tensor  # (B, q): of the new tokens in their sequences
    shared: SharedPrefixes | None = None  # what those with one new token have in common, where it is worth it
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by sliding window, filled when first asked for

    def mask(self, length: int, window: int | None) -> Tensor:
        """(B, q, L), true where a token may look: at itself, back, and not further back than the window."""
        if window not in self.masks:
            keys = torch.arange(length, device=self.positions.device)
            distance = self.positions[:, :, None] - keys
            visible = distance >= 0
            if window is not None:
                visible &= distance < window
            self.masks[window] = visible
        return self.masks[window]


class PagedKeysValues:
    """The cache's tensors: a pair (kv_heads, num_blocks, block_size, head_dim) a layer, made at the layer's first use.

    Heads come first, so that what `gather` copies is laid out as products of matrices read it. Zeros, not uninitialised
    memory: a masked NaN would still spread through 0 * NaN.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores (kv_heads, T, head_dim) at `slots` (T,)."""
        if layer not in self.layers:
            self.layers[layer] = (self._zeros(keys), self._zeros(values))
        for cached, new in zip(self.layers[layer], (keys, values), strict=True):
            cached.flatten(1, 2).index_copy_(1, slots, new)

    def gather(self, layer: int, block_tables: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (kv_heads, B, L, head_dim) of `block_tables` (B, L / block_size)."""
        # `cached[:, block_tables]` copies number by number: six times slower on a CPU.
        keys, values = (
            cached.index_select(1, block_tables.flatten()).view(cached.shape[0], len(block_tables), -1, cached.shape[3])
            for cached in self.layers[layer]
        )
        return keys, values

    def erase(self, blocks: list[int]) -> None:
        for pair in self.layers.values():
            for cached in pair:
                cached[:, blocks] = 0

    def _zeros(self, like: Tensor) -> Tensor:
        shape = (like.shape[0], self.num_blocks, self.block_size, like.shape[2])
        if like.device.type != "cpu":
            return like.new_zeros(shape)
        # numpy's zeros are the system's own, mapped when they are first touched; torch writes every page at once,
        # which takes seconds for a cache of gigabytes.
        size = math.prod(shape) * like.element_size()
        return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(like.dtype).view(shape)


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """What the attention of one step needs to know; the same for every layer."""

    cache: PagedKeysValues
    slots: Tensor  # (T,): where each new token's key and value go, counted through all blocks
    rows: Sequence[Rows]
    seen_layers: set[int] = field(default_factory=set)  # which layers came by: the runner's check of an architecture


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (transformers' calling convention; ours comes with `paged`)
    *,
    paged: PagedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,  # dropout and flags of other attention functions
) -> tuple[Tensor, None]:
    """query: (1, heads, T, D), key and value: (1, kv_heads, T, D). Returns (1, T, heads, D)."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # nn.Module types every attribute as Tensor | Module
    paged.seen_layers.add(layer)
    paged.cache.write(layer, paged.slots, key[0], value[0])
    heads, size = query.shape[1], query.shape[3]
    scale = size**-0.5 if scaling is None else scaling
    outputs = []
    for rows in paged.rows:
        batch, count = rows.positions.shape
        q = query[0, :, rows.first : rows.first + batch * count].view(heads, batch, count, size)
        if rows.shared is not None and softcap is None and s_aux is None:
            out = _attend_with_shared(q, paged.cache, layer, rows, rows.shared, sliding_window, scale)
            outputs.append(out.permute(1, 2, 0, 3).reshape(batch * count, heads, -1))
            continue
        k, v = paged.cache.gather(layer, rows.block_tables)
        mask = rows.mask(k.shape[2], sliding_window)
        if softcap is not None or s_aux is not None:
            out = attend_explicitly(q, repeat_heads(k, heads), repeat_heads(v, heads), mask, scale, softcap, s_aux)
        elif count == 1:
            out = _attend_with_one(q, k, v, mask, scale)
        else:
            out = fused_attention(q, repeat_heads(k, heads), repeat_heads(v, heads), mask, scale)
        outputs.append(out.permute(1, 2, 0, 3).reshape(batch * count, heads, -1))
    return torch.cat(outputs).unsqueeze(0), None


def _attend_with_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """One token a sequence: the query heads that share a key head stand in for the query's length.

    q: (heads, B, 1, D), k and v: (kv_heads, B, L, D), mask: (B, 1, L). Returns (heads, B, 1, D).
    """
    shared = _by_key_head(q, k.shape[0])
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # torch's fused attention takes one tiny product after the other here: three times slower.
        out = attend_explicitly(shared, k, v, mask, scale, None, None)
    else:
        out = fused_attention(shared, k, v, mask, scale)
    return out.transpose(1, 2).reshape(q.shape[0], q.shape[1], 1, -1)


def _attend_with_shared(
    q: Tensor,
    cache: PagedKeysValues,
    layer: int,
    rows: Rows,
    shared: SharedPrefixes,
    window: int | None,
    scale: float,
) -> Tensor:
    """As `_attend_with_one`, of sequences with blocks in common."""
    prefix, own = cache.gather(layer, shared.tables), cache.gather(layer, shared.own_tables)
    hidden = shared.hidden(rows.positions, (prefix[0].shape[2], own[0].shape[2]), window)
    out = cascade.attend(_by_key_head(q, len(prefix[0])), prefix, own, shared, hidden, scale)
    return out.transpose(1, 2).reshape(q.shape[0], q.shape[1], 1, -1)


def _by_key_head(q: Tensor, kv_heads: int) -> Tensor:
    """(heads, B, 1, D) -> (kv_heads, B, heads / kv_heads, D)."""
    return q.view(kv_heads, -1, *q.shape[1:]).squeeze(3).transpose(1, 2)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """q: (heads, B, q, D), k and v: (heads, B, L, D), mask: (B, q, L). Returns (heads, B, q, D)."""
    # With a mask of three dimensions torch takes its slow path on a CPU.
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(0), scale=scale)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(kv_heads, B, L, D) -> (heads, B, L, D), each key head as often as query heads share it."""
    return x if x.shape[0] == heads else x.repeat_interleave(heads // x.shape[0], dim=0)


def attend_explicitly(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """What torch's fused attention lacks: capped scores (Gemma 2, arXiv:2408.00118, section 2) and a learned score a
    head that takes probability away from the tokens (gpt-oss).

    q: (heads, B, q, D), k and v: (heads, B, L, D), mask: (B, q, L). Returns (heads, B, q, D).
    """
    scores = (q @ k.transpose(2, 3)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.float().view(-1, 1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    return weights.to(v.dtype) @ v


AttentionInterface.register(ATTENTION, paged_attention)
