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

from honed.models.engine import cascade
from honed.models.engine.attention import PagedBatch, PagedKeysValues, Rows, paged_attention
from honed.models.engine.cascade import Run, SharedPrefixes, find_runs, lay_out
from honed.models.engine.sequence import SamplingParams, Sequence

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


RUNS = [Run((0, 1, 2), 8), Run((3, 4), 9)]


def laid_out(rows: slice = slice(0, 5)) -> SharedPrefixes:
    runs = RUNS if rows.start == 0 else [Run((0, 1), 8), Run((2, 3), 9)]
    return lay_out(TABLES[rows], COUNTS[rows], runs, BLOCK, CPU)


def test_what_is_shared_and_what_is_not() -> None:
    shared = laid_out()
    assert shared.tables.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 0], [9, 10, 11, 12, 13, 14, 15, 16, 17]]
    assert shared.own_tables.tolist() == [[20, 0], [21, 0], [22, 23], [24, 0], [25, 0]]
    assert shared.lengths.tolist() == [32, 32, 32, 36, 36]
    assert shared.members is not None
    assert shared.places is not None
    assert shared.members.tolist() == [0, 1, 2, 3, 4, 3], "the second run is filled up"
    assert shared.places.tolist() == [0, 1, 2, 3, 4]


def test_runs_of_one_size_are_not_rearranged() -> None:
    shared = laid_out(slice(1, 5))
    assert shared.members is None
    assert shared.places is None


def runs_of(*tables: list[int]) -> list[tuple[set[int], int]]:
    return sorted((set(run.members), run.shared) for run in find_runs(tables))


def test_runs_are_found_wherever_their_members_stand() -> None:
    one, two = [1, 2, 3, 4], [*range(20, 28)]
    assert runs_of([*one, 9], [*two, 10], [*one, 11, 12], one, [*two, 13]) == [({0, 2, 3}, 4), ({1, 4}, 8)]


def test_samples_of_several_prompts_share_more_than_what_all_have_in_common() -> None:
    """The system prompt is everybody's; reading it once saves less than reading each prompt once."""
    tables = [[1, *range(10 * prompt, 10 * prompt + 5)] for prompt in (1, 2, 3) for _ in range(4)]
    assert runs_of(*tables) == [({0, 1, 2, 3}, 6), ({4, 5, 6, 7}, 6), ({8, 9, 10, 11}, 6)]


def test_a_long_system_prompt_is_shared_whatever_is_asked() -> None:
    system = list(range(1, 40))
    assert runs_of(*([*system, 50 + number] for number in range(6))) == [(set(range(6)), 39)]


@pytest.mark.parametrize(
    "tables",
    [
        [],
        [[1, 2, 3]],
        [[1, 2, 3], [4, 5, 6]],  # nothing
        [[1, 2, 3, 4], [1, 5, 6, 7]],  # too little
        [[], []],  # their newest tokens are in their first blocks
    ],
)
def test_what_does_not_pay_is_not_done(tables: list[list[int]]) -> None:
    assert find_runs(tables) == []


def test_who_shares_nothing_is_in_no_run() -> None:
    shared = [1, 2, 3, 4, 5, 6]
    assert runs_of([*shared, 7], [20, 21], [*shared, 8], [*shared, 9]) == [({0, 2, 3}, 6)]


@pytest.mark.parametrize("window", [None, 6, 34])
@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 5)], ids=["uneven", "even"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_is_the_same_as_by_oneself(dtype: torch.dtype, error: float, rows: slice, window: int | None) -> None:
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

    alone = attended(None)
    assert (attended(laid_out(rows)) - alone).abs().max() < error
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
    attended: list[int] = []
    plain = cascade.attend
    monkeypatch.setattr(cascade, "attend", lambda *given: attended.append(1) or plain(*given))
    engine = small_engine(model, num_blocks=256)
    engine.run([greedy(first, 1), greedy(second, 1)])
    assert [ids(samples) for samples in engine.run([greedy(prompt) for prompt in asked])] == expected
    assert attended


def test_samples_of_prompts_with_one_system_prompt_share_their_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a round of PPO has them, their answers ending at different times."""
    model = tiny_model()
    sizes: list[int] = []
    plain = cascade.attend
    monkeypatch.setattr(cascade, "attend", lambda *given: sizes.append(given[0].shape[1]) or plain(*given))
    system = list(range(10, 15))
    asked = [tuple(system + list(range(30 + 20 * prompt, 49 + 20 * prompt))) for prompt in range(3)]
    params = [SamplingParams(max_tokens=9 + number) for number in range(4)]
    sequences: list[Sequence] = []
    for prompt in asked:
        leader = Sequence(prompt, params[0], 0)
        sequences += [leader, *(Sequence(prompt, params[seed], seed, leader) for seed in (1, 2, 3))]
    engine = small_engine(model, num_blocks=256, max_sequences=12, max_batch_tokens=512)
    together = engine.run(sequences)
    assert max(sizes) > 4, "those of several prompts at once"
    alone = [small_engine(model).run([Sequence(each.prompt_ids, each.params, each.seed)])[0] for each in sequences]
    assert [ids(samples) for samples in together] == [ids(samples) for samples in alone]
