"""Splits: exact where numbers are asked for, stable where shares are, and a matter of names and the seed alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.training.data.splits import assign, group_of, place, unit_of

PROMPTS = {unit_of(None, prefix): 1 for prefix in range(252)}


def test_a_place_is_the_same_in_every_process() -> None:
    """Written down: were it to change, runs would train on what older ones had held out."""
    assert place("split prompt 1", 0) == pytest.approx(0.8599926779337694)
    assert place("split prompt 1", 1) != place("split prompt 1", 0)


def test_numbers_are_exact_where_each_unit_is_a_prompt() -> None:
    assert Counter(assign(PROMPTS, 0, 52, 0).values()) == {"train": 200, "validation": 52}
    assert Counter(assign(PROMPTS, 30, 52, 0).values()) == {"train": 170, "validation": 52, "test": 30}


def test_test_goes_first_then_validation_in_the_order_of_the_hashes() -> None:
    splits = assign(PROMPTS, 30, 52, 0)
    in_order = sorted(PROMPTS, key=lambda unit: place(f"split {unit}", 0))
    assert [splits[unit] for unit in in_order] == ["test"] * 30 + ["validation"] * 52 + ["train"] * 170


def test_a_share_is_an_interval_of_hashes() -> None:
    splits = assign(PROMPTS, 0.1, 0.2, 0)
    for unit, split in splits.items():
        where = place(f"split {unit}", 0)
        assert split == ("test" if where < 0.1 else "validation" if where < 0.1 + 0.2 else "train")
    assert set(splits.values()) == {"train", "validation", "test"}


def test_what_is_added_moves_nobody_where_shares_are_asked_for() -> None:
    few = dict.fromkeys(list(PROMPTS)[:40], 1)
    before, after = assign(few, 0.1, 0.2, 3), assign(PROMPTS, 0.1, 0.2, 3)
    assert before == {unit: after[unit] for unit in few}


def test_another_seed_draws_others() -> None:
    assert assign(PROMPTS, 0, 52, 0) != assign(PROMPTS, 0, 52, 1)


def test_a_number_and_a_share_do_not_overlap() -> None:
    splits = assign(PROMPTS, 30, 0.2, 0)
    last = max(place(f"split {unit}", 0) for unit, split in splits.items() if split == "test")
    found = [place(f"split {unit}", 0) for unit, split in splits.items() if split == "validation"]
    assert len(found) > 20
    assert last < min(found) < max(found) < last + 0.2


def test_a_user_with_more_prompts_than_are_wanted_is_passed_over() -> None:
    in_order = sorted([unit_of(f"{n}", 0) for n in range(9)], key=lambda unit: place(f"split {unit}", 0))
    sizes = dict(zip(in_order, [3, 9, 1, 4, 2, 1, 9, 9, 9], strict=True))
    splits = assign(sizes, 0, 6, 0)
    assert [unit for unit in in_order if splits[unit] == "validation"] == [in_order[at] for at in (0, 2, 4)]


def test_nothing_is_held_out_unless_it_is_asked_for() -> None:
    assert set(assign(PROMPTS, 0, 0, 0).values()) == {"train"}


sizes = st.one_of(st.integers(1, 30), st.floats(0, 0.99))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(1, 9), max_size=30), sizes, sizes, st.integers(0, 3))
def test_each_unit_gets_a_split_and_no_number_is_exceeded(
    units: dict[str, int], test: float, validation: float, seed: int
) -> None:
    splits = assign(units, test, validation, seed)
    assert splits.keys() == units.keys()
    for split, size in (("test", test), ("validation", validation)):
        if size >= 1:
            assert sum(units[unit] for unit in units if splits[unit] == split) <= size


def test_a_prompt_is_one_stages_by_shares_that_splits_do_not_see() -> None:
    groups = {prefix: group_of(prefix, (0.2, 0.45, 0.35), 0) for prefix in range(3000)}
    shares = [count / 3000 for _, count in sorted(Counter(groups.values()).items())]
    assert shares == pytest.approx([0.2, 0.45, 0.35], abs=0.03)
    splits = assign({unit_of(None, prefix): 1 for prefix in groups}, 0, 0.5, 0)
    held_out = [groups[prefix] for prefix in groups if splits[unit_of(None, prefix)] == "validation"]
    assert [count / len(held_out) for _, count in sorted(Counter(held_out).items())] == pytest.approx(shares, abs=0.03)


def test_all_is_one_stages_where_it_has_all_shares() -> None:
    assert {group_of(prefix, (1.0, 0.0, 0.0), 0) for prefix in range(99)} == {0}
    assert {group_of(prefix, (0.0, 0.0, 1.0), 0) for prefix in range(99)} == {2}


def test_a_user_and_a_prompt_of_the_same_name_are_two_units() -> None:
    assert unit_of("7", 7) != unit_of(None, 7)
    assert unit_of("ann", 1) == unit_of("ann", 2)
