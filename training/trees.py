"""Trees of tokens -> flat batches without padding: a prompt is computed once for all of its answers.

A `Tree` is a prompt and the answers to it. `pack` puts trees one after the other into a single row; a token sees the
prompt of its tree and its own answer up to itself (`attention.py`). Positions go on from the end of the prompt in every
answer, so that each has the numbers that it would have alone. `plan` shares trees out to passes.

Invariant: which trees share a pass, and on which rank, changes no result but by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from honed.training.attention import Layout, lay_out


@dataclass(frozen=True, slots=True)
class Tree:
    """Token ids of a prompt and of the answers to it, none of which is empty."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))

    @property
    def num_answer_tokens(self) -> int:
        return sum(map(len, self.answers))


@dataclass(frozen=True, slots=True)
class Packed:
    """A flat batch of T tokens with A answers of N tokens in all; answers are in the order of the trees.

    `targets` says for each answer token where it stands, and `predictors` where the token before it does: there the
    model predicts it, and there is the value of the state before it.
    """

    ids: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    layout: Layout  # who sees whom
    targets: Tensor  # (N,)
    predictors: Tensor  # (N,)
    ends: Tensor  # (A,): where each answer's last token stands

    @property
    def target_ids(self) -> Tensor:
        return self.ids[0, self.targets]


def pack(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Packed:
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    predictors: list[int] = []
    ends: list[int] = []
    for tree in trees:
        last = len(ids) + len(tree.prompt) - 1
        for branch, tokens in enumerate((tree.prompt, *tree.answers)):
            start = len(ids)
            first_position = len(tree.prompt) if branch else 0
            ids += tokens
            positions += range(first_position, first_position + len(tokens))
            if branch:
                targets += range(start, len(ids))
                predictors += [last, *range(start, len(ids) - 1)]
                ends.append(len(ids) - 1)

    def tensor(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=device)

    return Packed(
        ids=tensor(ids)[None],
        positions=tensor(positions)[None],
        layout=lay_out([[len(tree.prompt), *map(len, tree.answers)] for tree in trees], device),
        targets=tensor(targets),
        predictors=tensor(predictors),
        ends=tensor(ends),
    )


def divided(tree: Tree, budget: int) -> list[Tree]:
    """The tree, or where it is larger than `budget` several, each with the prompt and as many answers as fit, in order:
    for passes in which answers have nothing to do with each other."""
    parts: list[list[tuple[int, ...]]] = []
    room = 0
    for answer in tree.answers:
        if not parts or len(answer) > room:
            parts.append([])
            room = budget - len(tree.prompt)
        parts[-1].append(answer)
        room -= len(answer)
    return [Tree(tree.prompt, tuple(answers)) for answers in parts]


def plan(sizes: Sequence[int], budget: int, multiple_of: int = 1) -> list[list[int]]:
    """Shares items of `sizes` tokens out to passes of at most `budget` (a larger item gets one alone).

    Returns lists of indices, each sorted; first-fit decreasing, so the same for the same sizes. The number of passes
    is a multiple of `multiple_of`, the number of ranks: where it would not be, the fullest are divided, and where
    nothing is left to divide, passes are empty.
    """
    bins: list[list[int]] = []
    loads: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[index]
        place = next((b for b, load in enumerate(loads) if load + size <= budget), None)
        if place is None:
            bins.append([index])
            loads.append(size)
        else:
            bins[place].append(index)
            loads[place] += size
    while len(bins) % multiple_of:
        fullest = max(range(len(bins)), key=lambda b: (len(bins[b]) > 1, sum(sizes[i] for i in bins[b])))
        divided = bins[fullest]
        bins[fullest], rest = divided[::2], divided[1::2]
        bins.append(rest)
    return [sorted(each) for each in bins]
