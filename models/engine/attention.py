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
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by sliding window, filled when first asked for

    def mask(self, length: int, window: int | None) -> Tensor:
        """(B, 1, q, L), true where a token may look: at itself, back, and not further back than the window."""
        if window not in self.masks:
            keys = torch.arange(length, device=self.positions.device)
            distance = self.positions[:, :, None] - keys
            visible = distance >= 0
            if window is not None:
                visible &= distance < window
            self.masks[window] = visible[:, None]
        return self.masks[window]


class PagedKeysValues:
    """The cache's tensors: a pair (num_blocks, block_size, kv_heads, head_dim) a layer, made at the layer's first use.

    Zeros, not uninitialised memory: a masked NaN would still spread through 0 * NaN.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (T, kv_heads, head_dim) at `slots` (T,); returns the layer's whole pair."""
        if layer not in self.layers:
            self.layers[layer] = (self._zeros(keys), self._zeros(values))
        for cached, new in zip(self.layers[layer], (keys, values), strict=True):
            cached.view(-1, *cached.shape[2:]).index_copy_(0, slots, new)
        return self.layers[layer]

    def erase(self, blocks: list[int]) -> None:
        for pair in self.layers.values():
            for cached in pair:
                cached[blocks] = 0

    def _zeros(self, like: Tensor) -> Tensor:
        shape = (self.num_blocks, self.block_size, *like.shape[1:])
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
    keys, values = paged.cache.write(layer, paged.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    heads, size, kv_heads = query.shape[1], query.shape[3], key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    flat = query[0].transpose(0, 1)  # (T, heads, D)
    outputs = []
    for rows in paged.rows:
        batch, count = rows.positions.shape
        q = flat[rows.first : rows.first + batch * count].view(batch, count, heads, size).transpose(1, 2)
        k = keys[rows.block_tables].flatten(1, 2).transpose(1, 2)  # (B, kv_heads, L, D)
        v = values[rows.block_tables].flatten(1, 2).transpose(1, 2)
        mask = rows.mask(k.shape[2], sliding_window)
        if softcap is not None or s_aux is not None:
            out = _attend_explicitly(q, k, v, mask, scale, softcap, s_aux)
        elif count == 1:
            # One token a sequence: the query heads that share a key head stand in for the query's length.
            out = F.scaled_dot_product_attention(
                q.view(batch, kv_heads, -1, size), k, v, attn_mask=mask, scale=scale
            ).view(batch, heads, 1, -1)
        else:
            out = F.scaled_dot_product_attention(q, _repeat(k, heads), _repeat(v, heads), attn_mask=mask, scale=scale)
        outputs.append(out.transpose(1, 2).reshape(batch * count, heads, -1))
    return torch.cat(outputs).unsqueeze(0), None


def _repeat(x: Tensor, heads: int) -> Tensor:
    """(B, kv_heads, L, D) -> (B, heads, L, D), each key head as often as query heads share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _attend_explicitly(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """What torch's fused attention lacks: capped scores (Gemma 2, arXiv:2408.00118, section 2) and a learned score a
    head that takes probability away from the tokens (gpt-oss)."""
    scores = (q @ _repeat(k, q.shape[1]).transpose(2, 3)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    return weights.to(v.dtype) @ _repeat(v, q.shape[1])


AttentionInterface.register(ATTENTION, paged_attention)
