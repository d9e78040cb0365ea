"""The weights of a model in training as they are saved: whole, with adapters folded in, gathered from all ranks."""

from __future__ import annotations

from torch import Tensor, nn

from honed.training.adapters import folded_state, has_adapters
from honed.training.sharding import whole


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state to be saved. Every rank must ask; what shares a memory goes on sharing it."""
    state = folded_state(module) if has_adapters(module) else module.state_dict()
    gathered: dict[int, Tensor] = {}
    return {name: gathered.setdefault(each.data_ptr(), whole(each)) for name, each in state.items()}
