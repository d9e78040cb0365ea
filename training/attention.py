"""Attention of packed trees, registered with transformers' `AttentionInterface` as "honed-trees".

A packed batch is one row of many trees (`trees.py`), of which each looks only at itself. A mask over the whole row
would cost the square of the row; here the trees are laid side by side, those within a power of two padded to the
longest of them, attend, and go back into the row. `tree_attention` is handed a `Layout` as the keyword argument
`layout`, which transformers' modules pass through. Invariant: padding reaches no token and no gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that torch's documentation uses)
from transformers import AttentionInterface

from honed.models.engine.attention import attend_explicitly, repeat_heads
from honed.training.failures import TrainingError

ATTENTION = "honed-trees"
ALIGNMENT = 8  # tokens: what torch's fused kernels want of a mask's rows
PADDING = -1
LONG = 256  # tokens of a tree: from here on a CPU's fused kernel is the faster one, on the way back as well
NO_ATTENTION = "has an attention of its own, which knows no packed texts: take another, such as Llama, Qwen or Gemma 3."


@dataclass(frozen=True, slots=True)
class Stack:
    """B trees of about one length, padded to L tokens. Theirs are the places `[first, first + B * L)` of the layout."""

    first: int
    branches: Tensor  # (B, L): 0 in the prompt, from 1 in the answers, PADDING behind the tree
    positions: Tensor  # (B, L)
    biases: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)  # filled when first asked for

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, L, L): 0 where a token may look, minus infinity elsewhere. It may look at its prompt and at its own
        answer up to itself, and not further back than the window; padding looks at itself too, or it would be NaN."""
        if (window, dtype) not in self.biases:
            branches = self.branches
            order = torch.arange(branches.shape[1], device=branches.device)
            is_own = branches[:, :, None] == branches[:, None, :]
            visible = (order[:, None] >= order) & (is_own | (branches[:, None, :] == 0))
            if window is not None:
                visible &= self.positions[:, :, None] - self.positions[:, None, :] < window
            bias = torch.zeros(visible.shape, dtype=dtype, device=branches.device)
            self.biases[window, dtype] = bias.masked_fill_(~visible, -torch.inf)
        return self.biases[window, dtype]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where T tokens of a row stand in P padded places, and which token fills each place."""

    slots: Tensor  # (T,): the place of each token
    places: Tensor  # (P,): the token of each place; padding repeats one of its tree
    is_padding: Tensor  # (P, 1)
    stacks: Sequence[Stack]
    windows: set[int | None] = field(default_factory=set)  # that layers asked for: the check of an architecture


def lay_out(trees: Sequence[Sequence[int]], device: torch.device | str) -> Layout:
    """`trees`: the lengths of each tree's prompt and answers, in the order of the row."""
    sizes = [sum(lengths) for lengths in trees]
    starts = [0, *accumulate(sizes)]
    alike: dict[int, list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        alike[(size - 1).bit_length()].append(number)
    slots = [0] * starts[-1]
    places: list[int] = []
    stacks = []
    for _, numbers in sorted(alike.items()):
        length = -(-max(sizes[number] for number in numbers) // ALIGNMENT) * ALIGNMENT
        first, branches, positions = len(places), [], []
        for number in numbers:
            start, size, missing = starts[number], sizes[number], length - sizes[number]
            slots[start : start + size] = range(len(places), len(places) + size)
            places += [*range(start, start + size), *[start] * missing]
            branches += [branch for branch, count in enumerate(trees[number]) for _ in range(count)]
            branches += [PADDING] * missing
            positions += [*_positions(trees[number]), *[0] * missing]
        of_branches, of_positions = (
            torch.tensor(table, device=device).view(-1, length) for table in (branches, positions)
        )
        stacks.append(Stack(first, of_branches, of_positions))
    is_padding = torch.cat([stack.branches.flatten() for stack in stacks])[:, None] == PADDING
    return Layout(torch.tensor(slots, device=device), torch.tensor(places, device=device), is_padding, stacks)


def _positions(lengths: Sequence[int]) -> list[int]:
    """Answers go on from the end of the prompt."""
    prompt, *answers = lengths
    return [*range(prompt), *(position for count in answers for position in range(prompt, prompt + count))]


def tree_attention(
    module: nn.Module,  # noqa: ARG001 (as `attention_mask`)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (transformers' calling convention; ours comes with `layout`)
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,  # dropout and flags of other attention functions
) -> tuple[Tensor, None]:
    """query: (1, heads, T, D), key and value: (1, kv_heads, T, D). Returns (1, T, heads, D).
    Without a layout the row is one text, read from its beginning. Raises TrainingError for anything else.
    """
    if layout is None:
        if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
            raise TrainingError("This attention is for packed texts: set transformers' own to ask the model otherwise.")
        layout = lay_out([[query.shape[2]]], query.device)
    layout.windows.add(sliding_window)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    spread = [_spread(each[0], layout) for each in (query, key, value)]
    outputs = []
    for stack in layout.stacks:
        batch, length = stack.branches.shape
        own = slice(stack.first, stack.first + batch * length)
        q, k, v = (each[:, own].view(each.shape[0], batch, length, -1) for each in spread)
        k, v = repeat_heads(k, len(q)), repeat_heads(v, len(q))
        bias = stack.bias(sliding_window, query.dtype)
        if softcap is not None or s_aux is not None:
            out = attend_explicitly(q, k, v, bias == 0, scale, softcap, s_aux)
        else:
            if length >= LONG and bias.device.type == "cpu":
                bias = bias[None]  # without the dimension of heads the fused kernel does not take it
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        outputs.append(out.flatten(1, 2))
    return _collect(torch.cat(outputs, dim=1), layout).transpose(0, 1).unsqueeze(0), None


def _spread(x: Tensor, layout: Layout) -> Tensor:
    """Tokens (heads, T, D) -> places (heads, P, D)."""
    found: Tensor = _Spread.apply(x, layout)  # type: ignore[no-untyped-call]  # torch has no types for it
    return found


def _collect(x: Tensor, layout: Layout) -> Tensor:
    """Places (heads, P, D) -> tokens (heads, T, D)."""
    found: Tensor = _Collect.apply(x, layout)  # type: ignore[no-untyped-call]  # torch has no types for it
    return found


class _Spread(torch.autograd.Function):
    """Padding's gradient is 0, as nothing looks at it: a token's is that of its own place, and no sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return x.index_select(1, layout.places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout
        return gradient.index_select(1, layout.slots), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return x.index_select(1, layout.slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout
        return gradient.index_select(1, layout.places).masked_fill_(layout.is_padding, 0.0), None


AttentionInterface.register(ATTENTION, tree_attention)
