"""The engine's attention alone: what the cache gives back, and each way of attending against float64 by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from honed.models.engine.attention import PagedBatch, PagedKeysValues, Rows, paged_attention

HEADS, KV_HEADS, SIZE, BLOCK = 6, 2, 8, 4
TABLES = torch.tensor([[3, 1, 0], [2, 5, 4]])  # the first sequence has two blocks, 0 pads
LENGTHS = torch.tensor([6, 11])


def test_gather_gives_back_what_was_written_in_each_sequence_s_order() -> None:
    cache = PagedKeysValues(6, BLOCK)
    keys = torch.randn(KV_HEADS, 3, SIZE)
    cache.write(7, torch.tensor([3 * BLOCK + 3, 1 * BLOCK, 5 * BLOCK + 2]), keys, -keys)
    k, v = cache.gather(7, TABLES)
    assert k.shape == (KV_HEADS, 2, 3 * BLOCK, SIZE)
    assert torch.equal(k[:, 0, 3:5], keys[:, :2])
    assert torch.equal(k[:, 1, BLOCK + 2], keys[:, 2])
    assert torch.equal(v, -k)
    assert int((k != 0).any(-1).sum()) == 3 * KV_HEADS  # the rest is zeros


def test_erase_zeroes_its_blocks_alone() -> None:
    cache = PagedKeysValues(6, BLOCK)
    everywhere = torch.full((KV_HEADS, 6 * BLOCK, SIZE), float("nan"))
    cache.write(0, torch.arange(6 * BLOCK), everywhere, everywhere)
    cache.erase([2, 3])
    for pair in cache.layers[0]:
        assert [bool(pair[:, block].isnan().all()) for block in range(6)] == [True, True, False, False, True, True]
        assert not pair[:, 2:4].any()


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_every_way_of_attending_is_the_definition(
    dtype: torch.dtype, error: float, count: int, softcap: float | None, window: int | None
) -> None:
    torch.manual_seed(0)
    cache = PagedKeysValues(6, BLOCK)
    old = torch.randn(2, KV_HEADS, 6 * BLOCK, SIZE, dtype=dtype)
    cache.write(0, torch.arange(6 * BLOCK), old[0], old[1])
    positions = LENGTHS[:, None] - count + torch.arange(count)  # of the newest tokens
    slots = TABLES.gather(1, positions // BLOCK) * BLOCK + positions % BLOCK
    new = torch.randn(3, HEADS, 2 * count, SIZE, dtype=dtype)
    query, key, value = new[0], new[1, :KV_HEADS], new[2, :KV_HEADS]
    batch = PagedBatch(cache, slots.flatten(), [Rows(0, TABLES, positions)])
    module = cast("nn.Module", SimpleNamespace(layer_idx=0))
    options: dict[str, Any] = {"sliding_window": window, "softcap": softcap}
    out, _ = paged_attention(module, query[None], key[None], value[None], None, paged=batch, **options)

    keys, values = (each.double() for each in cache.gather(0, TABLES))
    for row in range(2):
        for i in range(count):
            for head in range(HEADS):
                at = int(positions[row, i])
                seen = slice(0 if window is None else max(0, at - window + 1), at + 1)
                expected = _attend(
                    query[head, row * count + i].double(),
                    keys[head // (HEADS // KV_HEADS), row, seen],
                    values[head // (HEADS // KV_HEADS), row, seen],
                    softcap,
                )
                assert (out[0, row * count + i, head].double() - expected).abs().max() < error
    assert torch.equal(cache.gather(0, TABLES)[0][:, 0, LENGTHS[0] - 1], key[:, count - 1])  # and it is kept


def _attend(query: Tensor, keys: Tensor, values: Tensor, softcap: float | None) -> Tensor:
    """One query (D,) over the keys (L, D) that it may see."""
    scores = keys @ query / SIZE**0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores.softmax(0) @ values
