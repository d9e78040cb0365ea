"""The weights of a model in training as they are saved: whole, with adapters folded in, gathered from all ranks."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from honed.training.adapters import fold_adapters, folded_state, has_adapters
from honed.training.run import Run
from honed.training.sharding import is_sharded, whole

LEAST_LEFT: Final = 0.9


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state to be saved. Every rank must ask; what shares a memory goes on sharing it."""
    state = _state(module)
    gathered: dict[int | str, Tensor] = {}
    return {name: gathered.setdefault(_place(each) or name, whole(each)) for name, each in state.items()}


def fold(run: Run[Any], module: nn.Module) -> None:
    """Folds adapters in for good, so that what is measured from here on is what is saved. Those of a model that is
    shared out are folded in when it is gathered to be saved."""
    if not has_adapters(module) or is_sharded(module):
        return
    left = fold_adapters(module)
    if left < LEAST_LEFT:
        run.tracker.note(
            f"Rounding to {str(run.dtype).removeprefix('torch.')} leaves {left:.0%} of what the adapters learned: "
            "raise --learning-rate, or take --dtype float32."
        )


@torch.no_grad()
def copy_whole(module: nn.Module, into: nn.Module) -> None:
    """The same into a model without adapters, in its number format, one tensor after the other."""
    state = _state(module)
    for name, own in into.state_dict().items():
        own.copy_(whole(state[name]))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return folded_state(module) if has_adapters(module) else module.state_dict()


def _place(tensor: Tensor) -> int:
    """Where its memory is, that of this rank's share; 0 where the rank has nothing of it."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).data_ptr()
