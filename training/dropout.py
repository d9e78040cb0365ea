"""Residual dropout for supervised training (Ouyang et al. 2022, appendix C.1: 0.2), which most models' code lacks.

It falls on what each attention and each feed-forward block adds to the residual stream. RL never has it: the ratio of
new to old probabilities must be 1 until something was learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that torch's documentation uses)

from honed.training.failures import TrainingError

_BLOCKS = ("self_attn", "attn", "attention", "mlp", "feed_forward")


class _Dropping:
    """The hook of a block; `share` 0 lets everything through."""

    def __init__(self, share: float) -> None:
        self.share = self.usual = share

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self.share:
            return output
        if isinstance(output, Tensor):
            return F.dropout(output, self.share)
        return (F.dropout(output[0], self.share), *output[1:])


def add(model: nn.Module, share: float) -> list[_Dropping]:
    """Hooks on the model's blocks. Raises TrainingError where there are none that are known."""
    if not share:
        return []
    lists = [list(each) for each in model.modules() if isinstance(each, nn.ModuleList)]
    layers = max(lists, key=len, default=[])
    blocks = [child for layer in layers for name, child in layer.named_children() if name in _BLOCKS]
    if len(blocks) != 2 * len(layers) or not blocks:
        raise TrainingError(f"--dropout: the blocks of {type(model).__name__} are not known; set it to 0.")
    hooks = []
    for block in blocks:
        hooks.append(_Dropping(share))
        block.register_forward_hook(hooks[-1])
    return hooks


@contextmanager
def off(hooks: list[_Dropping]) -> Iterator[None]:
    """No dropout for the block."""
    for hook in hooks:
        hook.share = 0.0
    try:
        yield
    finally:
        for hook in hooks:
            hook.share = hook.usual
