"""The weights of a model in training as they are saved: whole, with adapters folded in, gathered from all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from honed.training.adapters import folded_state, has_adapters
from honed.training.sharding import whole


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state to be saved. Every rank must ask; what shares a memory goes on sharing it."""
    state = _state(module)
    gathered: dict[int | str, Tensor] = {}
    return {name: gathered.setdefault(_place(each) or name, whole(each)) for name, each in state.items()}


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
