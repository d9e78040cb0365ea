"""Sequences that begin with the same blocks: what they see is what each would see by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model
from test_engine import generate, greedy, ids, prompts, small_engine
from torch import nn

from honed.models.engine import cascade, runner
from honed.models.engine.attention import PagedBatch, PagedKeysValues, Rows, paged_attention
from honed.models.engine.cascade import SharedPrefixes, find

HEADS, KV_HEADS, SIZE, BLOCK = 6, 2, 8, 4
CPU = torch.device("cpu")
# Two runs, of three sequences with eight blocks in common and of two with nine; the lengths are of the newest tokens.
TABLES = np.array([
    [1, 2, 3, 4, 5, 6, 7, 8, 20, 0], [1, 2, 3, 4, 5, 6, 7, 8, 21, 0], [1, 2, 3, 4, 5, 6, 7, 8, 22, 23],
    [9, 10, 11, 12, 13, 14, 15, 16, 17, 24], [9, 10, 11, 12, 13, 14, 15, 16, 17, 25],
])  # fmt: skip
LENGTHS = [33, 35, 39, 37, 40]
BLOCKS = 26
COUNTS = [-(-length // BLOCK) for length in LENGTHS]


def found(tables: np.ndarray = TABLES, counts: list[int] = COUNTS) -> SharedPrefixes | None:
    return find(tables, counts, BLOCK, CPU)


def test_what_is_shared_and_what_is_not() -> None:
    shared = found()
    assert shared is not None
    assert shared.tables.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 0], [9, 10, 11, 12, 13, 14, 15, 16, 17]]
    assert shared.own_tables.tolist() == [[20, 0], [21, 0], [22, 23], [24, 0], [25, 0]]
    assert shared.lengths.tolist() == [32, 32, 32, 36, 36]
    assert shared.members is not None
    assert shared.places is not None
    assert shared.members.tolist() == [0, 1, 2, 3, 4, 3], "the second run is filled up"
    assert shared.places.tolist() == [0, 1, 2, 3, 4]


def test_runs_of_one_size_are_not_rearranged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "MOST_READ", 0.7)
    shared = found(TABLES[1:], COUNTS[1:])
    assert shared is not None
    assert shared.members is None
    assert shared.places is None


@pytest.mark.parametrize(
    ("tables", "counts"),
    [
        ([[1, 2, 3], [4, 5, 6]], [3, 3]),  # nothing
        ([[1, 2, 3], [1, 4, 5], [6, 7, 8]], [3, 3, 3]),  # one shares with nobody
        ([[1, 2, 3, 4], [1, 5, 6, 7]], [4, 4]),  # too little
        ([[1, 2], [1, 2]], [2, 2]),  # the block of the newest token is none that others read
        ([[1, 2, 3, 4, 5 + i] for i in range(12)] + [[20, 21, 22, 23, 30 + i] for i in range(2)]
         + [[24, 25, 26, 27, 33 + i] for i in range(2)], [5] * 16),  # the runs are too uneven
    ],
)  # fmt: skip
def test_what_does_not_pay_is_not_done(tables: list[list[int]], counts: list[int]) -> None:
    assert found(np.array(tables), counts) is None


@pytest.mark.parametrize("window", [None, 6, 34])
@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 5)], ids=["uneven", "even"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_is_the_same_as_by_oneself(
    dtype: torch.dtype, error: float, rows: slice, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "MOST_READ", 0.7)
    torch.manual_seed(0)
    tables, lengths = TABLES[rows], torch.tensor(LENGTHS[rows])
    positions = (lengths - 1)[:, None]
    block_tables = torch.from_numpy(tables)
    slots = block_tables.gather(1, positions // BLOCK)[:, 0] * BLOCK + positions[:, 0] % BLOCK
    old = torch.randn(2, KV_HEADS, BLOCKS * BLOCK, SIZE, dtype=dtype)
    new = torch.randn(3, HEADS, len(tables), SIZE, dtype=dtype)

    def attended(shared: SharedPrefixes | None) -> torch.Tensor:
        cache = PagedKeysValues(BLOCKS, BLOCK)
        cache.write(0, torch.arange(BLOCKS * BLOCK), old[0], old[1])
        batch = PagedBatch(cache, slots, [Rows(0, block_tables, positions, shared)])
        module: Any = cast("nn.Module", SimpleNamespace(layer_idx=0))
        query, key, value = new[0], new[1, :KV_HEADS], new[2, :KV_HEADS]
        out, _ = paged_attention(module, query[None], key[None], value[None], None, paged=batch, sliding_window=window)
        return out.float()

    shared = found(tables, COUNTS[rows])
    assert shared is not None
    alone = attended(None)
    assert (attended(shared) - alone).abs().max() < error
    assert alone.abs().max() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_to_prompts_that_begin_alike_are_those_of_generate(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two system prompts, some questions to each, and one that shares nothing."""
    model = tiny_model(architecture)
    first, second, *questions = [prompt for prompt in prompts(40, seed=4) if len(prompt) > 14][:9]
    asked = [(first if i % 2 else second) + question[: 1 + i] for i, question in enumerate(questions)] + [questions[0]]
    expected = [generate(model, prompt) for prompt in asked]
    made: list[SharedPrefixes | None] = []
    attended: list[int] = []
    monkeypatch.setattr(runner, "find", lambda *given: made.append(find(*given)) or made[-1])
    plain = cascade.attend
    monkeypatch.setattr(cascade, "attend", lambda *given: attended.append(1) or plain(*given))
    engine = small_engine(model, num_blocks=256)
    engine.run([greedy(first, 1), greedy(second, 1)])
    assert [ids(samples) for samples in engine.run([greedy(prompt) for prompt in asked])] == expected
    assert any(each is not None for each in made)
    assert attended
