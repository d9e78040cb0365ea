"""Who is trained on and who is measured on: prompts shared out to splits and to stages, by hashes.

Owns the rules and nothing else: no rows, no files. A prompt belongs to a unit, its user or, where it has none, itself
(InstructGPT, arXiv:2203.02155, appendix A: "split by user"), and a unit is in one split as a whole. Invariant: where
a unit goes by a share depends on its name and the seed alone, so that it stays there as data grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from honed.training.configs import Stage

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

# With `disjoint`, a prompt is for one of these; all preference stages learn from the same judgements.
STAGE_GROUPS: Final[Mapping[Stage, int]] = {"sft": 0, "reward": 1, "dpo": 1, "kto": 1, "ppo": 2}

_BITS: Final = 53  # of a float's mantissa, so that no hash rounds up to 1


def unit_of(user: str | None, prefix: int) -> str:
    """The unit of a prompt: its user, or itself. `prefix`: the prompt's key (`prefixes.py`)."""
    return f"prompt {prefix}" if user is None else f"user {user}"


def assign(units: Mapping[str, int], test: float, validation: float, seed: int) -> dict[str, Split]:
    """The split of each unit. `units`: how many prompts each has.

    In the order of their hashes, units go to test, then to validation; the rest is for training. A share below 1 takes
    the hashes of an interval that long. A number from 1 on takes units until it has that many prompts, and passes over
    those with more than are still wanted: never more prompts than asked for, exactly as many where each unit has one.
    """
    places = {unit: place(f"split {unit}", seed) for unit in units}
    waiting = sorted(units, key=lambda unit: (places[unit], unit))
    found: dict[str, Split] = dict.fromkeys(units, "train")
    start = 0.0
    held_out: tuple[tuple[Split, float], ...] = (("test", test), ("validation", validation))
    for split, size in held_out:
        if size < 1:
            taken = [unit for unit in waiting if start <= places[unit] < start + size]
            start += size
        else:
            taken = _lowest([unit for unit in waiting if places[unit] >= start], units, int(size))
            start = max([start, *(places[unit] for unit in taken)])
        found.update((unit, split) for unit in taken)
        waiting = [unit for unit in waiting if found[unit] == "train"]
    return found


def assign_judge(units: Mapping[str, int], test: float, validation: float, seed: int) -> dict[str, Split | None]:
    """For a reward model that judges: the units that `assign` gives to test, shared out to training and validation by
    hashes that have nothing to do with theirs. None for all others."""
    splits = assign(units, test, validation, seed)
    own = {f"judge {unit}": size for unit, size in units.items() if splits[unit] == "test"}
    again = assign(own, 0, validation, seed)
    return {unit: again.get(f"judge {unit}") for unit in units}


def group_of(prefix: int, shares: tuple[float, float, float], seed: int) -> int:
    """Which of STAGE_GROUPS trains on a prompt, by a hash that has nothing to do with its split's."""
    where = place(f"stage {prefix}", seed)
    return 0 if where < shares[0] else 1 if where < shares[0] + shares[1] else 2


def place(name: str, seed: int) -> float:
    """A number in [0, 1), the same in every process."""
    digest = blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") >> (64 - _BITS)) / float(1 << _BITS)


def _lowest(units: list[str], sizes: Mapping[str, int], wanted: int) -> list[str]:
    taken = []
    for unit in units:
        if wanted <= 0:
            break
        if sizes[unit] <= wanted:
            taken.append(unit)
            wanted -= sizes[unit]
    return taken
